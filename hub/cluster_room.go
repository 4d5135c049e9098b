package hub

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/secretstack/secretstack/hub/cluster"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/muxrpc"
	"github.com/secretstack/secretstack/packetstream"
	"github.com/secretstack/secretstack/plugins/room"
)

const (
	// mostListed is how many attendants of one other node are shown here. All are reached.
	mostListed = 8192
	// listedAtOnce is how many of them are told in one answer.
	listedAtOnce = 1024
	// compareRooms is how often the rooms of other nodes are compared with what is known of them, and listEach is how much longer
	// one of so many attendants is left alone after it was read.
	compareRooms = 500 * time.Millisecond
	listEach     = time.Millisecond
)

// roomOf is what is known of the room of another node.
type roomOf struct {
	mark string // cluster.Load.Room
	all  [][keys.PublicKeySize]byte
	next time.Time // when it is read again at the earliest
}

// roomMark is another text whenever others are in this node's room; empty while nobody is.
func (h *Hub) roomMark() string {
	here, revision := h.room.CountHere()
	if here == 0 || h.isDraining() {
		return ""
	}
	return fmt.Sprintf("%x-%d", h.started.UnixNano(), revision)
}

// attending tells the other nodes whether an attendant is here.
func (h *Hub) attending(key keys.PublicKey) {
	if h.nodes.node == nil {
		return
	}
	h.nodes.telling.Lock()
	defer h.nodes.telling.Unlock()
	if h.room.Has(key) && !h.isDraining() {
		h.nodes.node.Publish(cluster.Attendant, key)
	} else {
		h.nodes.node.Withdraw(cluster.Attendant, key)
	}
}

// watchRooms shows the attendants of other nodes in this one's room, until the hub ends.
func (h *Hub) watchRooms() {
	known := map[string]*roomOf{}
	ticker := time.NewTicker(compareRooms)
	defer ticker.Stop()
	for {
		if h.compareRooms(known) {
			var all [][keys.PublicKeySize]byte
			for _, r := range known {
				all = append(all, r.all...)
			}
			h.room.SetElsewhere(all)
		}
		select {
		case <-ticker.C:
		case <-h.life.Done():
			return
		}
	}
}

// compareRooms reads the rooms that have changed, and reports whether any has. A node that has fallen silent has nobody.
func (h *Hub) compareRooms(known map[string]*roomOf) (changed bool) {
	members := h.Nodes()
	maps.DeleteFunc(known, func(node string, _ *roomOf) bool {
		gone := !slices.ContainsFunc(members, func(m cluster.Member) bool { return m.Node == node && m.Room != "" })
		changed = changed || gone
		return gone
	})
	for _, m := range members {
		r := known[m.Node]
		if m.Self || !m.Works || m.Room == "" || r != nil && (r.mark == m.Room || time.Now().Before(r.next)) {
			continue
		}
		all, err := h.readRoom(m.Key)
		if err != nil {
			h.log.Debug("hub: the room of another node cannot be read", "node", m.Node, "err", err)
			continue
		}
		known[m.Node] = &roomOf{m.Room, all, time.Now().Add(time.Duration(len(all)) * listEach)}
		changed = true
	}
	return changed
}

// readRoom asks a node who is in its room.
func (h *Hub) readRoom(node keys.PublicKey) (all [][keys.PublicKeySize]byte, err error) {
	for len(all) < mostListed {
		q := nodeQuestion{Ask: askRoom}
		if len(all) > 0 {
			q.After = all[len(all)-1][:]
		}
		var page nodeRoom
		if _, err := h.askAs(h.life, cluster.Self, node, q, &page); err != nil {
			return nil, err
		}
		for raw := range slices.Chunk(page.Keys, keys.PublicKeySize) {
			if key, err := keys.NewPublicKey(raw); err == nil {
				all = append(all, key.Array())
			}
		}
		if !page.More || len(page.Keys) < keys.PublicKeySize {
			break
		}
	}
	return all, nil
}

// tellRoom answers who is in this node's room, in the order of the keys.
func (h *Hub) tellRoom(after []byte) ([]byte, error) {
	here, _ := h.room.Here()
	slices.SortFunc(here, func(a, b [keys.PublicKeySize]byte) int { return bytes.Compare(a[:], b[:]) })
	var page nodeRoom
	for _, key := range here {
		if bytes.Compare(key[:], after) <= 0 {
			continue
		}
		if page.More = len(page.Keys) == listedAtOnce*len(key); page.More {
			break
		}
		page.Keys = append(page.Keys, key[:]...)
	}
	return json.Marshal(page)
}

