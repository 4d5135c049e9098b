package tunnel

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/internal/rooms"
	"github.com/secretstack/secretstack/internal/stay"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/muxrpc"
)

const (
	// askTimeout is how long a peer may take to say whether it is a room.
	askTimeout = 30 * time.Second
	// pingEvery keeps the connection to a room in use, and pingTimeout tells when the room is gone.
	pingEvery   = 30 * time.Second
	pingTimeout = 30 * time.Second
	// maxAttendants is how many attendants of a room are kept track of. Any peer may say that it is a room.
	maxAttendants      = 16384
	maxAttendantsInAll = 4 * maxAttendants
	// longestName bounds what a room is called, in bytes.
	longestName = 256
)

// room is a connection to a room.
type room struct {
	peer    *secretstack.Peer
	name    string                // set before it is in Attendant.rooms
	present map[[32]byte]presence // guarded by Attendant.mu: the other attendants
	tunnels int                   // guarded by Attendant.mu: that it has open to us
	left    bool                  // guarded by Attendant.mu: the connection has ended
	warn    sync.Once             // that there are more than are kept track of
}

// presence is somebody's stay in a room.
type presence struct {
	key    keys.PublicKey
	number uint64 // tells it from the stays before and after
}

// look finds out whether a new peer is a room.
func (a *Attendant) look(p *secretstack.Peer) {
	if strings.HasPrefix(p.Address(), name+":") || p.Key().Equal(a.app.ID()) {
		return // what comes through a room is an attendant
	}
	a.setup.Go(func(ctx context.Context) {
		if name, ok := ask(ctx, p); ok {
			a.attend(ctx, p, name)
		}
	})
}

// ask asks a peer whether it is a room, and what it is called.
func ask(ctx context.Context, p *secretstack.Peer) (name string, isRoom bool) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	answer, err := muxrpc.Call[any](ctx, p, "room.metadata")
	if muxrpc.IsDenied(err) {
		answer, err = muxrpc.Call[any](ctx, p, "tunnel.isRoom")
	}
	if err != nil {
		return "", false
	}
	fields, _ := answer.(map[string]any)
	name, _ = fields["name"].(string)
	if len(name) > longestName {
		name = strings.ToValidUTF8(name[:longestName], "")
	}
	return name, truthy(answer)
}

// truthy is what JavaScript makes of a value.
func truthy(value any) bool {
	switch v := value.(type) {
	case nil:
		return false
	case bool:
		return v
	case float64:
		return v != 0
	case string:
		return v != ""
	}
	return true
}

// attend announces the app in a room, and follows who else is there until the connection or ctx ends.
func (a *Attendant) attend(ctx context.Context, p *secretstack.Peer, name string) {
	r := &room{peer: p, name: name, present: map[[32]byte]presence{}}
	if !a.enter(r) {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	a.setup.Go(func(context.Context) { keepAlive(ctx, p) })
	// Asking who is there announces us too.
	err := a.followAttendants(ctx, r)
	if muxrpc.IsDenied(err) {
		err = a.followEndpoints(ctx, r)
	}
	if muxrpc.IsDenied(err) {
		_, err = muxrpc.Call[muxrpc.None](ctx, p, "tunnel.announce")
	}
	if err != nil && ctx.Err() == nil {
		a.setup.Logger().Info("tunnel: a room does not say who is there", "room", p.Key().Short(), "err", err)
	}
	select {
	case <-p.Done():
	case <-ctx.Done():
	}
}

// enter adds a room, unless its connection has ended already.
func (a *Attendant) enter(r *room) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	select {
	case <-r.peer.Done():
		return false
	default:
	}
	a.rooms = append(a.rooms, r)
	a.signal()
	return true
}

// leave forgets a room whose connection has ended.
func (a *Attendant) leave(p *secretstack.Peer) {
	a.mu.Lock()
	defer a.mu.Unlock()
	i := slices.IndexFunc(a.rooms, func(r *room) bool { return r.peer == p })
	if i < 0 {
		return
	}
	r := a.rooms[i]
	a.rooms = slices.Delete(a.rooms, i, i+1)
	a.kept -= len(r.present)
	r.present = nil
	r.left = true
	a.signal()
}

func (a *Attendant) followAttendants(ctx context.Context, r *room) error {
	return follow(ctx, r.peer, "room.attendants", func(e rooms.Change) {
		switch e.Type {
		case rooms.ChangeState:
			a.replace(r, e.IDs)
		case rooms.ChangeJoined:
			a.update(r, e.ID, true)
		case rooms.ChangeLeft:
			a.update(r, e.ID, false)
		}
	})
}

func (a *Attendant) followEndpoints(ctx context.Context, r *room) error {
	return follow(ctx, r.peer, "tunnel.endpoints", func(ids []string) { a.replace(r, ids) })
}

