// Package hubclient is a peer's side of a hub. The plugin keeps an app connected to one hub or several, gives it an id
// there, and serves HTTP at that id with a handler of the app's own, wherever the app is.
//
//	stack.Use(hubclient.Plugin(hubclient.Config{
//		Hubs:    []hubclient.Hub{{Address: "net:hub.example.org:8433~shs:KEY"}},
//		Handler: mux,
//	}))
//
// An id belongs to the app's key for ever, or until [Client.Reset]. What the hub has signed about it is kept in the
// plugin's folder and shown again with each connection, so that even a hub that has lost its memory gives the id back.
//
// A hub may be a room that knows nothing of ids, such as those in JavaScript. Then the app stays connected to it all the same,
// and with the plugin tunnel beside this one it is reached through the room: see [ErrRoom].
//
// A hub that the app has connected to may open streams for HTTP to it, and tell it that it should go elsewhere. Nobody
// else may: neither peers that connect to the app, nor the same hub over a connection that it has made itself. See
// docs/PROTOCOL.md §11.
package hubclient

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/hub/native"
	"github.com/secretstack/secretstack/internal/stay"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/keys/rotation"
	"github.com/secretstack/secretstack/multiserver"
	"github.com/secretstack/secretstack/muxrpc"
	"github.com/secretstack/secretstack/secrez"
)

const name = "hubclient"

// Config configures the plugin. The section "hubclient" of the app's settings goes over it.
type Config struct {
	// Hubs are those to be at. Empty: none.
	Hubs []Hub `json:"hubs"`
	// Handler serves the requests for the app's ids. Their header X-Forwarded-For begins with the visitor's address, as the
	// hub says; RemoteAddr is the reference of the hub's key. Nil: the app serves no HTTP.
	Handler http.Handler `json:"-"`
	// Box is the box half of the app's Secrez public key, 32 bytes. Nil: the X25519 form of the app's key.
	Box []byte `json:"-"`
	// Rotations are statements by which other keys were given up for the app's, the latest first. Hubs at which one of those
	// keys has an id give it to the app, unless it has one there. At most native.MaxRotations are used. Nil: none.
	Rotations []*rotation.Statement `json:"-"`
	// DeadAfter is how long a hub may be silent before it is given up and connected to again. Zero: 1 minute.
	DeadAfter time.Duration `json:"-"`
	// RetryMin and RetryMax bound the pause between two attempts to connect, which doubles with each and is jittered.
	// Zero: 1 second, 1 minute.
	RetryMin time.Duration `json:"-"`
	RetryMax time.Duration `json:"-"`
	// AnswerTimeout is how long a hub may take to answer a call. Zero: 20 seconds.
	AnswerTimeout time.Duration `json:"-"`
	// MaxConns is how many connections for HTTP a hub may have open to the app. Zero: 256.
	MaxConns int `json:"-"`
	// NoCircuits leaves out circuits: peers reach the app neither by them nor the app peers.
	NoCircuits bool `json:"noCircuits"`
	// MaxCircuits is how many circuits a hub may lead to the app at a time. Zero: 1024.
	MaxCircuits int `json:"-"`
	// Transports are those by which the connections of circuits are made to hubs. Nil: net, ws and onion.
	Transports []multiserver.Transport `json:"-"`
	// HeaderTimeout and IdleTimeout are those of the HTTP server: for the header of a request, and between two requests.
	// Zero: 30 seconds, 2 minutes.
	HeaderTimeout time.Duration `json:"-"`
	IdleTimeout   time.Duration `json:"-"`
}

// Hub says which hub to be at. In settings it may be an address alone.
type Hub struct {
	// Address is a multiserver address of the hub, or several of the same hub joined with ";", or the link of an
	// invitation, which holds both address and code.
	Address string `json:"address"`
	// Invite is the code of an invitation, for a hub that asks for one; no other hub gets to see it. Empty: that of the
	// link, if Address is one.
	Invite string `json:"invite"`
}

// UnmarshalJSON reads an address or an object.
func (h *Hub) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		*h = Hub{}
		return json.Unmarshal(b, &h.Address)
	}
	type plain Hub
	return json.Unmarshal(b, (*plain)(h))
}

// Resolved takes the link of an invitation apart, if Address is one. What is none stays as it is.
func (h Hub) Resolved() Hub {
	link, err := native.ParseLink(h.Address)
	if err != nil {
		return h
	}
	return Hub{Address: link.Address, Invite: cmp.Or(h.Invite, link.Invite)}
}

