package hubclient_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/hub/native"
	"github.com/secretstack/secretstack/hub/registry/claim"
	"github.com/secretstack/secretstack/internal/memnet"
	"github.com/secretstack/secretstack/internal/testkit"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/muxrpc"
	"github.com/secretstack/secretstack/plugins/hubclient"
	"github.com/secretstack/secretstack/secrez"
)

var identity = testkit.Identity

func secrezKey(t testing.TB, key keys.PublicKey) secrez.PublicKey {
	t.Helper()
	k, err := secrez.DerivePublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func parsedID(t testing.TB, text string) secrez.ID {
	t.Helper()
	id, err := secrez.ParseID(text)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// fakeHub is as much of a hub as a courier sees, with everything it does open to change.
type fakeHub struct {
	t    *testing.T
	id   *keys.Identity
	app  *secretstack.App
	dead chan struct{} // closed: it answers nothing any more

	mu         sync.Mutex
	nextID     int
	records    map[[32]byte]claim.Receipt
	statements []claim.Statement // what was published
	receipts   []*claim.Receipt  // with it
	requests   []native.PublishRequest
	refuse     error                          // what publishing is answered with
	alter      func(a *native.Published)      // before it is answered
	invite     string                         // asked for, if any
	couriers   map[[32]byte]*secretstack.Peer // the latest connection of each
	published  chan *secretstack.Peer
	more       func(s *secretstack.Setup) error // adds methods; nil: there are no others
}

var ids = []string{"7y-6ro-3z", "aa-bbb-cc", "dd-eee-ff", "gg-hhh-jj"}

// world is a network in memory.
type world struct{ *memnet.Network }

func (w world) hub(t *testing.T, name string) *fakeHub {
	t.Helper()
	return w.hubWith(t, name, nil)
}

// hubWith starts a hub with more methods: those of mailboxes.
func (w world) hubWith(t *testing.T, name string, more func(s *secretstack.Setup) error) *fakeHub {
	t.Helper()
	f := &fakeHub{
		t: t, id: identity(t, name), dead: make(chan struct{}), records: map[[32]byte]claim.Receipt{},
		couriers: map[[32]byte]*secretstack.Peer{}, published: make(chan *secretstack.Peer, 64), more: more,
	}
	f.start(w, name)
	return f
}

func (f *fakeHub) start(w world, name string) {
	f.t.Helper()
	permitted := secretstack.Anonymous("publish", "reset", "whois", "status")
	if f.more != nil {
		permitted = secretstack.Anonymous("publish", "reset", "whois", "status", "deposit", "allow", "mailbox", "acknowledge", "mailboxStatus")
	}
	plugin := secretstack.NewPlugin(secretstack.Info{Name: "hub", Permissions: permitted},
		func(_ context.Context, s *secretstack.Setup) error {
			var err error
			if f.more != nil {
				err = f.more(s)
			}
			return errors.Join(err,
				muxrpc.HandleAsync(s, "publish", f.publish),
				muxrpc.HandleAsync(s, "reset", f.reset),
				muxrpc.HandleAsync(s, "whois", f.whois),
				muxrpc.HandleAsync(s, "status", f.status),
			)
		})
	f.app = w.start(f.t, name, secretstack.Config{Identity: f.id}, plugin)
}

func (w world) start(t testing.TB, name string, cfg secretstack.Config, plugins ...secretstack.Plugin) *secretstack.App {
	t.Helper()
	stack := secretstack.New(secretstack.Options{Bare: true})
	if err := stack.Use(append(plugins, memnet.Plugin(w.Network, memnet.RealHandshakes), secretstack.SHSPlugin())...); err != nil {
		t.Fatal(err)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Settings == nil {
		cfg.Settings = secretstack.Settings{}
	}
	cfg.Settings["memory"] = map[string]any{"name": name}
	app, err := stack.Start(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := app.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return app
}

// address is where the hub is, on a name of the network.
func (f *fakeHub) address(name string) string {
	return "mem:" + name + ".shs~shs:" + f.id.Public().Base64()
}

func (f *fakeHub) publish(ctx context.Context, request native.PublishRequest) (native.Published, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests = append(f.requests, request)
	if f.refuse != nil {
		return native.Published{}, f.refuse
	}
	if request.Invite != f.invite {
		return native.Published{}, (&native.Error{Code: native.InviteNeeded, Text: "who sends you?"}).ForPeer()
	}
	statement, err := f.verified(ctx, request.Signed)
	if err != nil {
		return native.Published{}, err
	}
	f.statements = append(f.statements, statement)
	f.receipts = append(f.receipts, request.Receipt)
	p := secretstack.PeerFrom(ctx)
	f.couriers[p.Key().Array()] = p
	f.published <- p
	if _, known := f.records[p.Key().Array()]; !known {
		f.give(p.Key(), 1)
	}
	return f.answer(p.Key()), nil
}

func (f *fakeHub) verified(ctx context.Context, signed claim.Signed) (claim.Statement, error) {
	s, err := signed.Verify()
	if err != nil || !s.Hub.Equal(f.id.Public()) || !s.Key.Equal(secretstack.PeerFrom(ctx).Key()) {
		f.t.Errorf("a statement that is none: %v, %+v", err, s)
	}
	return s, err
}

func (f *fakeHub) give(key keys.PublicKey, sequence uint64) {
	r := claim.Receipt{Key: key, ID: parsedID(f.t, ids[f.nextID]), Sequence: sequence, Time: time.Now()}
	f.nextID++
	f.records[key.Array()] = r.Sign(f.id)
}

func (f *fakeHub) answer(key keys.PublicKey) native.Published {
	r := f.records[key.Array()]
	a := native.Published{
		ID: r.ID, Sequence: r.Sequence, Receipt: r, URL: "https://" + r.ID.String() + ".hub.example.org", Hub: "the hub",
		PublicKey: secrezKey(f.t, key),
	}
	if f.alter != nil {
		f.alter(&a)
	}
	return a
}

func (f *fakeHub) reset(ctx context.Context, request native.ResetRequest) (native.Published, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s, err := f.verified(ctx, request.Signed)
	if err != nil {
		return native.Published{}, err
	}
	r := f.records[s.Key.Array()]
	if s.Action != claim.Reset || s.ID != r.ID || s.Sequence != r.Sequence+1 {
		return native.Published{}, (&native.Error{Code: native.Stale, Text: "not your id"}).ForPeer()
	}
	f.give(s.Key, s.Sequence)
	return f.answer(s.Key), nil
}

func (f *fakeHub) whois(_ context.Context, q native.WhoisRequest) (native.Who, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for key, r := range f.records {
		if r.ID == q.ID || !q.Key.IsZero() && key == q.Key.Array() {
			return native.Who{ID: r.ID, Key: r.Key, PublicKey: secrezKey(f.t, r.Key), Online: true}, nil
		}
	}
	return native.Who{}, (&native.Error{Code: native.Unknown, Text: "nobody"}).ForPeer()
}

func (f *fakeHub) status(ctx context.Context, _ muxrpc.None) (native.Status, error) {
	select {
	case <-f.dead:
		<-ctx.Done()
		return native.Status{}, ctx.Err()
	default:
		return native.Status{Admission: "open"}, nil
	}
}

// set changes what the hub does.
func (f *fakeHub) set(change func(f *fakeHub)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

// peer returns the latest connection of a courier.
func (f *fakeHub) peer(key keys.PublicKey) *secretstack.Peer {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.couriers[key.Array()]
}

// courier starts an app with the plugin.
func (w world) courier(t *testing.T, name, dir string, cfg hubclient.Config) (*secretstack.App, *hubclient.Client) {
	t.Helper()
	app := w.start(t, name, secretstack.Config{Identity: identity(t, name), Dir: dir}, hubclient.Plugin(cfg))
	c, ok := secretstack.Find[*hubclient.Client](app)
	if !ok {
		t.Fatal("the plugin exports no client")
	}
	return app, c
}

// await waits until the status of the first hub is as wanted, and returns it.
func await(t *testing.T, c *hubclient.Client, what string, wanted func(s hubclient.Status) bool) hubclient.Status {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(context.Background(), 24*time.Hour, fmt.Errorf("not %s", what))
	defer cancel()
	for all := range c.Watch(ctx) {
		if wanted(all[0]) {
			return all[0]
		}
	}
	t.Fatalf("not %s: %+v", what, c.Hubs()[0])
	return hubclient.Status{}
}

func online(s hubclient.Status) bool  { return s.Online }
func offline(s hubclient.Status) bool { return !s.Online }
