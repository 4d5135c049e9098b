// Package tunnel lets an app reach peers, and be reached, through rooms: peers that both sides can reach, and that pass
// on what they cannot read. It is the attendant's side of package room, and of the rooms written in JavaScript and Go
// before it.
//
// The plugin looks whether a peer that it is connected to is a room, announces the app there, and takes the tunnels that
// the room opens to it; what comes through them is an incoming connection like any other. To dial through a room,
// connect to an address like the one that [Address] makes. See docs/PROTOCOL.md §7.
package tunnel

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"sync"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/internal/rooms"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/multiserver"
	"github.com/secretstack/secretstack/muxrpc"
)

// Config configures the plugin. The zero value announces the app in every room that it happens to be connected to. The
// section "tunnel" of the app's settings goes over it.
type Config struct {
	// Portals are the addresses of rooms to which the app stays connected, so that it can be reached through them.
	// Empty: none.
	Portals []string `json:"portals"`
	// MaxTunnels is how many tunnels a room that the app has connected to may have open to it. One that has connected to
	// the app may have 16, or fewer if this is less. Zero: 256.
	MaxTunnels int `json:"maxTunnels"`
	// DialOnly says that the app reaches others through rooms and is in none itself: nobody there learns of it, and nobody
	// reaches it through them.
	DialOnly bool `json:"dialOnly"`
}

const (
	defaultMaxTunnels = 256
	// maxTunnelsUnasked is the limit for rooms that we have not chosen: anybody may say that it is one.
	maxTunnelsUnasked = 16
)

// Plugin makes an app an attendant of rooms. Other plugins find its [Attendant] with [secretstack.Find].
func Plugin(cfg Config) secretstack.Plugin {
	return secretstack.NewPlugin(secretstack.Info{
		Name:        name,
		After:       []string{"room", "roomTunnel"}, // an app can be both; see mount
		Permissions: secretstack.Anonymous("connect", "ping"),
	}, func(_ context.Context, s *secretstack.Setup) error { return initTunnel(s, cfg) })
}

// Address returns the address of a peer behind a room.
func Address(portal, target keys.PublicKey) multiserver.Address {
	return multiserver.Address{part(portal, target), multiserver.NewPart("shs", target.Base64())}
}

// Attendant is what an app is in the rooms that it is connected to.
type Attendant struct {
	app      *secretstack.App
	setup    *secretstack.Setup
	portals  map[[32]byte]string // addresses of rooms, by key; set by Init
	incoming chan *conn          // tunnels that rooms have opened to us

	maxTunnels int // set by Init

	mu      sync.Mutex
	rooms   []*room       // one for each connection to a room
	kept    int           // attendants of all rooms
	stays   uint64        // how often somebody was found in a room
	changed chan struct{} // closed, and replaced, when rooms or who is in them change
}

// Room is a room that the app is connected to.
type Room struct {
	// Key is the key that the room has proved.
	Key keys.PublicKey
	// Name is what the room is called. It may be empty.
	Name string
	// Attendants are the others who are there, in no order.
	Attendants []keys.PublicKey
}

// Discovery is somebody who can be reached through a room.
type Discovery struct {
	// Key names the attendant, Room the room.
	Key, Room keys.PublicKey
	// RoomName is what the room is called. It may be empty.
	RoomName string
	// Address is what to connect to.
	Address multiserver.Address
}

func initTunnel(s *secretstack.Setup, cfg Config) error {
	if err := s.Config(&cfg); err != nil {
		return err
	}
	a := &Attendant{
		app:      s.App(),
		setup:    s,
		portals:  map[[32]byte]string{},
		incoming: make(chan *conn),
		changed:  make(chan struct{}),
	}
	if a.maxTunnels = cfg.MaxTunnels; a.maxTunnels == 0 {
		a.maxTunnels = defaultMaxTunnels
	}
	if err := a.addPortals(cfg.Portals); err != nil {
		return err
	}
	s.Export(a)
	if !cfg.DialOnly {
		s.OnConnect(a.look)
		s.OnDisconnect(a.leave)
	}
	if err := s.Transport(&transport{a}, defaults()); err != nil {
		return err
	}
	return a.mount(s)
}

