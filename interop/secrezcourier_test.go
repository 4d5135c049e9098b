package interop

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/secretstack/secretstack/courier"
	"github.com/secretstack/secretstack/hub"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/secrez"
)

// Secrez's command line, with Secrez's own crypto package and node's TLS, uses
// our courier as its own. What it does is in js/secrezcli.js.

// secrezUser is somebody with that command line and a courier of ours.
type secrezUser struct {
	t    *testing.T
	node *node
	name string
	key  string
	port int
	ca   string
	run  *courier.Courier
}

func newSecrezUser(t *testing.T, name, hubURL string) *secrezUser {
	t.Helper()
	dir, err := os.MkdirTemp("", "courier") // short: it holds a socket
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	must(t, l.Close())
	u := &secrezUser{t: t, node: startNode(t, "secrezcli.js"), name: name, port: l.Addr().(*net.TCPAddr).Port}
	u.node.do(t, "publicKey", map[string]any{"name": name}, &u.key)
	owner, err := secrez.ParsePublicKey(u.key)
	must(t, err)
	id, err := keys.Generate()
	must(t, err)
	u.run, err = courier.Start(t.Context(), courier.Config{
		Identity: id, Dir: dir, Logger: slog.New(slog.DiscardHandler),
		Secrez: courier.SecrezConfig{Hub: hubURL, Port: uint16(u.port), Owner: owner},
	})
	must(t, err)
	t.Cleanup(func() { must(t, u.run.Close(context.Background())) })
	return u
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// call makes a call of the command line.
func (u *secrezUser) call(path string, body map[string]any) map[string]any {
	u.t.Helper()
	var got struct {
		Status int
		Body   string
	}
	u.node.do(u.t, "call", map[string]any{"port": u.port, "path": path, "name": u.name, "body": body, "ca": u.ca}, &got)
	var answer map[string]any
	if err := json.Unmarshal([]byte(got.Body), &answer); err != nil {
		u.t.Fatalf("%s: %d, %q", path, got.Status, got.Body)
	}
	return answer
}

func (u *secrezUser) admin(action map[string]any) map[string]any {
	u.t.Helper()
	return u.call("/admin", map[string]any{"action": action})
}

func TestSecrezCommandLinesTalkThroughOurCouriers(t *testing.T) {
	requireNode(t)
	cfg := hub.Config{Dir: t.TempDir(), Listen: []string{"127.0.0.1:0"}, TunnelAddress: "127.0.0.1", Logger: slog.New(slog.DiscardHandler)}
	cfg.Limits.Registry.MinFree = -1
	h, err := hub.New(t.Context(), cfg)
	must(t, err)
	go func() { _ = h.Serve(context.Background()) }()
	t.Cleanup(func() {
		ctx, stop := context.WithTimeout(context.Background(), 20*time.Second)
		defer stop()
		must(t, h.Close(ctx))
	})
	hubURL := "http://localhost:" + strconv.Itoa(h.Addrs()[0].(*net.TCPAddr).Port)

	alice, bob := newSecrezUser(t, "alice", hubURL), newSecrezUser(t, "bob", hubURL)
	urls := map[*secrezUser]string{}
	for _, u := range []*secrezUser{alice, bob} {
		u.ca, _ = u.admin(map[string]any{"name": "ready"})["caCrt"].(string) // from now on nothing else is trusted
		info, _ := u.admin(map[string]any{"name": "publish"})["info"].(map[string]any)
		urls[u], _ = info["url"].(string)
		if u.ca == "" || urls[u] == "" {
			t.Fatalf("ready or publish: %v", info)
		}
	}
	for u, other := range map[*secrezUser]*secrezUser{alice: bob, bob: alice} {
		if got := u.admin(map[string]any{"name": "add", "publicKey": other.key, "url": urls[other]}); got["success"] != true {
			t.Fatalf("add: %v", got)
		}
	}
	text := "ciao 世界 " + strings.Repeat("x", 2000)
	var message map[string]any
	alice.node.do(t, "seal", map[string]any{"name": "alice", "to": bob.key, "text": text}, &message)
	if got := alice.admin(map[string]any{"name": "send", "recipient": bob.key, "message": message}); got["success"] != true {
		t.Fatalf("send: %v", got)
	}
	for u, other := range map[*secrezUser]*secrezUser{alice: bob, bob: alice} { // a sender can open what he has sent
		got := u.call("/messages", map[string]any{"from": other.key})
		result, _ := got["result"].([]any)
		if len(result) != 1 {
			t.Fatalf("%s's messages: %v", u.name, got)
		}
		var opened string
		u.node.do(t, "open", map[string]any{"name": u.name, "from": other.key, "payload": result[0].(map[string]any)["payload"]}, &opened)
		if opened != text {
			t.Errorf("%s reads %.40q", u.name, opened)
		}
	}
	if got := alice.call("/admin", map[string]any{"action": map[string]any{"name": "nope"}}); got["error"] != "Unknown action" {
		t.Errorf("an unknown action: %v", got)
	}
	alice.name = "mallory"
	if got := alice.admin(map[string]any{"name": "ready"}); got["error"] != "Unauthorized" {
		t.Errorf("a stranger: %v", got)
	}
}
