package vhost

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/secretstack/secretstack/internal/netaddr"
)

const (
	// A tunnel client that lost a socket opens another one at once, so the end of the old one and the new one arrive
	// together: the old one gets this long to be noticed before another is thrown out for the new one.
	settle = 100 * time.Millisecond

	// Whoever is thrown out comes back at once. Beyond a first burst, this is how often it happens.
	replaceEvery = time.Second

	longestAcceptPause = time.Second
)

// PoolConfig says how many raw tunnel sockets a courier may have, and how long everything may take.
type PoolConfig struct {
	// MaxSockets is how many sockets a courier may have at once; 0: 4. It is what a registration's max_conn_count says.
	// A socket too many takes the place of the idle one used longest ago, which may be half open, but no more often than
	// about once a second; when no socket is idle it waits until one is, or has gone. It is not closed, for a client that
	// is closed comes back at once.
	MaxSockets int

	Grace     time.Duration // how long a courier may have no socket before its pool ends; 0: 10 s
	KeepAlive time.Duration // silence before TCP asks whether a socket still lives, three times, thrice as often; 0: 15 s
	Queue     int           // visitors that may wait for a socket; 0: 256; negative: none
	Wait      time.Duration // for how long; 0: 10 s
	Logger    *slog.Logger  // nil: none
}

