package circuits

import (
	"errors"
	"net"
	"time"

	"github.com/secretstack/secretstack/circuit"
	"github.com/secretstack/secretstack/multiserver"
)

// answerTimeout is how long an answer of one byte may take to be sent.
const answerTimeout = 5 * time.Second

// Serve takes over a connection that begins with a preamble. The first end of a circuit waits without a goroutine: Serve
// returns at once. For the second it returns when the circuit is over. The connection is closed by the table in any
// case.
func (t *Table) Serve(conn net.Conn) {
	_ = conn.SetReadDeadline(time.Now().Add(t.limits.Preamble))
	if !t.arrive(conn) {
		_ = conn.Close()
		return
	}
	token, err := circuit.ReadPreamble(conn)
	if err == nil && t.cfg.Elsewhere != nil && !t.knows(token) {
		t.depart(conn)
		if t.cfg.Elsewhere(conn, token) {
			return
		}
		if !t.arrive(conn) {
			_ = conn.Close()
			return
		}
	}
	defer t.wg.Done()
	p, answer := t.present(conn, token, err)
	switch {
	case answer == circuit.Joined:
		t.cfg.Proved(conn)
		t.join(p)
	case answer != 0:
		t.turnAway(conn, answer)
	case p != nil:
		t.cfg.Proved(conn) // it waits
	default:
		_ = conn.Close()
	}
}

// knows reports whether a token is this table's.
func (t *Table) knows(token circuit.Token) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.doors[token.Name()] != nil
}

// depart undoes arrive, for a connection that may become somebody else's.
func (t *Table) depart(conn net.Conn) {
	t.mu.Lock()
	delete(t.arriving, conn)
	t.mu.Unlock()
	t.wg.Done()
}

// arrive counts a connection that is about to present a token, unless the table is closed.
func (t *Table) arrive(conn net.Conn) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	t.wg.Add(1)
	t.arriving[conn] = struct{}{}
	return true
}

// present finds out what a connection is to be told. Without an answer it waits for the other end of the circuit that is
// returned, or has presented nothing.
func (t *Table) present(conn net.Conn, token circuit.Token, err error) (*pair, circuit.Answer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.arriving, conn)
	switch {
	case t.closed:
		return nil, circuit.Closing
	case err != nil:
		t.stats.BadPreambles++
		return nil, 0
	}
	d := t.take(token)
	if d == nil {
		t.stats.BadTokens++
		return nil, circuit.Unknown
	}
	p := d.pair
	if p.over {
		return nil, p.why
	}
	_ = conn.SetReadDeadline(time.Time{})
	d.conn = conn
	if d.other.conn == nil {
		p.first = d
		return p, 0
	}
	p.timer.Stop()
	p.matched = true
	p.joined = time.Now()
	t.pending--
	t.accounts.join(p)
	t.stats.Joined++
	return p, circuit.Joined
}

// join tells both ends of a circuit, the one that has waited first, and passes bytes until it is over.
func (t *Table) join(p *pair) {
	link := t.link(p)
	err := tell(p.first.conn, circuit.Joined)
	if err == nil {
		err = tell(p.first.other.conn, circuit.Joined)
	} else {
		_ = tell(p.first.other.conn, circuit.Absent)
	}
	if err != nil {
		link.Cut(err)
	}
	if t.cfg.Joined != nil {
		t.cfg.Joined(t.viewOf(p))
	}
	err = link.Run()

	t.mu.Lock()
	p.over = true
	t.leave(p)
	view := p.view()
	t.stats.Bytes += view.FromVisitor + view.FromTarget
	t.mu.Unlock()
	view.Ended, view.Err = time.Now(), err
	t.ended(view)
}

// link joins the connections of a circuit whose ends are both there. Those below which there is a TCP connection and
// nothing else are joined as such, so that the system can move the bytes.
func (t *Table) link(p *pair) *circuit.Link {
	visitor, target := p.visitor.conn, p.target.conn
	a, tcpA := multiserver.TCPConn(visitor)
	b, tcpB := multiserver.TCPConn(target)
	if tcpA {
		visitor = a
	}
	if tcpB {
		target = b
	}
	link := circuit.Join(visitor, target, circuit.JoinConfig{Idle: t.limits.Idle, Vanished: t.limits.Vanished, Pool: &t.pool})
	t.mu.Lock()
	p.link, p.inKernel = link, tcpA && tcpB
	if p.inKernel {
		t.stats.InKernel++
	}
	unwanted := p.unwanted
	t.mu.Unlock()
	if unwanted != nil {
		link.Cut(unwanted)
	}
	return link
}

// tell answers an end.
func tell(conn net.Conn, a circuit.Answer) error {
	_ = conn.SetWriteDeadline(time.Now().Add(answerTimeout))
	return errors.Join(circuit.WriteAnswer(conn, a), conn.SetWriteDeadline(time.Time{}))
}

// turnAway answers an end that is not joined, and closes its connection.
func (t *Table) turnAway(conn net.Conn, a circuit.Answer) {
	_ = tell(conn, a)
	_ = conn.Close()
	t.log.Debug("circuits: an end was turned away", "why", a.String())
}

// ended tells how a circuit went.
func (t *Table) ended(c Circuit) {
	t.log.Debug("circuits: a circuit is over", "visitor", c.Visitor.Short(), "target", c.Target.Short(),
		"joined", !c.Joined.IsZero(), "fromVisitor", c.FromVisitor, "fromTarget", c.FromTarget, "err", c.Err)
	if t.cfg.Ended != nil {
		t.cfg.Ended(c)
	}
}

func (t *Table) viewOf(p *pair) Circuit {
	t.mu.Lock()
	defer t.mu.Unlock()
	return p.view()
}

// view is what is known of the circuit now. The caller holds Table.mu.
func (p *pair) view() Circuit {
	c := Circuit{Visitor: p.visitor.key, Target: p.target.key, Offered: p.offered, Joined: p.joined, InKernel: p.inKernel}
	if p.link != nil {
		c.FromVisitor, c.FromTarget = p.link.Traffic()
	}
	return c
}
