package hub

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/hub/admin"
	"github.com/secretstack/secretstack/hub/native"
	"github.com/secretstack/secretstack/hub/registry/claim"
	"github.com/secretstack/secretstack/hub/vhost"
	"github.com/secretstack/secretstack/internal/netaddr"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/muxrpc"
	"github.com/secretstack/secretstack/muxrpc/streamconn"
)

// directory knows who is connected, and by which connection each courier is reached.
type directory struct {
	web vhost.StreamsConfig // of each courier, but for Open

	mu       sync.Mutex
	sessions map[*secretstack.Peer]*session
	couriers map[[keys.PublicKeySize]byte]*session
	// addresses are where couriers say that they can be reached, those who are not here any more included.
	addresses map[[keys.PublicKeySize]byte]*claim.Addresses
}

// maxAddresses is how many couriers are remembered with their addresses, some 500 bytes each. When there are more, any
// one that is not here is forgotten.
const maxAddresses = 32768

// session is one connection of a peer.
type session struct {
	dir   *directory
	peer  *secretstack.Peer
	addr  netip.Addr // the zero value for one without
	came  int64      // when, in ns since 1970: a time.Time is three times as large
	told  told
	ws    bool // inside a WebSocket
	gated bool // counted by admission's gate

	// Guarded by directory.mu.
	published bool
	toldMail  bool // that something is in its mailbox, and it has not looked yet
	left      bool
	serves    offer
	streams   *vhost.Streams // for HTTP; nil: nobody has asked for any
}

// offer is what a courier says that it serves.
type offer struct{ http, circuits bool }

// offered reads the words for it. Unknown ones mean nothing.
func offered(words []string) offer {
	return offer{http: slices.Contains(words, native.ServesHTTP), circuits: slices.Contains(words, native.ServesCircuits)}
}

// words returns the words for it.
func (o offer) words() (words []string) {
	if o.http {
		words = append(words, native.ServesHTTP)
	}
	if o.circuits {
		words = append(words, native.ServesCircuits)
	}
	return words
}

func newDirectory(l Limits) *directory {
	return &directory{
		web:      vhost.StreamsConfig{MaxStreams: l.MaxStreams, IdleTimeout: l.StreamIdle, Queue: l.Queue, Wait: l.QueueWait},
		sessions: map[*secretstack.Peer]*session{},
		couriers: map[[keys.PublicKeySize]byte]*session{}, addresses: map[[keys.PublicKeySize]byte]*claim.Addresses{},
	}
}

// newSession is what is known of a connection that has just come.
func (d *directory) newSession(p *secretstack.Peer) *session {
	address := p.Address()
	return &session{dir: d, peer: p, addr: addrOf(address), ws: strings.HasPrefix(address, "ws"), came: time.Now().UnixNano()}
}

// enter adds a connection.
func (d *directory) enter(s *session) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sessions[s.peer] = s
}

// leave takes a connection away that has ended, and returns it with what has to be closed; nil for one that is unknown.
func (d *directory) leave(p *secretstack.Peer) (*session, *vhost.Streams) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.sessions[p]
	if s == nil {
		return nil, nil
	}
	delete(d.sessions, p)
	if key := p.Key().Array(); d.couriers[key] == s {
		delete(d.couriers, key)
	}
	s.left = true
	return s, s.streams
}

// publish makes a connection the one by which its courier is reached. It returns the one that was so before, if there
// was another, and reports whether the connection is still there.
func (d *directory) publish(p *secretstack.Peer, serves offer) (replaced *secretstack.Peer, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.sessions[p]
	if s == nil {
		return nil, false
	}
	before := d.couriers[p.Key().Array()]
	d.couriers[p.Key().Array()] = s
	s.published, s.serves = true, serves
	if before == nil || before == s {
		return nil, true
	}
	before.published = false
	return before.peer, true
}

// note remembers where a courier says that it can be reached, unless it has said something later.
func (d *directory) note(key keys.PublicKey, a *claim.Addresses) {
	if a == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	k := key.Array()
	before := d.addresses[k]
	if before != nil && before.Time.After(a.Time) {
		return
	}
	d.addresses[k] = a
	for other := range d.addresses {
		if len(d.addresses) <= maxAddresses {
			return
		}
		if d.couriers[other] == nil {
			delete(d.addresses, other)
		}
	}
}