func (c PoolConfig) withDefaults() PoolConfig {
	c.MaxSockets = positive(c.MaxSockets, defaultSockets)
	c.Grace = positive(c.Grace, defaultGrace)
	c.KeepAlive = positive(c.KeepAlive, defaultKeepAlive)
	c.Queue = bound(c.Queue, defaultQueue)
	c.Wait = positive(c.Wait, defaultWait)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// listenConfig turns keep-alive on: a courier whose machine vanished is noticed after twice KeepAlive.
func (c PoolConfig) listenConfig() net.ListenConfig {
	return net.ListenConfig{KeepAliveConfig: net.KeepAliveConfig{
		Enable:   true,
		Idle:     c.KeepAlive,
		Interval: max(c.KeepAlive/3, time.Second),
		Count:    3,
	}}
}

// A Pool is a [Courier] that opens its connections itself: the raw tunnel sockets of one tunnel client, on a port of its
// own. The client sends nothing that says who it is, so the pool hears only from the address that registered.
//
// A pool ends, and gives its port back, when it is closed or when the courier has had no socket for Grace. Until then the
// courier can register again and keeps its port.
type Pool struct {
	shelf

	cfg      PoolConfig
	log      *slog.Logger
	listener net.Listener
	running  sync.WaitGroup // the acceptor, and a timer that is set
	changed  chan struct{}  // wakes the acceptor when a socket has left or come free
	done     chan struct{}
	onEnd    func(*Pool) // called before done is closed; may be nil

	remote  netip.Addr  // guarded by mu, as is what follows
	current int         // sockets since the last registration
	grace   *time.Timer // set while current is 0; nil otherwise
	burst   int         // sockets that may be replaced at once
	refill  time.Time   // when burst was last counted
}

// NewPool opens a port for the courier that registers from remote. Its errors are those of [Ports.Listen].
func NewPool(ctx context.Context, ports *Ports, cfg PoolConfig, remote netip.Addr) (*Pool, error) {
	cfg = cfg.withDefaults()
	l, err := ports.Listen(ctx, cfg.listenConfig())
	if err != nil {
		return nil, fmt.Errorf("vhost: open a port for a courier: %w", err)
	}
	return newPool(l, cfg, remote, nil), nil
}

func newPool(l net.Listener, cfg PoolConfig, remote netip.Addr, onEnd func(*Pool)) *Pool {
	cfg = cfg.withDefaults()
	p := &Pool{
		cfg: cfg, log: cfg.Logger, listener: l, onEnd: onEnd,
		changed: make(chan struct{}, 1), done: make(chan struct{}),
		remote: netaddr.Plain(remote), burst: cfg.MaxSockets, refill: time.Now(),
	}
	p.queue, p.wait = cfg.Queue, cfg.Wait
	p.left, p.stood = p.socketLeft, p.wake
	p.init()
	p.mu.Lock()
	p.armGrace()
	p.mu.Unlock()
	p.running.Go(p.accept)
	return p
}

// Port is the TCP port at which the courier connects.
func (p *Pool) Port() int {
	if addr, ok := p.listener.Addr().(*net.TCPAddr); ok {
		return addr.Port
	}
	return 0
}

// MaxSockets is how many sockets the courier may have.
func (p *Pool) MaxSockets() int { return p.cfg.MaxSockets }

// Register says that the courier has registered again, from remote. The sockets of before, which may be half open, are
// closed: those that a visitor uses after their exchange, or at the next registration. The courier has Grace to connect.
// The error is [ErrClosed] when the pool has ended.
func (p *Pool) Register(remote netip.Addr) error {
	p.mu.Lock()
	if p.ended {
		p.mu.Unlock()
		return ErrClosed
	}
	p.remote = netaddr.Plain(remote)
	stale := p.standing
	p.standing = nil
	for s := range p.all {
		if s.retired {
			stale = append(stale, s)
		}
		s.retired = true
	}
	p.current = 0
	p.disarmGrace()
	p.armGrace()
	p.mu.Unlock()
	p.wake()
	for _, s := range stale {
		p.discard(s)
	}
	return nil
}

// Dial gives a socket for one exchange. Its errors are [ErrBusy], [ErrAway] when the courier has no socket, and the
// context's.
func (p *Pool) Dial(ctx context.Context) (net.Conn, error) {
	s, err := p.take(ctx)
	if err != nil {
		return nil, err
	}
	return &lease{socket: s, shelf: &p.shelf}, nil
}

// Stats counts sockets and visitors.
func (p *Pool) Stats() Stats { return p.stats() }

// Done is closed when the pool has ended and nothing of it is left.
func (p *Pool) Done() <-chan struct{} { return p.done }

// Close ends the pool: every socket is closed, those in use too. It returns when nothing of the pool is left, and always
// nil.
func (p *Pool) Close() error {
	p.stop()
	<-p.done
	return nil
}

// stop ends the pool without waiting.
func (p *Pool) stop() {
	if !p.end() {
		return
	}
	_ = p.listener.Close()
	p.mu.Lock()
	p.disarmGrace()
	p.mu.Unlock()
	go p.finish() // ends with done
}

func (p *Pool) finish() {
	p.running.Wait()
	p.watchers.Wait()
	if p.onEnd != nil {
		p.onEnd(p)
	}
	close(p.done)
}

// socketLeft is called with mu held.
func (p *Pool) socketLeft(s *socket) {
	p.wake()
	if s.retired {
		return
	}
	p.current--
	if p.current == 0 && !p.ended {
		p.armGrace()
	}
}

// wake lets the acceptor look again.
func (p *Pool) wake() {
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

// armGrace is called with mu held, when the courier has no socket.
func (p *Pool) armGrace() {
	if p.grace != nil {
		return
	}
	var timer *time.Timer
	p.running.Add(1)
	timer = time.AfterFunc(p.cfg.Grace, func() {
		defer p.running.Done()
		p.mu.Lock()
		expired := p.grace == timer
		p.mu.Unlock()
		if expired {
			p.stop()
		}
	})
	p.grace = timer
}

// disarmGrace is called with mu held.
func (p *Pool) disarmGrace() {
	if p.grace != nil && p.grace.Stop() {
		p.running.Done() // it will not run
	}
	p.grace = nil
}

// accept is the acceptor. It ends with the listener.
func (p *Pool) accept() {
	pause := 5 * time.Millisecond
	for {
		c, err := p.listener.Accept()
		if err == nil {
			pause = 5 * time.Millisecond
			p.admit(c)
			continue
		}
		if errors.Is(err, net.ErrClosed) {
			return
		}
		p.log.Warn("a courier's port does not accept", "port", p.Port(), "err", err)
		select { // out of file descriptors, most likely: others will be closed
		case <-time.After(pause):
			pause = min(2*pause, longestAcceptPause)
		case <-p.over:
			return
		}
	}
}

// A verdict is what happens to a socket that has just come.
type verdict int

const (
	held verdict = iota
	admitted
	refused
)

// admit finds a place for a socket that has just come, however long that takes: meanwhile the next ones wait in the
// system's queue, unheard and unharmed.
func (p *Pool) admit(c net.Conn) {
	from := netaddr.Remote(c)
	came := time.Now()
	for {
		v, replaced, again := p.judge(c, from, came)
		switch v {
		case admitted:
			if replaced != nil {
				p.log.Debug("a newer socket took the place of an idle one", "port", p.Port())
				_ = replaced.Close()
			}
			return
		case refused:
			refuse(c)
			return
		case held:
			p.hold(again)
		}
	}
}

// judge decides about a socket. A held one asks again after a change, or after the time given unless that is 0.
func (p *Pool) judge(c net.Conn, from netip.Addr, came time.Time) (v verdict, replaced *socket, again time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended || !from.IsValid() || from != p.remote {
		return refused, nil, 0
	}
	if p.current < p.cfg.MaxSockets {
		p.enter(c)
		return admitted, nil, 0
	}
	now := time.Now()
	if rest := settle - now.Sub(came); rest > 0 {
		return held, nil, rest
	}
	if len(p.standing) == 0 {
		return held, nil, 0
	}
	if rest := p.nextReplacement(now); rest > 0 {
		return held, nil, rest
	}
	p.burst--
	replaced = p.standing[0]
	p.remove(replaced)
	p.enter(c)
	return admitted, replaced, 0
}

// nextReplacement is called with mu held. It gives the time until a socket may be thrown out for a newer one.
func (p *Pool) nextReplacement(now time.Time) time.Duration {
	earned := int(now.Sub(p.refill) / replaceEvery)
	p.refill = p.refill.Add(time.Duration(earned) * replaceEvery)
	p.burst = min(p.burst+earned, p.cfg.MaxSockets)
	if p.burst > 0 {
		return 0
	}
	return p.refill.Add(replaceEvery).Sub(now)
}

// enter is called with mu held.
func (p *Pool) enter(c net.Conn) {
	s := newSocket(c)
	p.all[s] = struct{}{}
	p.current++
	p.disarmGrace()
	p.stand(s)
}

// hold waits for a change, for some time unless that is 0, or for the end.
func (p *Pool) hold(d time.Duration) {
	var timeout <-chan time.Time
	if d > 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		timeout = timer.C
	}
	select {
	case <-p.changed:
	case <-timeout:
	case <-p.over:
	}
}

// refuse closes a stranger's connection, leaving nothing behind for it.
func refuse(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = c.Close()
}