// follow takes the items of a source, if they are not longer than those of an honest room can be: what is decoded takes
// much more memory than what was sent.
func follow[T any](ctx context.Context, p *secretstack.Peer, method string, take func(T)) error {
	const longestItem = 64<<10 + 60*maxAttendants
	for raw, err := range muxrpc.Source[json.RawMessage](ctx, p, method) {
		if err != nil {
			return err
		}
		if len(raw) > longestItem {
			return errLongItem
		}
		var item T
		if err := json.Unmarshal(raw, &item); err != nil {
			return err
		}
		take(item)
	}
	return nil
}

var errLongItem = errors.New("tunnel: the room says more than a room can have to say")

// replace takes over who is in a room.
func (a *Attendant) replace(r *room, ids []string) {
	if !a.replaced(r, ids) {
		r.warn.Do(func() { a.warnFull(r) })
	}
}

// replaced reports whether all were taken over.
func (a *Attendant) replaced(r *room, ids []string) (all bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	before := r.present
	a.kept -= len(before)
	r.present = make(map[[32]byte]presence)
	all = true
	for _, id := range ids {
		key, ok := a.other(id)
		if !ok {
			continue
		}
		stay, known := before[key.Array()]
		if !known {
			stay = a.newPresence(key)
		}
		all = a.keep(r, stay) && all
	}
	a.signal()
	return all
}

// update takes over that somebody has joined or left.
func (a *Attendant) update(r *room, id string, joined bool) {
	if key, ok := a.other(id); ok && !a.updated(r, key, joined) {
		r.warn.Do(func() { a.warnFull(r) })
	}
}

// updated reports whether the change was taken over.
func (a *Attendant) updated(r *room, key keys.PublicKey, joined bool) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	defer a.signal()
	_, known := r.present[key.Array()]
	switch {
	case joined && !known:
		return a.keep(r, a.newPresence(key))
	case !joined && known:
		delete(r.present, key.Array())
		a.kept--
	}
	return true
}

// keep adds somebody to a room, unless there are too many already. The caller holds mu.
func (a *Attendant) keep(r *room, stay presence) bool {
	key := stay.key.Array()
	if _, twice := r.present[key]; twice {
		return true
	}
	if r.left || len(r.present) >= maxAttendants || a.kept >= maxAttendantsInAll {
		return false
	}
	r.present[key] = stay
	a.kept++
	return true
}

func (a *Attendant) warnFull(r *room) {
	a.setup.Logger().Warn("tunnel: a room has more attendants than are kept track of", "room", r.peer.Key().Short(), "limit", maxAttendants)
}

// newPresence is called with mu held.
func (a *Attendant) newPresence(key keys.PublicKey) presence {
	a.stays++
	return presence{key, a.stays}
}

// other reads the id of an attendant who is not ourselves.
func (a *Attendant) other(id string) (key keys.PublicKey, ok bool) {
	key, err := keys.ParsePublicKey(id)
	return key, err == nil && !key.Equal(a.app.ID())
}

// keepAlive uses the connection to a room now and then, and ends it when the room does not answer any more.
func keepAlive(ctx context.Context, p *secretstack.Peer) {
	stay.Watch(ctx, p, pingEvery, pingTimeout, errSilent, func(ctx context.Context) error {
		_, err := muxrpc.Call[muxrpc.None](ctx, p, "tunnel.ping")
		return err
	})
}

var errSilent = errors.New("tunnel: the room does not answer")

// stayConnected connects to a portal again and again.
func (a *Attendant) stayConnected(ctx context.Context, portal keys.PublicKey, address string) {
	stay.Connected(ctx, stay.Options{
		Dial: func(ctx context.Context) (*secretstack.Peer, error) { return a.portal(ctx, portal, address) },
		Lost: func(err error, pause time.Duration) {
			a.setup.Logger().Info("tunnel: not connected to the portal", "portal", portal.Short(), "err", err, "retry", pause)
		},
	})
}

// portal returns a connection to a portal: the one there is, or a new one.
func (a *Attendant) portal(ctx context.Context, portal keys.PublicKey, address string) (*secretstack.Peer, error) {
	if p := a.connected(portal); p != nil {
		return p, nil
	}
	return a.app.Connect(ctx, address)
}

// connected returns a direct connection to a peer, that to a room if there is one, or nil.
func (a *Attendant) connected(key keys.PublicKey) *secretstack.Peer {
	a.mu.Lock()
	for _, r := range a.rooms {
		if r.peer.Key().Equal(key) {
			a.mu.Unlock()
			return r.peer
		}
	}
	a.mu.Unlock()
	for _, p := range a.app.PeersOf(key) {
		if !strings.HasPrefix(p.Address(), name+":") {
			return p
		}
	}
	return nil
}
