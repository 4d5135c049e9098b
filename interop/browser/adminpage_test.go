package browser

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/hub"
	"github.com/secretstack/secretstack/hub/admin"
	"github.com/secretstack/secretstack/hub/native"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/plugins/hubclient"
)

// operated is a hub with its operator's listener.
type operated struct {
	*hub.Hub
	url   string // of the operator's listener
	token string
}

func newHub(t *testing.T) *operated {
	t.Helper()
	dir := t.TempDir()
	h, err := hub.New(t.Context(), hub.Config{
		Dir: dir, Version: "1.2.3", Listen: []string{"127.0.0.1:0"}, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 2)
	go func() { served <- h.Serve(context.Background()) }()
	handler, err := h.Operator()
	if err != nil {
		t.Fatal(err)
	}
	operator := admin.NewServer(handler, slog.New(slog.DiscardHandler))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { served <- operator.Serve(ln) }()
	t.Cleanup(func() {
		if err := errors.Join(operator.Close(), h.Close(context.Background())); err != nil {
			t.Error(err)
		}
		for range 2 {
			if err := <-served; err != nil && !errors.Is(err, http.ErrServerClosed) {
				t.Error(err)
			}
		}
	})
	token, err := os.ReadFile(filepath.Join(dir, "admin-token"))
	if err != nil {
		t.Fatal(err)
	}
	return &operated{h, "http://" + ln.Addr().String(), strings.TrimSpace(string(token))}
}

// address is where couriers find the hub.
func (h *operated) address() string {
	return "net:" + h.Addrs()[0].String() + "~shs:" + h.About().Key.Base64()
}

// newCourier starts an app that publishes itself at a hub.
func newCourier(t *testing.T, at hubclient.Hub) (*hubclient.Client, keys.PublicKey) {
	t.Helper()
	stack := secretstack.New(secretstack.Options{})
	plugin := hubclient.Plugin(hubclient.Config{
		Hubs: []hubclient.Hub{at}, Handler: http.NotFoundHandler(), RetryMin: 50 * time.Millisecond, RetryMax: time.Second,
	})
	if err := stack.Use(plugin); err != nil {
		t.Fatal(err)
	}
	identity, err := keys.Generate()
	if err != nil {
		t.Fatal(err)
	}
	app, err := stack.Start(context.Background(), secretstack.Config{
		Identity: identity, Host: "127.0.0.1", Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := app.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	client, _ := secretstack.Find[*hubclient.Client](app)
	return client, identity.Public()
}

// online waits until a courier is, and gives its id.
func online(t *testing.T, client *hubclient.Client) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for all := range client.Watch(ctx) {
		if all[0].Online {
			return all[0].ID.String()
		}
	}
	t.Fatalf("the courier is not online: %+v", client.Hubs())
	return ""
}

func (h *operated) login(b *tab) {
	b.t.Helper()
	b.open("/")
	b.enter(`input[name="token"]`, h.token)
	b.sees("Ids registered")
}

func TestAnOperatorPutsACourierOut(t *testing.T) {
	h := newHub(t)
	client, key := newCourier(t, hubclient.Hub{Address: h.address()})
	id := online(t, client)
	b := openTab(t, h.url)
	b.open("/login")
	b.looks("login")
	b.enter(`input[name="token"]`, "a wrong token")
	b.sees("This is not the token.")
	h.login(b)
	b.sees(id)
	b.sees("native")
	b.looks("couriers")

	b.enter(`input[name="q"]`, "nobody")
	b.sees("Nobody who is online matches.")
	b.click(".empty a")
	b.click(`a[aria-label="Deny ` + id + `"]`)
	b.sees("Add a rule")
	if who := result(b, chromedp.Value(`input[name="who"]`)); who != key.Ref() {
		t.Errorf("the form is about %q", who)
	}
	b.enter(`input[name="note"]`, "sends too much")
	b.sees("The rule was added.")
	b.looks("lists")
	b.click(`nav a[href="/"]`)
	b.sees("Nobody is connected.")
	if couriers := h.Couriers(); len(couriers) > 0 {
		t.Errorf("there is still %v", couriers)
	}
	b.click(`nav a[href="/status"]`)
	b.sees("denied")
	b.looks("status")

	b.click(`nav a[href="/lists"]`)
	b.click(`button[aria-label^="Remove the rule"]`)
	b.sees("There are no rules.")
	b.click(`nav a[href="/"]`)
	b.sees(id) // it comes back by itself, and the page shows it without being loaded again
	b.click(`button[aria-label="Disconnect ` + id + `"]`)
	b.sees("The connections were closed.")
	b.click(".out button")
	b.sees("Log in")
	b.open("/invites")
	b.sees("Log in")
}

func TestAnOperatorInvitesSomebody(t *testing.T) {
	h := newHub(t)
	b := openTab(t, h.url)
	h.login(b)
	b.click(`nav a[href="/lists"]`)
	b.click(`input[value="invite"]`)
	b.click(".modes button")
	b.sees("The mode was changed.")
	b.click(`nav a[href="/invites"]`)
	b.sees("There are no invites.")
	b.enter(`input[name="note"]`, "Alice")
	b.sees("Invite for Alice")
	b.looks("invites")
	link := result(b, chromedp.Value("#link"))
	if read := b.readQR(".qr"); read != link || link == "" {
		t.Errorf("the picture says %q, the text %q", read, link)
	}
	parsed, err := native.ParseLink(link)
	if err != nil {
		t.Fatal(err)
	}
	client, _ := newCourier(t, hubclient.Hub{Address: h.address(), Invite: parsed.Invite})
	id := online(t, client)
	b.sees("1 of 1") // without being loaded again
	b.sees("used up")
	b.click(`nav a[href="/"]`)
	b.sees(id)
}
