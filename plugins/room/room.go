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
	"github.com/secretstack/secretstack/internal/rooms"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/muxrpc"
)

const (
	// repeatEvery is how often tunnel.endpoints says who is here when nobody comes or goes.
	repeatEvery = 10 * time.Second
	// settleMin is how long a subscriber gets no further news after some: what happens meanwhile becomes one.
	settleMin = 100 * time.Millisecond
	// settleList and settleEvent make that longer for each attendant of a full room, where a list is long and changes
	// are many, so that nobody gets more than some ten kilobytes a second.
	settleList  = time.Millisecond
	settleEvent = 100 * time.Microsecond
)

// settle returns how long a subscriber waits in a room with n attendants.
func settle(n int, each time.Duration) time.Duration {
	return min(settleMin+time.Duration(n)*each, repeatEvery)
}

// Config describes a room. The zero value is a room without a name that takes everybody. The section "room" of the
// app's settings goes over it.
type Config struct {
	// Name and Description are shown to people. Empty: none.
	Name        string `json:"name"`
	Description string `json:"description"`
	// MaxTunnels bounds the tunnels through the room at a time. When there are as many, those of peers that have opened
	// many give way to those of peers that have few. Zero: 4096.
	MaxTunnels int `json:"maxTunnels"`
	// MaxTunnelsPerPeer bounds the tunnels that one peer has opened at a time. Zero: 64.
	MaxTunnelsPerPeer int `json:"maxTunnelsPerPeer"`
	// TunnelIdle is how long a tunnel may be open without a byte either way. Zero: 15 minutes, which is longer than
	// connections inside are left idle.
	TunnelIdle time.Duration `json:"-"`
	// Elsewhere opens the other half of a tunnel to an attendant of another part of the room, which gets the request in
	// [Room.Join]. gone is closed when the other part has gone away, for the half may not notice; nil if that is not known. Nil: the
	// room has no other parts.
	Elsewhere func(ctx context.Context, origin, target keys.PublicKey, request []byte) (half Half, gone <-chan struct{}, err error) `json:"-"`
	// Changed is told that an attendant may have come here or gone; see [Room.Has]. Nil: nobody is told.
	Changed func(key keys.PublicKey) `json:"-"`
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
	if c.Changed == nil {
		c.Changed = func(keys.PublicKey) {}
	}
	if c.TunnelIdle == 0 {
		c.TunnelIdle = 15 * time.Minute
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
	s.OnDisconnect(func(p *secretstack.Peer) {
		r.presence.leave(p)
		r.cfg.Changed(p.Key())
	})
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
		func() error { return muxrpc.HandleSync(s, "ping", rooms.Ping) },
	} {
		if err := handle(); err != nil {
			return err
		}
	}
	return nil
}

// Attendants returns the references of the peers that are reachable through the room, other parts included, in the order of their coming.
func (r *Room) Attendants() []string {
	state, _ := r.presence.now()
	return append([]string(nil), state.refs...)
}

// Has reports whether an attendant is reached through a session of this app.
func (r *Room) Has(key keys.PublicKey) bool { return r.presence.session(key.Array()) != nil }

// Here returns who is reached through sessions of this app, in no order, and a number that is another one whenever that
// changes.
func (r *Room) Here() ([][keys.PublicKeySize]byte, uint64) { return r.presence.local() }

// CountHere returns how many Here would return, and the same number, without a list of them.
func (r *Room) CountHere() (int, uint64) { return r.presence.countLocal() }

// SetElsewhere says who is in the other parts of the room. They are shown to all, and reached by Config.Elsewhere.
func (r *Room) SetElsewhere(all [][keys.PublicKeySize]byte) { r.presence.setElsewhere(all) }

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

func (r *Room) announce(ctx context.Context, _ muxrpc.None) (bool, error) {
	return r.attend(ctx), nil
}

func (r *Room) leave(ctx context.Context, _ muxrpc.None) (bool, error) {
	p := secretstack.PeerFrom(ctx)
	r.presence.retire(p)
	r.cfg.Changed(p.Key())
	return true, nil
}

// attend announces the caller's session. It reports false when the session ends before it can.
func (r *Room) attend(ctx context.Context) bool {
	session := secretstack.PeerFrom(ctx)
	for {
		left := r.presence.resting(session)
		if left <= 0 {
			break
		}
		if !r.wait(ctx, nil, left) {
			return false
		}
	}
	r.presence.announce(session)
	ended := session.Ended() // maybe it has left before it came
	if ended {
		r.presence.leave(session)
	}
	r.cfg.Changed(session.Key())
	return !ended
}

// endpoints announces the caller, and gives the list of who is here: at once, when it changes, and from time to time.
func (r *Room) endpoints(ctx context.Context, _ muxrpc.None) iter.Seq2[json.RawMessage, error] {
	return func(yield func(json.RawMessage, error) bool) {
		if !r.attend(ctx) {
			return
		}
		for {
			state, changed := r.presence.now()
			if !yield(state.json, nil) {
				return
			}
			pause := settle(len(state.refs), settleList)
			if !r.wait(ctx, nil, pause) || !r.wait(ctx, changed, repeatEvery-pause) {
				return
			}
		}
	}
}

// wait waits for a change or the time, which negative is any; it reports false when the subscription is over.
func (r *Room) wait(ctx context.Context, changed <-chan struct{}, atMost time.Duration) bool {
	var timeout <-chan time.Time
	if atMost >= 0 {
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

// attendants announces the caller, and gives who is here, then who comes and goes. A subscriber that falls too far
// behind gets the state again.
func (r *Room) attendants(ctx context.Context, _ muxrpc.None) iter.Seq2[any, error] {
	return func(yield func(any, error) bool) {
		if !r.attend(ctx) {
			return
		}
		state, _ := r.presence.now()
		if !yield(state.item(), nil) {
			return
		}
		for seq := state.seq; ; {
			events, changed, ok := r.presence.since(seq)
			if ok && len(events) == 0 {
				if !r.wait(ctx, changed, -1) {
					return
				}
				continue
			}
			if !ok {
				state, _ = r.presence.now()
				seq, events = state.seq, nil
				if !yield(state.item(), nil) {
					return
				}
			}
			seq += uint64(len(events))
			for _, e := range outcome(events) {
				if !yield(e.item(), nil) {
					return
				}
			}
			if !r.wait(ctx, nil, settle(r.presence.count(), settleEvent)) {
				return
			}
		}
	}
}

func (e event) item() any {
	if e.joined {
		return rooms.Change{Type: rooms.ChangeJoined, ID: ref(e.key)}
	}
	return rooms.Change{Type: rooms.ChangeLeft, ID: ref(e.key)}
}
