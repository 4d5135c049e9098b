package hubclient_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/secretstack/secretstack/circuit"
	"github.com/secretstack/secretstack/hub/native"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/multiserver"
	"github.com/secretstack/secretstack/shs"
)

// evil is a hub that does with circuits what it likes.
type evil struct {
	*tcpHub
	origin func(visitor keys.PublicKey) keys.PublicKey // as the target is told
	target func(asked keys.PublicKey) keys.PublicKey   // who is called
	join   func(visitor, target net.Conn)

	mu      sync.Mutex
	waiting map[circuit.Token]chan net.Conn
}

func newEvil(t *testing.T, name string) *evil {
	t.Helper()
	same := func(k keys.PublicKey) keys.PublicKey { return k }
	e := &evil{tcpHub: newTCPHub(t, name), origin: same, target: same, waiting: map[circuit.Token]chan net.Conn{}}
	e.set(func() {
		e.connect = e.ask
		e.serve = e.meet
	})
	return e
}

// ask makes two tokens, calls somebody, and joins whom it has called with whom has asked.
func (e *evil) ask(visitor keys.PublicKey, r native.ConnectRequest) (native.Connected, error) {
	v, o := circuit.NewToken(), circuit.NewToken()
	visitorCame, targetCame := make(chan net.Conn, 1), make(chan net.Conn, 1)
	e.mu.Lock()
	e.waiting[v], e.waiting[o] = visitorCame, targetCame
	join, origin := e.join, e.origin(visitor)
	called := e.target(r.Key)
	e.mu.Unlock()
	go func() {
		_ = e.offer(e.courier(called).peer, origin, o)
		a, b := <-visitorCame, <-targetCame
		_ = errors.Join(circuit.WriteAnswer(a, circuit.Joined), circuit.WriteAnswer(b, circuit.Joined))
		join(a, b)
		a.Close()
		b.Close()
	}()
	return native.Connected{Key: r.Key, Token: v, Lifetime: 5000}, nil
}

