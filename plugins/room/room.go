// Package room makes an app a portal: peers that cannot reach each other connect to it, announce themselves, see who
// else is there, and talk through tunnels, end to end encrypted, of which the portal sees only whose they are.
//
// It serves what attendants of JavaScript rooms call: tunnel.isRoom, announce, leave, endpoints, connect and ping, and
// room.metadata and room.attendants. Everybody may call them unless an auth hook of the app says otherwise. See
// docs/PROTOCOL.md §7.
package room

import (
	"context"
	"encoding/json"
	"iter"
	"sync"
	"time"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/muxrpc"
)

const (
	// repeatEvery is how often tunnel.endpoints says who is here when nobody comes or goes.
	repeatEvery = 10 * time.Second
	// settle is how long a list stays fresh: changes that follow each other faster become one.
	settle = 100 * time.Millisecond
)

// Config describes a room. The zero value is a room without a name that takes everybody. The section "room" of the
// app's settings goes over it.
type Config struct {
	// Name and Description are shown to people. Empty: none.
	Name        string `json:"name"`
	Description string `json:"description"`
	// MaxTunnels bounds the tunnels through the room at a time. Zero: 4096.
	MaxTunnels int `json:"maxTunnels"`
	// MaxTunnelsPerPeer bounds the tunnels that one peer has opened at a time. Zero: 64.
	MaxTunnelsPerPeer int `json:"maxTunnelsPerPeer"`
	// Member says whether a peer is a member, for room.metadata. Nil: nobody is.
	Member func(key keys.PublicKey) bool `json:"-"`
}

func (c *Config) setDefaults() {
	if c.MaxTunnels == 0 {
		c.MaxTunnels = 4096
	}
	if c.MaxTunnelsPerPeer == 0 {
		c.MaxTunnelsPerPeer = 64
	}
}

// Plugin makes an app a room. Other plugins of the app find its [Room] with [secretstack.Find].
func Plugin(cfg Config) secretstack.Plugin {
	return secretstack.Plugins{
		secretstack.NewPlugin(secretstack.Info{
			Name:        "room",
			Permissions: secretstack.Anonymous("metadata", "attendants"),
		}, func(_ context.Context, s *secretstack.Setup) error { return initRoom(s, cfg) }),
		secretstack.NewPlugin(secretstack.Info{
			Name:        "roomTunnel",
			Mount:       "tunnel",
			Needs:       []string{"room"},
			Permissions: secretstack.Anonymous("isRoom", "announce", "leave", "endpoints", "connect", "ping"),
		}, initTunnel),
	}
}

// Room is the room of one app.
type Room struct {
	app      *secretstack.App
	cfg      Config
	presence *presence
	tunnels  tunnels
	closing  chan struct{} // closed when the app begins to close
	close    func()
}

func initRoom(s *secretstack.Setup, cfg Config) error {
	if err := s.Config(&cfg); err != nil {
		return err
	}
	cfg.setDefaults()
	r := &Room{app: s.App(), cfg: cfg, presence: newPresence(), closing: make(chan struct{})}
	r.close = sync.OnceFunc(func() { close(r.closing) })
	s.OnDisconnect(r.presence.leave)
	s.OnClose(r.close)
	s.Export(r)
	if err := muxrpc.HandleAsync(s, "metadata", r.metadata); err != nil {
		return err
	}
	return muxrpc.HandleSource(s, "attendants", r.attendants)
}

func initTunnel(_ context.Context, s *secretstack.Setup) error {
	r, _ := secretstack.Find[*Room](s.App())
	for _, handle := range []func() error{
		func() error { return muxrpc.HandleAsync(s, "isRoom", r.isRoom) },
		func() error { return muxrpc.HandleSync(s, "announce", r.announce) },
		func() error { return muxrpc.HandleSync(s, "leave", r.leave) },
		func() error { return muxrpc.HandleSource(s, "endpoints", r.endpoints) },
		func() error { return muxrpc.HandleDuplex(s, "connect", r.connect) },
		func() error { return muxrpc.HandleSync(s, "ping", r.ping) },
	} {
		if err := handle(); err != nil {
			return err
		}
	}
	return nil
}

// Attendants returns the references of the peers that are reachable through the room, in the order of their coming.
func (r *Room) Attendants() []string {
	state, _ := r.presence.now()
	return append([]string(nil), state.refs...)
}