// addressesOf returns what note remembers of a courier, or nil.
func (d *directory) addressesOf(key keys.PublicKey) *claim.Addresses {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.addresses[key.Array()]
}

// session returns what is known of a connection.
func (d *directory) session(p *secretstack.Peer) *session {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.sessions[p]
}

// courier returns the connection by which a courier is reached, or nil.
func (d *directory) courier(key keys.PublicKey) *session {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.couriers[key.Array()]
}

// counts returns how many couriers are reached, and how many connections there are.
func (d *directory) counts() (couriers, connections int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.couriers), len(d.sessions)
}

// all returns the connections that there are.
func (d *directory) all() []*session {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := make([]*session, 0, len(d.sessions))
	for _, s := range d.sessions {
		all = append(all, s)
	}
	return all
}

// published returns the connections by which couriers are reached.
func (d *directory) published() []*session {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := make([]*session, 0, len(d.couriers))
	for _, s := range d.couriers {
		all = append(all, s)
	}
	return all
}

// closeWeb closes the streams for HTTP of all couriers: unused ones would keep their connections open.
func (d *directory) closeWeb() {
	var all []*vhost.Streams
	d.mu.Lock()
	for _, s := range d.sessions {
		s.left = true
		if s.streams != nil {
			all = append(all, s.streams)
		}
	}
	d.mu.Unlock()
	for _, streams := range all {
		_ = streams.Close()
	}
}

// offers returns what a courier says that it serves.
func (s *session) offers() offer {
	s.dir.mu.Lock()
	defer s.dir.mu.Unlock()
	return s.serves
}

func (s *session) isPublished() bool {
	s.dir.mu.Lock()
	defer s.dir.mu.Unlock()
	return s.published
}

// Dial gives a connection on which the courier serves HTTP, and makes a session a [vhost.Courier].
func (s *session) Dial(ctx context.Context) (net.Conn, error) {
	streams, err := s.web()
	if err != nil {
		return nil, err
	}
	return streams.Dial(ctx)
}

// web returns the streams of a courier, which are made when the first visitor comes.
func (s *session) web() (*vhost.Streams, error) {
	s.dir.mu.Lock()
	defer s.dir.mu.Unlock()
	if s.left {
		return nil, vhost.ErrAway
	}
	if s.streams == nil {
		cfg := s.dir.web
		cfg.Open = s.open
		streams, err := vhost.NewStreams(cfg)
		if err != nil {
			return nil, err
		}
		s.streams = streams
	}
	return s.streams, nil
}

// open opens a stream for HTTP. It does not wait for the courier: what it has to say comes where an answer would.
func (s *session) open(ctx context.Context) (net.Conn, error) {
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, cancel)
	stream, err := muxrpc.Duplex[[]byte, []byte](life, s.peer, native.MethodHTTP)
	if !stop() {
		err = errors.Join(err, context.Cause(ctx))
	}
	switch {
	case err == nil:
		return streamconn.New(stream, streamconn.Options{OnClose: cancel}), nil
	case ctx.Err() == nil:
		err = vhost.ErrAway // the session has ended, or is about to
	}
	cancel() // aborts the stream, if there is one
	return nil, err
}

// addrOf returns the address of IP in the multiserver address of a peer, as in net:192.0.2.7:40112~shs:… and
// ws:192.0.2.7~shs:…; the zero value for one without.
func addrOf(address string) netip.Addr {
	transport, _, _ := strings.Cut(address, "~")
	name, rest, _ := strings.Cut(transport, ":")
	if name == "net" {
		if i := strings.LastIndexByte(rest, ':'); i >= 0 {
			rest = rest[:i]
		}
	}
	a, err := netip.ParseAddr(rest)
	if err != nil {
		return netip.Addr{}
	}
	return netaddr.Plain(a)
}

// since is when the connection came.
func (s *session) since() time.Time { return time.Unix(0, s.came) }

// protocol is what the connection speaks.
func (s *session) protocol() admin.Protocol {
	if s.ws {
		return admin.ProtocolWebSocket
	}
	return admin.ProtocolHandshake
}

// webStats counts the streams for HTTP.
func (s *session) webStats() vhost.Stats {
	s.dir.mu.Lock()
	streams := s.streams
	s.dir.mu.Unlock()
	if streams == nil {
		return vhost.Stats{}
	}
	return streams.Stats()
}