// meet takes a connection that presents a token.
func (e *evil) meet(conn net.Conn) {
	token, err := circuit.ReadPreamble(conn)
	if err != nil {
		conn.Close()
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.waiting[token] <- conn
}

// attack is what an evil hub does to one direction of a circuit: it gets all bytes, from the first of the handshake on, and
// writes what it likes.
type attack func(to io.Writer, from io.Reader) error

// pass is no attack.
func pass(to io.Writer, from io.Reader) error { _, err := io.Copy(to, from); return err }

// mangled joins two ends with an attack on either direction; nil is none. When bytes are missing, nobody says anything any
// more: whoever attacks does not wait for ever.
func mangled(toTarget, toVisitor attack) func(visitor, target net.Conn) {
	attacks := toTarget != nil || toVisitor != nil
	if toTarget == nil {
		toTarget = pass
	}
	if toVisitor == nil {
		toVisitor = pass
	}
	return between(toTarget, toVisitor, attacks)
}

// between joins two ends with something on either direction.
func between(toTarget, toVisitor attack, givesUp bool) func(visitor, target net.Conn) {
	return func(visitor, target net.Conn) {
		var both sync.WaitGroup
		half := func(how attack, to, from net.Conn) {
			both.Go(func() {
				if givesUp {
					_ = how(to, &impatient{from})
				} else {
					_ = how(to, from)
				}
				_ = to.(interface{ CloseWrite() error }).CloseWrite()
				_, _ = io.Copy(io.Discard, from) // until the end has closed its connection
			})
		}
		half(toTarget, target, visitor)
		half(toVisitor, visitor, target)
		both.Wait()
	}
}

// impatient is a connection that is not read from for ever: the attacker gives up.
type impatient struct{ net.Conn }

func (c *impatient) Read(p []byte) (int, error) {
	_ = c.SetReadDeadline(time.Now().Add(patience))
	defer func() { _ = c.SetReadDeadline(time.Time{}) }()
	return c.Conn.Read(p)
}

// passFirst passes n bytes, and reports false when there are no more.
func passFirst(to io.Writer, from io.Reader, n int) bool {
	_, err := io.CopyN(to, from, int64(n))
	return err == nil
}

func flip(at int, bit byte) attack {
	return func(to io.Writer, from io.Reader) error {
		b := make([]byte, 1)
		if !passFirst(to, from, at) {
			return io.ErrUnexpectedEOF
		}
		if _, err := io.ReadFull(from, b); err != nil {
			return err
		}
		b[0] ^= bit
		if _, err := to.Write(b); err != nil {
			return err
		}
		_, err := io.Copy(to, from)
		return err
	}
}

func drop(at, n int) attack {
	return func(to io.Writer, from io.Reader) error {
		if !passFirst(to, from, at) || !passFirst(io.Discard, from, n) {
			return io.ErrUnexpectedEOF
		}
		_, err := io.Copy(to, from)
		return err
	}
}

func repeat(at, n int) attack {
	return func(to io.Writer, from io.Reader) error {
		b := make([]byte, n)
		if !passFirst(to, from, at) {
			return io.ErrUnexpectedEOF
		}
		if _, err := io.ReadFull(from, b); err != nil {
			return err
		}
		_, err := io.Copy(to, io.MultiReader(bytes.NewReader(b), bytes.NewReader(b), from))
		return err
	}
}

func swap(at, n, m int) attack {
	return func(to io.Writer, from io.Reader) error {
		a, b := make([]byte, n), make([]byte, m)
		if !passFirst(to, from, at) {
			return io.ErrUnexpectedEOF
		}
		if _, err := io.ReadFull(from, a); err != nil {
			return err
		}
		if _, err := io.ReadFull(from, b); err != nil {
			return err
		}
		_, err := io.Copy(to, io.MultiReader(bytes.NewReader(b), bytes.NewReader(a), from))
		return err
	}
}

func truncate(at int) attack {
	return func(to io.Writer, from io.Reader) error {
		passFirst(to, from, at)
		return errors.New("cut")
	}
}

// insert adds bytes of the hub's own.
func insert(at int, own []byte) attack {
	return func(to io.Writer, from io.Reader) error {
		if !passFirst(to, from, at) {
			return io.ErrUnexpectedEOF
		}
		_, err := io.Copy(to, io.MultiReader(bytes.NewReader(own), from))
		return err
	}
}

const (
	// What the visitor and the target send in their handshakes, docs/PROTOCOL.md §1.2.
	visitorShakes = shs.ChallengeSize + shs.HelloSize
	targetShakes  = shs.ChallengeSize + shs.AcceptSize
	// box is one box with a body of 1000 bytes, and goodbye the end.
	boxHeader, boxBody = 34, 1000
	box                = boxHeader + boxBody
	goodbye            = 34
)

// exchange is what a visitor and a target got from each other, and how that ended for either.
type exchange struct {
	visitorGot, targetGot []byte
	visitorErr, targetErr error
	targetSaw             bool // a peer that had proved its key
}

func says(who string) []byte {
	return bytes.Repeat([]byte(who+" says what is true. "), 1000)[:3*boxBody]
}

// patience is how long an attacker waits for what does not come, because he has kept something back.
const patience = 100 * time.Millisecond

// asks is what the visitor does with a stream: it says two boxes, hears three, says the third and the goodbye, and hears the
// target's goodbye. So either knows that all has arrived, but for the last goodbye.
func asks(conn *multiserver.Conn) ([]byte, error) {
	say := says("the visitor")
	err := sendBoxes(conn, say[:2*boxBody])
	got := make([]byte, 3*boxBody)
	n := 0
	if err == nil {
		n, err = io.ReadFull(conn, got)
	}
	if err == nil {
		err = errors.Join(sendBoxes(conn, say[2*boxBody:]), conn.CloseWrite())
	}
	if err == nil {
		err = atEnd(conn)
	}
	return got[:n], err
}

// answers is what the target does.
func answers(conn *multiserver.Conn) ([]byte, error) {
	got := make([]byte, 3*boxBody)
	n, err := io.ReadFull(conn, got[:2*boxBody])
	if err == nil {
		err = sendBoxes(conn, says("the target"))
	}
	if err == nil {
		var m int
		m, err = io.ReadFull(conn, got[n:])
		n += m
	}
	if err == nil {
		err = atEnd(conn)
	}
	if err == nil {
		err = conn.CloseWrite()
	}
	return got[:n], err
}

func sendBoxes(conn *multiserver.Conn, say []byte) error {
	for piece := range slices.Chunk(say, boxBody) {
		if _, err := conn.Write(piece); err != nil {
			return err
		}
	}
	return nil
}

func atEnd(conn *multiserver.Conn) error {
	if n, err := conn.Read(make([]byte, 1)); n > 0 || !errors.Is(err, io.EOF) {
		return fmt.Errorf("no goodbye, but %d bytes and %w", n, err)
	}
	return nil
}

// leave closes a connection, without a goodbye when it is broken.
func leave(conn *multiserver.Conn, err error) {
	if err != nil {
		_ = conn.Abort()
		return
	}
	_ = conn.Close()
}

type attacked struct {
	hub    *evil
	visit  *person
	target *person
	seen   chan exchange
}

func newAttacked(t *testing.T) *attacked {
	t.Helper()
	a := &attacked{hub: newEvil(t, "evil"), seen: make(chan exchange, 8)}
	a.target = newPerson(t, "alice", []*tcpHub{a.hub.tcpHub})
	a.visit = newPerson(t, "bob", nil)
	err := a.target.client.HandleStream(bytesProtocol, func(_ context.Context, conn *multiserver.Conn) {
		got, err := answers(conn)
		a.seen <- exchange{targetGot: got, targetErr: err, targetSaw: true} // before the hub can see that it is over
		leave(conn, err)
	})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// run dials once, with the hub doing as told.
func (a *attacked) run(t *testing.T, join func(visitor, target net.Conn)) exchange {
	t.Helper()
	over := make(chan struct{})
	a.hub.mu.Lock()
	a.hub.join = func(visitor, target net.Conn) {
		join(visitor, target)
		visitor.Close()
		target.Close()
		close(over)
	}
	a.hub.mu.Unlock()
	var got []byte
	conn, err := a.visit.client.DialStream(t.Context(), a.hub.to(t, "alice"), bytesProtocol)
	if err == nil {
		got, err = asks(conn)
		leave(conn, err)
	}
	<-over
	x := exchange{}
	select {
	case x = <-a.seen:
	default:
		x.targetErr = errors.New("there was no connection")
	}
	x.visitorGot, x.visitorErr = got, err
	return x
}

// check holds both ends to what they must notice: neither got anything that the other did not say, in its order, and
// whoever was attacked knows.
func (x exchange) check(t *testing.T, what string, visitorAttacked, targetAttacked bool) {
	t.Helper()
	if !bytes.HasPrefix(says("the target"), x.visitorGot) {
		t.Errorf("%s: the visitor got what the target did not say", what)
	}
	if !bytes.HasPrefix(says("the visitor"), x.targetGot) {
		t.Errorf("%s: the target got what the visitor did not say", what)
	}
	if visitorAttacked && x.visitorErr == nil {
		t.Errorf("%s: the visitor did not notice", what)
	}
	if targetAttacked && x.targetErr == nil {
		t.Errorf("%s: the target did not notice", what)
	}
}

func TestAHubThatPassesEverythingOnIsNotNoticed(t *testing.T) {
	a := newAttacked(t)
	for range 3 {
		x := a.run(t, mangled(nil, nil))
		if x.visitorErr != nil || x.targetErr != nil || len(x.visitorGot) != 3*boxBody || len(x.targetGot) != 3*boxBody {
			t.Errorf("%d bytes, %v; %d bytes, %v", len(x.visitorGot), x.visitorErr, len(x.targetGot), x.targetErr)
		}
	}
}

// TestBothEndsNoticeWhatAHubDoesToTheirBytes goes through all that can be done to a stream, in every part of it. Only that
// its last goodbye has not arrived is something that no sender can know.
func TestBothEndsNoticeWhatAHubDoesToTheirBytes(t *testing.T) {
	a := newAttacked(t)
	type attackAt struct {
		attack
		at int // the first byte that is not as it was
	}
	attacks := func(shakes int) map[string]attackAt {
		all := map[string]attackAt{}
		stream := shakes + 3*box
		for at := 0; at < stream+goodbye; at += 1 + at%29 { // handshake, headers, bodies and goodbye
			all[fmt.Sprintf("flip byte %d", at)] = attackAt{flip(at, 1<<(at%8)), at}
		}
		for _, at := range []int{0, 1, 63, 64, shakes - 1, shakes, shakes + 33, shakes + 34, shakes + box, stream - 1, stream, stream + 33} {
			all[fmt.Sprintf("truncate at %d", at)] = attackAt{truncate(at), at}
			all[fmt.Sprintf("drop byte %d", at)] = attackAt{drop(at, 1), at}
			all[fmt.Sprintf("insert before %d", at)] = attackAt{insert(at, []byte("hub")), at}
		}
		for first := range 3 {
			at := shakes + first*box
			all[fmt.Sprintf("drop box %d", first)] = attackAt{drop(at, box), at}
			all[fmt.Sprintf("repeat box %d", first)] = attackAt{repeat(at, box), at + box}
			all[fmt.Sprintf("drop header %d", first)] = attackAt{drop(at, boxHeader), at}
			if first < 2 {
				all[fmt.Sprintf("swap boxes %d and %d", first, first+1)] = attackAt{swap(at, box, box), at}
			}
		}
		all["swap the last box and the goodbye"] = attackAt{swap(shakes+2*box, box, goodbye), shakes + 2*box}
		all["drop the first message"] = attackAt{drop(0, 64), 0}
		all["repeat the first message"] = attackAt{repeat(0, 64), 64}
		all["drop the second message"] = attackAt{drop(64, shakes-64), 64}
		all["repeat the second message"] = attackAt{repeat(64, shakes-64), shakes}
		all["put the goodbye first"] = attackAt{func(to io.Writer, from io.Reader) error {
			var rest bytes.Buffer
			if !passFirst(to, from, shakes) || !passFirst(&rest, from, 3*box) || !passFirst(to, from, goodbye) {
				return io.ErrUnexpectedEOF
			}
			_, err := io.Copy(to, io.MultiReader(&rest, from))
			return err
		}, shakes}
		return all
	}
	for what, how := range attacks(visitorShakes) {
		a.run(t, mangled(how.attack, nil)).check(t, "to the target: "+what, true, true)
	}
	for what, how := range attacks(targetShakes) {
		a.run(t, mangled(nil, how.attack)).check(t, "to the visitor: "+what, true, how.at < targetShakes+3*box)
	}
}

// TestAHubCannotReplayACircuit gives each end what the other has sent in a circuit before.
func TestAHubCannotReplayACircuit(t *testing.T) {
	a := newAttacked(t)
	var toTarget, toVisitor bytes.Buffer
	record := func(b *bytes.Buffer) attack {
		return func(to io.Writer, from io.Reader) error { _, err := io.Copy(io.MultiWriter(to, b), from); return err }
	}
	if x := a.run(t, between(record(&toTarget), record(&toVisitor), false)); x.visitorErr != nil || x.targetErr != nil {
		t.Fatal(x.visitorErr, x.targetErr)
	}
	replay := func(b []byte) attack {
		return func(to io.Writer, from io.Reader) error {
			go func() { _, _ = io.Copy(io.Discard, from) }()
			_, err := to.Write(b)
			return errors.Join(err, errors.New("over"))
		}
	}
	x := a.run(t, mangled(replay(toTarget.Bytes()), nil))
	if x.check(t, "the visitor's bytes", true, true); x.targetSaw {
		t.Error("the target took a recording for the visitor")
	}
	x = a.run(t, mangled(nil, replay(toVisitor.Bytes())))
	if x.check(t, "the target's bytes", true, true); len(x.visitorGot) > 0 {
		t.Error("the visitor took a recording for the target")
	}
	// Behind a handshake of today, boxes of yesterday.
	boxes := bytes.Clone(toTarget.Bytes()[visitorShakes:])
	x = a.run(t, mangled(func(to io.Writer, from io.Reader) error {
		passFirst(to, from, visitorShakes)
		return replay(boxes)(to, from)
	}, nil))
	if x.check(t, "boxes of yesterday", true, true); len(x.targetGot) > 0 {
		t.Error("the target took boxes of another circuit")
	}
}

// TestAHubCannotAnswerItself has the hub play the other end for either, with all that it can know.
func TestAHubCannotAnswerItself(t *testing.T) {
	a := newAttacked(t)
	echoes := func(visitor, target net.Conn) {
		var both sync.WaitGroup
		for _, conn := range []net.Conn{visitor, target} {
			both.Go(func() { _, _ = io.CopyN(conn, conn, 64); conn.Close() })
		}
		both.Wait()
	}
	a.run(t, echoes).check(t, "echo", true, true)

	network := keys.MainNet() // the hub knows the network, and has an identity of its own
	plays := func(visitor, target net.Conn) {
		var both sync.WaitGroup
		both.Go(func() {
			if _, err := shs.Server(visitor, shs.Config{Identity: a.hub.id, AppKey: network}, nil); err == nil {
				t.Error("the hub plays the target for the visitor")
			}
			visitor.Close()
		})
		both.Go(func() {
			_, err := shs.Client(target, shs.Config{Identity: a.hub.id, AppKey: network}, a.target.app.ID())
			if err == nil {
				t.Error("the hub plays the visitor for the target")
			}
			target.Close()
		})
		both.Wait()
	}
	if x := a.run(t, plays); x.targetSaw {
		t.Error("the target took the hub for a peer")
	}
}

// TestTheWrongTwoAreNotJoined has the hub join people who did not ask for each other.
func TestTheWrongTwoAreNotJoined(t *testing.T) {
	hub := newEvil(t, "evil")
	alice := newPerson(t, "alice", []*tcpHub{hub.tcpHub})
	carol := newPerson(t, "carol", []*tcpHub{hub.tcpHub})
	bob := newPerson(t, "bob", nil)
	set := func(change func()) { hub.mu.Lock(); defer hub.mu.Unlock(); change() }
	set(func() { hub.join = mangled(nil, nil) })
	mustConnect(t, bob.app, hub.to(t, "alice"), "alice")

	t.Run("another target", func(t *testing.T) {
		set(func() { hub.target = func(keys.PublicKey) keys.PublicKey { return carol.app.ID() } })
		defer set(func() { hub.target = func(k keys.PublicKey) keys.PublicKey { return k } })
		if _, err := bob.app.Connect(t.Context(), hub.to(t, "alice")); !errors.Is(err, shs.ErrRefused) {
			t.Errorf("got %v", err)
		}
		if len(carol.app.PeersOf(bob.app.ID())) > 0 {
			t.Error("carol has got a visitor who wanted alice")
		}
	})
	t.Run("another visitor", func(t *testing.T) {
		set(func() { hub.origin = func(keys.PublicKey) keys.PublicKey { return carol.app.ID() } })
		before := len(alice.app.PeersOf(bob.app.ID()))
		if _, err := bob.app.Connect(t.Context(), hub.to(t, "alice")); !errors.Is(err, shs.ErrRefused) {
			t.Errorf("got %v", err)
		}
		handleStreams(t, alice, bytesProtocol)
		if conn, err := bob.client.DialStream(t.Context(), hub.to(t, "alice"), bytesProtocol); err == nil {
			conn.Close()
			t.Error("a stream was opened for somebody else than was announced")
		}
		if got := len(alice.app.PeersOf(bob.app.ID())); got != before || len(alice.app.PeersOf(carol.app.ID())) > 0 {
			t.Error("alice has got a visitor whom the hub had not announced")
		}
	})
}