func (c *Config) setDefaults() error {
	for _, d := range []struct {
		field *time.Duration
		usual time.Duration
	}{
		{&c.DeadAfter, time.Minute}, {&c.RetryMin, stay.DefaultRetryMin}, {&c.RetryMax, stay.DefaultRetryMax},
		{&c.AnswerTimeout, 20 * time.Second}, {&c.HeaderTimeout, 30 * time.Second}, {&c.IdleTimeout, 2 * time.Minute},
	} {
		if *d.field <= 0 {
			*d.field = d.usual
		}
	}
	if c.MaxConns <= 0 {
		c.MaxConns = 256
	}
	if c.MaxCircuits <= 0 {
		c.MaxCircuits = 1024
	}
	if len(c.Box) != 0 && len(c.Box) != 32 {
		return errors.New("hubclient: a box half has 32 bytes")
	}
	return nil
}

// Plugin makes an app a courier of hubs. Others find its [Client] with [secretstack.Find].
func Plugin(cfg Config) secretstack.Plugin {
	return secretstack.NewPlugin(secretstack.Info{Name: name}, func(_ context.Context, s *secretstack.Setup) error {
		return start(s, cfg)
	})
}

// Client is what an app is at its hubs. Its methods may be called by many goroutines.
type Client struct {
	app      *secretstack.App
	setup    *secretstack.Setup
	log      *slog.Logger
	cfg      Config
	store    store
	self     *keys.Identity
	methods  []string // that hubs may call, by their full names; set by start
	serves   []string // what hubs are told that the app serves; set by start
	given    [][]byte // Config.Rotations, as hubs are told; set by start
	hubs     []*hub   // set by start
	web      *webServer
	circuits *circuits // nil: none

	mu       sync.Mutex // guards what follows, and what the hubs say it guards
	sessions map[*secretstack.Peer]*session
	changed  chan struct{}        // closed, and replaced, when the status of a hub changes
	allowed  *native.AllowRequest // who may leave mail; nil: nothing is said about that
	allowing chan struct{}        // closed, and replaced, when that changes
}

func start(s *secretstack.Setup, cfg Config) error {
	if err := s.Config(&cfg); err != nil {
		return err
	}
	if err := cfg.setDefaults(); err != nil {
		return err
	}
	dir, err := s.Dir()
	if err != nil {
		return err
	}
	c := &Client{
		app: s.App(), setup: s, log: s.Logger(), cfg: cfg, store: store{dir}, self: s.Identity(),
		sessions: map[*secretstack.Peer]*session{}, changed: make(chan struct{}), allowing: make(chan struct{}),
	}
	for _, r := range cfg.Rotations[:min(len(cfg.Rotations), native.MaxRotations)] {
		if !r.New.Equal(c.app.ID()) {
			return errors.New("hubclient: a change of keys is to another key than the app's")
		}
		c.given = append(c.given, r.Bytes())
	}
	if err := c.mount(s); err != nil {
		return err
	}
	if err := c.addHubs(cfg.Hubs); err != nil {
		return err
	}
	if c.circuits != nil {
		if err := c.circuits.sign(); err != nil {
			return err
		}
	}
	s.Export(c)
	s.OnDisconnect(c.forget)
	for _, h := range c.hubs {
		s.Go(h.run)
	}
	return nil
}

// mount adds the methods that hubs call. Nobody is permitted to call them until it is known for a hub; see enter.
func (c *Client) mount(s *secretstack.Setup) error {
	if err := c.offer("notice", muxrpc.HandleAsync(s, "notice", c.notice)); err != nil {
		return err
	}
	if err := c.mountCircuits(s); err != nil {
		return err
	}
	if c.cfg.Handler == nil {
		return nil
	}
	c.web = newWebServer(c.cfg, c.log)
	c.web.start(s)
	c.serves = append(c.serves, native.ServesHTTP)
	return c.offer("http", muxrpc.HandleDuplex(s, "http", c.http))
}

// mountCircuits adds the transport, and the method by which hubs offer circuits.
func (c *Client) mountCircuits(s *secretstack.Setup) error {
	if c.cfg.NoCircuits {
		return nil
	}
	c.circuits = newCircuits(c)
	c.serves = append(c.serves, native.ServesCircuits)
	return errors.Join(c.circuits.mount(s), c.offer(circuitName, muxrpc.HandleAsync(s, circuitName, c.circuit)))
}

// offer lets hubs call a method that has been mounted, or has not been because of err.
func (c *Client) offer(method string, err error) error {
	c.methods = append(c.methods, name+"."+method)
	return err
}