// tunnelElsewhere opens the half of a tunnel to an attendant at another node.
func (h *Hub) tunnelElsewhere(ctx context.Context, origin, target keys.PublicKey, request []byte) (room.Half, <-chan struct{}, error) {
	place, err := h.askAs(ctx, cluster.Attendant, target, nodeQuestion{Ask: askReach}, &struct{}{})
	if err != nil {
		return nil, nil, err
	}
	conn, life, err := h.dialNode(ctx, place, linkRequest{For: linkTunnel, Key: target, Origin: origin, Request: request}, false)
	if err != nil {
		return nil, nil, err
	}
	return h.newTunnelHalf(conn, &h.nodes.tunnelsOut), life.Done(), nil
}

// serveTunnelLink joins a link with an attendant who is here.
func (h *Hub) serveTunnelLink(ctx context.Context, r linkRequest, accept func(error) (net.Conn, error)) {
	if !h.room.Has(r.Key) {
		_, _ = accept(cluster.ErrOffline)
		return
	}
	conn, err := accept(nil)
	if err != nil {
		return
	}
	half := h.newTunnelHalf(conn, &h.nodes.tunnelsIn)
	if err := h.room.Join(ctx, r.Origin, r.Key, r.Request, half); err != nil {
		half.Abort(err)
		return
	}
	_ = half.Close(ctx)
}

// tunnelHalf is the half of a tunnel that goes over a link: packets of §3 with number 1, the last with the flag of the end.
type tunnelHalf struct {
	conn  net.Conn
	in    *packetstream.Reader // used by Recv, and by end when that is done
	ended chan struct{}        // closed when the other side has ended it
	later func(func()) bool    // Hub.background
	open  *atomic.Int64        // how many there are that have not ended
	once  sync.Once
}

// tunnelEnd bounds the time for the last word of a tunnel.
const tunnelEnd = time.Second

func (h *Hub) newTunnelHalf(conn net.Conn, open *atomic.Int64) *tunnelHalf {
	open.Add(1)
	return &tunnelHalf{later: h.background, open: open, conn: conn, in: packetstream.NewReader(conn, 0), ended: make(chan struct{})}
}

// Recv gives the next item; it is part of [room.Half], as all that follows.
func (t *tunnelHalf) Recv(ctx context.Context) (v muxrpc.Value, err error) {
	defer context.AfterFunc(ctx, func() { _ = t.conn.SetReadDeadline(time.Unix(1, 0)) })()
	header, body, err := t.in.Next()
	switch {
	case err != nil, header.Goodbye(), !header.Type.Valid():
		return v, errLinkLost
	case !header.End:
		return muxrpc.Value{Kind: header.Type, Bytes: t.in.Detach()}, nil
	}
	close(t.ended)
	if header.Type == packetstream.String {
		return v, &muxrpc.RemoteError{Message: string(body)}
	}
	return v, io.EOF
}

var errLinkLost = errors.New("hub: the link has ended")

// Send sends an item.
func (t *tunnelHalf) Send(ctx context.Context, v muxrpc.Value) error {
	if len(v.Bytes) == 0 {
		return nil // it would be a goodbye
	}
	defer context.AfterFunc(ctx, func() { _ = t.conn.SetWriteDeadline(time.Unix(1, 0)) })()
	return t.write(packetstream.Header{Stream: true, Type: v.Kind, ID: 1}, v.Bytes)
}

func (t *tunnelHalf) write(header packetstream.Header, body []byte) error {
	_, err := t.conn.Write(packetstream.AppendPacket(make([]byte, 0, packetstream.HeaderSize+len(body)), header, body))
	return err
}

// Close ends the tunnel in order. It does not wait for what the other side still has to say.
func (t *tunnelHalf) Close(context.Context) error {
	return t.end(packetstream.Header{Stream: true, End: true, Type: packetstream.JSON, ID: 1}, "true")
}

// Abort ends it with an error.
func (t *tunnelHalf) Abort(err error) {
	_ = t.end(packetstream.Header{Stream: true, End: true, Type: packetstream.String, ID: 1}, err.Error())
}

// end says the last word, and lets it arrive: a connection that is closed with something unread in it is reset.
func (t *tunnelHalf) end(header packetstream.Header, word string) (err error) {
	t.once.Do(func() {
		t.open.Add(-1)
		_ = t.conn.SetWriteDeadline(time.Now().Add(tunnelEnd))
		err = t.write(header, []byte(word))
		select {
		case <-t.ended:
			_ = t.conn.Close()
		default:
			if !t.later(t.linger) {
				_ = t.conn.Close()
			}
		}
	})
	return err
}

// linger closes the connection when the other side has closed it, or soon.
func (t *tunnelHalf) linger() {
	_ = t.conn.SetReadDeadline(time.Now().Add(tunnelEnd))
	_, _ = io.Copy(io.Discard, t.conn)
	_ = t.conn.Close()
}

var _ room.Half = (*tunnelHalf)(nil)