// defaults are the connections over tunnels where the configuration says nothing about them.
func defaults() multiserver.Config {
	return multiserver.Config{
		Incoming: map[string][]multiserver.Incoming{name: {{Scope: multiserver.Scopes{multiserver.Public}, Transform: "shs"}}},
		Outgoing: map[string][]multiserver.Outgoing{name: {{Transform: "shs"}}},
	}
}

// mount adds the methods that rooms call. In an app that is a room itself the room has them already: then tunnels to
// the app are taken out of those that the room passes on.
func (a *Attendant) mount(s *secretstack.Setup) error {
	if s.Serves(rooms.MethodConnect) {
		return s.Hook(rooms.MethodConnect, func(next muxrpc.Handler) muxrpc.Handler {
			return a.accepting(next)
		})
	}
	err := s.Handle(muxrpc.Method{Name: "connect", Type: muxrpc.TypeDuplex, Handler: a.accepting(nil)})
	if err != nil {
		return err
	}
	return muxrpc.HandleSync(s, "ping", rooms.Ping)
}

// Rooms returns the rooms that the app is connected to, those found first before others.
func (a *Attendant) Rooms() []Room {
	a.mu.Lock()
	defer a.mu.Unlock()
	var rooms []Room
	for _, r := range a.eachRoom() {
		shown := Room{Key: r.peer.Key(), Name: r.name}
		for _, stay := range r.present {
			shown.Attendants = append(shown.Attendants, stay.key)
		}
		rooms = append(rooms, shown)
	}
	return rooms
}

// eachRoom returns the rooms without those that the app is connected to a second time. The caller holds mu.
func (a *Attendant) eachRoom() []*room {
	var rooms []*room
	for _, r := range a.rooms {
		if !slices.ContainsFunc(rooms, func(other *room) bool { return other.peer.Key().Equal(r.peer.Key()) }) {
			rooms = append(rooms, r)
		}
	}
	return rooms
}

// Discovered returns those who can be reached through rooms, as they come: first who is there, then who joins. Somebody
// who leaves and comes back is discovered again. It ends with ctx.
func (a *Attendant) Discovered(ctx context.Context) iter.Seq[Discovery] {
	return func(yield func(Discovery) bool) {
		known := map[uint64]bool{}
		for {
			found, present, changed := a.discover(known)
			for _, d := range found {
				if ctx.Err() != nil || !yield(d) {
					return
				}
			}
			known = present
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}
}

// discover returns who is in the rooms and not known, all who are there, and the channel that the next change closes.
func (a *Attendant) discover(known map[uint64]bool) (found []Discovery, present map[uint64]bool, changed <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	present = map[uint64]bool{}
	for _, r := range a.eachRoom() {
		for _, stay := range r.present {
			present[stay.number] = true
			if !known[stay.number] {
				portal := r.peer.Key()
				found = append(found, Discovery{Key: stay.key, Room: portal, RoomName: r.name, Address: Address(portal, stay.key)})
			}
		}
	}
	return found, present, a.changed
}

// signal wakes those who wait for a change. The caller holds mu.
func (a *Attendant) signal() {
	close(a.changed)
	a.changed = make(chan struct{})
}

// addPortals keeps the addresses of rooms, and stays connected to them.
func (a *Attendant) addPortals(addresses []string) error {
	for _, text := range addresses {
		parsed, err := multiserver.Parse(text)
		if err != nil {
			return fmt.Errorf("tunnel: portals: %w", err)
		}
		key, ok := parsed[0].Key()
		if !ok {
			return fmt.Errorf("tunnel: portals: %s does not say which key the room has", parsed[0].Redacted())
		}
		a.portals[key.Array()] = text
		a.setup.Go(func(ctx context.Context) { a.stayConnected(ctx, key, text) })
	}
	return nil
}