// Tunnels returns how many tunnels go through the room.
func (r *Room) Tunnels() int { return r.tunnels.count() }

// Metadata answers room.metadata.
type Metadata struct {
	Name       string   `json:"name"`
	Membership bool     `json:"membership"`
	Features   []string `json:"features"`
}

func (r *Room) metadata(ctx context.Context, _ muxrpc.None) (Metadata, error) {
	member := r.cfg.Member != nil && r.cfg.Member(secretstack.PeerFrom(ctx).Key())
	return Metadata{Name: r.cfg.Name, Membership: member, Features: []string{"tunnel", "room1"}}, nil
}

type roomInfo struct {
	Name        string `json:"name"`
	Description string `json:"description"`
}

// isRoom answers with what the room is called, or with true when it has no name.
func (r *Room) isRoom(context.Context, muxrpc.None) (any, error) {
	if r.cfg.Name == "" && r.cfg.Description == "" {
		return true, nil
	}
	return roomInfo{r.cfg.Name, r.cfg.Description}, nil
}

// ping answers with the time in milliseconds, from which attendants learn the delay and the clock's difference.
func (r *Room) ping(context.Context, muxrpc.None) (int64, error) {
	return time.Now().UnixMilli(), nil
}

func (r *Room) announce(ctx context.Context, _ muxrpc.None) (bool, error) {
	r.attend(secretstack.PeerFrom(ctx))
	return true, nil
}

func (r *Room) leave(ctx context.Context, _ muxrpc.None) (bool, error) {
	r.presence.leave(secretstack.PeerFrom(ctx))
	return true, nil
}

// attend announces the session. One that ends while it is announced may have left before it came: look again.
func (r *Room) attend(session *secretstack.Peer) {
	r.presence.announce(session)
	select {
	case <-session.Done():
		r.presence.leave(session)
	default:
	}
}

// endpoints announces the caller, and gives the list of who is here: at once, when it changes, and from time to time.
func (r *Room) endpoints(ctx context.Context, _ muxrpc.None) iter.Seq2[json.RawMessage, error] {
	r.attend(secretstack.PeerFrom(ctx))
	return func(yield func(json.RawMessage, error) bool) {
		for {
			state, changed := r.presence.now()
			if !yield(state.json, nil) {
				return
			}
			// The list is as long as the room is full: many who come at once must not mean as many lists.
			if !r.wait(ctx, nil, settle) || !r.wait(ctx, changed, repeatEvery-settle) {
				return
			}
		}
	}
}

// wait waits for a change or the time; it reports false when the subscription is over.
func (r *Room) wait(ctx context.Context, changed <-chan struct{}, atMost time.Duration) bool {
	var timeout <-chan time.Time
	if atMost > 0 {
		timer := time.NewTimer(atMost)
		defer timer.Stop()
		timeout = timer.C
	}
	select {
	case <-changed:
		return true
	case <-timeout:
		return true
	case <-ctx.Done():
		return false
	case <-r.closing:
		return false
	}
}

// attendantsEvent is one item of room.attendants: the state, with all who are here, or one who has joined or left.
type attendantsEvent struct {
	Type string   `json:"type"`
	IDs  []string `json:"ids,omitzero"`
	ID   string   `json:"id,omitempty"`
}

// attendants announces the caller, and gives who is here, then who comes and goes. A subscriber that falls too far
// behind gets the state again.
func (r *Room) attendants(ctx context.Context, _ muxrpc.None) iter.Seq2[attendantsEvent, error] {
	r.attend(secretstack.PeerFrom(ctx))
	return func(yield func(attendantsEvent, error) bool) {
		state, _ := r.presence.now()
		if !yield(attendantsEvent{Type: "state", IDs: state.refs}, nil) {
			return
		}
		seq := state.seq
		for {
			events, changed, ok := r.presence.since(seq)
			if !ok {
				state, _ = r.presence.now()
				if !yield(attendantsEvent{Type: "state", IDs: state.refs}, nil) {
					return
				}
				seq = state.seq
				continue
			}
			for _, e := range events {
				if !yield(e.item(), nil) {
					return
				}
				seq++
			}
			if len(events) == 0 && !r.wait(ctx, changed, 0) {
				return
			}
		}
	}
}

func (e event) item() attendantsEvent {
	if e.joined {
		return attendantsEvent{Type: "joined", ID: e.ref}
	}
	return attendantsEvent{Type: "left", ID: e.ref}
}