// addHubs checks the addresses of the hubs, and loads what is known of them.
func (c *Client) addHubs(hubs []Hub) error {
	for _, cfg := range hubs {
		cfg = cfg.Resolved()
		key, err := hubKey(cfg.Address)
		if err != nil {
			return fmt.Errorf("hubclient: hubs: %w", err)
		}
		if key.Equal(c.app.ID()) {
			return errors.New("hubclient: hubs: the app's own key is no hub's")
		}
		if slices.ContainsFunc(c.hubs, func(h *hub) bool { return h.key.Equal(key) }) {
			return fmt.Errorf("hubclient: hubs: %s is there twice; join its addresses with ;", key)
		}
		c.hubs = append(c.hubs, newHub(c, key, cfg))
	}
	return nil
}

// hubKey returns the key that all addresses of a hub end with.
func hubKey(address string) (key keys.PublicKey, err error) {
	parsed, err := multiserver.Parse(address)
	if err != nil {
		return key, err
	}
	for _, a := range parsed {
		k, ok := a.Key()
		if !ok {
			return key, fmt.Errorf("%s does not say which key the hub has: add ~shs: and the key", a.Redacted())
		}
		if !key.IsZero() && !k.Equal(key) {
			return key, fmt.Errorf("%s has another key than the address before it", a.Redacted())
		}
		key = k
	}
	return key, nil
}

// hub returns the hub of a key; the zero key stands for the first that is online.
func (c *Client) hub(key keys.PublicKey) (*hub, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, h := range c.hubs {
		if h.key.Equal(key) || key.IsZero() && h.peer != nil {
			return h, nil
		}
	}
	if key.IsZero() {
		return nil, ErrOffline
	}
	return nil, fmt.Errorf("hubclient: %s is none of the app's hubs", key)
}

// ErrOffline says that the app is not connected to the hub, or to any.
var ErrOffline = errors.New("hubclient: not connected to the hub")

// Reset asks a hub for a new id in place of the one that the app has there. The old one is nobody's from then on.
func (c *Client) Reset(ctx context.Context, hub keys.PublicKey) (Status, error) {
	h, err := c.hub(hub)
	if err != nil {
		return Status{}, err
	}
	if err := h.reset(ctx); err != nil {
		return Status{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return h.status, nil
}

// WhoisID asks a hub whose an id is; the zero key stands for any hub that the app is connected to. What it answers is the
// hub's word. The error is a [*native.Error] with the code native.Unknown for an id that nobody has.
func (c *Client) WhoisID(ctx context.Context, hub keys.PublicKey, id secrez.ID) (native.Who, error) {
	who, err := c.whois(ctx, hub, native.WhoisRequest{ID: id})
	if err == nil && who.ID != id {
		return native.Who{}, errOther
	}
	return who, err
}

// WhoisKey asks a hub which id a key has, as [Client.WhoisID] does.
func (c *Client) WhoisKey(ctx context.Context, hub, key keys.PublicKey) (native.Who, error) {
	who, err := c.whois(ctx, hub, native.WhoisRequest{Key: key})
	if err == nil && !who.Key.Equal(key) {
		return native.Who{}, errOther
	}
	return who, err
}

var errOther = errors.New("hubclient: the hub has answered for somebody else")

func (c *Client) whois(ctx context.Context, hub keys.PublicKey, question native.WhoisRequest) (native.Who, error) {
	h, err := c.hub(hub)
	if err != nil {
		return native.Who{}, err
	}
	p := h.connection()
	if p == nil {
		return native.Who{}, ErrOffline
	}
	who, err := call[native.Who](ctx, c.cfg.AnswerTimeout, p, native.MethodWhois, question)
	if err == nil && !who.PublicKey.Identity().Equal(who.Key) {
		return native.Who{}, errOther
	}
	return who, err
}

// call calls a method of a hub. What the hub refuses is a *native.Error.
func call[R any](ctx context.Context, timeout time.Duration, p *secretstack.Peer, method string, arg any) (R, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, errSilent)
	defer cancel()
	answer, err := muxrpc.Call[R](ctx, p, method, arg)
	if refusal, ok := native.FromPeer(err); ok {
		return answer, refusal
	}
	if errors.Is(err, context.DeadlineExceeded) {
		err = context.Cause(ctx)
	}
	return answer, err
}

var errSilent = errors.New("hubclient: the hub does not answer")

// signal wakes those who wait for a change. The caller holds mu.
func (c *Client) signal() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// sameBox reports whether a public key has the box half that the app states, if it states one.
func (c *Client) sameBox(k secrez.PublicKey) bool {
	return len(c.cfg.Box) == 0 || bytes.Equal(k.Box(), c.cfg.Box)
}
