package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	gonet "net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// relay is a program that joins pairs of ends. Both ends of each pair are in this process, the relay in one of its own.
type relay interface {
	// open makes a pair: what is written to a comes out of b.
	open(ctx context.Context) (a io.WriteCloser, b io.ReadCloser, err error)
	process
}

// process is a program of its own.
type process interface {
	pid() int
	memory() (int, error)
	Close() error
}

// A relayKind is a relay in the rows about circuits.
type relayKind struct {
	name, note string
	start      func(ctx context.Context) (relay, error)
	// atLeast are the targets for throughput and for CPU time.
	atLeast, cpuAtLeast float64
}

// Targets: the part of a plain proxy's throughput, and of its CPU time, of which we may take 1.2 times as much; then how
// many times as much as through others.
const (
	circuitsOfPlain    = 0.95
	circuitsCPUOfPlain = 1 / 1.2
	circuitsOfDerp     = 3
	circuitsOfLibp2p   = 10
)

// relays are all that circuits are measured beside. Bytes pass as they are: no end encrypts.
func relays() []relayKind {
	return []relayKind{
		{
			name: "io.Copy proxy", note: "accepts, dials, and copies both ways with io.Copy, which is splice on Linux",
			start: startPlainRelay, atLeast: circuitsOfPlain, cpuAtLeast: circuitsCPUOfPlain,
		},
		{name: "haproxy, TCP mode", note: "haproxy of Debian with splice-auto", start: startHaproxy},
		{
			name:  "derper",
			note:  derpNote + "; packets of 64 KiB, of which 24 are on their way: it drops what its queue of 32 does not hold; each stream has two clients of its own",
			start: startDerpRelay, atLeast: circuitsOfDerp,
		},
		{
			name:  "libp2p circuit relay v2",
			note:  "go-libp2p 0.51.0 over TCP, noise and yamux, no limits, buffers as shipped; the circuit's stream as it is, without the handshake and the encryption of its ends; up to 16 pairs of hosts",
			start: startLibp2pRelay, atLeast: circuitsOfLibp2p,
		},
	}
}

const circuitNote = "our hub; a circuit's bytes as they are, without the handshake and the encryption of its ends"

// cpuAspect is what it costs the relay.
var cpuAspect = aspect{Title: "the relay's CPU time", Unit: "s a GiB", LessIsMore: true}

// circuitRow is bulk through some streams at once.
func circuitRow(key string, streams int) row {
	r := row{
		Key: key, Title: fmt.Sprintf("circuits, %s", counted(streams, "stream")), Unit: "MB/s", Also: []aspect{cpuAspect},
		Ours: peer{Name: oursName, Note: circuitNote, Start: relayFlow(startHubRelay, streams)},
	}
	for _, k := range relays() {
		r.Peers = append(r.Peers, peer{
			Name: k.name, Note: k.note, AtLeast: k.atLeast, AlsoAtLeast: []float64{k.cpuAtLeast}, Start: relayFlow(k.start, streams),
		})
	}
	return r
}

func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return strconv.Itoa(n) + " " + what + "s"
}

const gibibyte = 1 << 30

// relayChunk is what the ends of a few streams write and read at once. They share the machine with the relay, and with 64
// KiB they take half as much again of its time, which is then measured in place of the relay's.
const relayChunk = 256 << 10

// relayFlow measures bulk through a relay, and its CPU time.
func relayFlow(start func(ctx context.Context) (relay, error), streams int) func(context.Context) (meter, error) {
	return func(ctx context.Context) (meter, error) {
		r, err := start(ctx)
		if err != nil {
			return nil, err
		}
		return flowThrough(r, []int{r.pid()}, streams), nil
	}
}

// flowThrough measures bulk through a relay that has been started, and the CPU time of processes.
func flowThrough(r relay, pids []int, streams int) meter {
	measure := func(ctx context.Context, d time.Duration) ([]float64, error) {
		pairs, err := openPairs(ctx, r, streams)
		defer drop(pairs...)
		if err != nil {
			return nil, err
		}
		rate, perGiB, err := flowAndCPU(ctx, d, pids, pairs, relayChunk)
		return append([]float64{rate / megabyte}, perGiB...), err
	}
	return &several{measure: measure, close: r.Close}
}

// pair is what open makes.
type pair struct {
	a io.WriteCloser
	b io.ReadCloser
}

func (p pair) Close() error {
	drop(p.a, p.b)
	return nil
}

// openAtOnce is how many pairs are opened at the same time.
const openAtOnce = 16

func openPairs(ctx context.Context, r relay, n int) ([]io.Closer, error) {
	return dialMany(ctx, n, "", func(ctx context.Context, _ string) (io.Closer, error) {
		a, b, err := r.open(ctx)
		return pair{a, b}, err
	})
}

// flowAndCPU sends chunks of a size through all pairs for d, and returns bytes a second, and the CPU time of each process in
// seconds a GiB. The first tenth of d is not counted.
func flowAndCPU(ctx context.Context, d time.Duration, pids []int, pairs []io.Closer, chunk int) (rate float64, perGiB []float64, err error) {
	var moved atomic.Int64
	var stop atomic.Bool
	done := make(chan error, len(pairs))
	var running sync.WaitGroup
	defer running.Wait()
	// Closing a busy socket waits for whoever uses it. So they stop first, and a thousand are closed at once.
	defer func() {
		stop.Store(true)
		for _, p := range pairs {
			running.Go(func() { drop(p) })
		}
	}()
	for _, p := range pairs {
		running.Go(func() { done <- p.(pair).flow(&moved, &stop, chunk) })
	}
	if err := pause(ctx, d/10, done); err != nil {
		return 0, nil, err
	}
	from, start := moved.Load(), time.Now()
	cpuFrom, errFrom := cpusOf(pids)
	if err := pause(ctx, d-d/10, done); err != nil {
		return 0, nil, err
	}
	to, took := moved.Load(), time.Since(start)
	cpuTo, errTo := cpusOf(pids)
	n := float64(to - from)
	if n == 0 {
		return 0, nil, errNothingMoved
	}
	for i := range pids {
		perGiB = append(perGiB, (cpuTo[i]-cpuFrom[i]).Seconds()/(n/gibibyte))
	}
	return n / took.Seconds(), perGiB, errors.Join(errFrom, errTo)
}

// cpusOf is cpuOf for several processes.
func cpusOf(pids []int) ([]time.Duration, error) {
	all := make([]time.Duration, len(pids))
	var errs []error
	for i, pid := range pids {
		var err error
		all[i], err = cpuOf(pid)
		errs = append(errs, err)
	}
	return all, errors.Join(errs...)
}

var errNothingMoved = errors.New("nothing came through")

// flow writes to one end and reads from the other until that fails, or is to stop.
func (p pair) flow(moved *atomic.Int64, stop *atomic.Bool, chunk int) error {
	return together(func() { drop(p) },
		func() error { return writeChunks(untilStopped{p.a, stop}, chunk) },
		func() error { return readAll(p.b, chunk, func(n int) { moved.Add(int64(n)) }) },
	)
}

// untilStopped is a writer that fails once it is stopped.
type untilStopped struct {
	io.Writer
	stop *atomic.Bool
}

var errStopped = errors.New("stopped")

func (w untilStopped) Write(p []byte) (int, error) {
	if w.stop.Load() {
		return 0, errStopped
	}
	return w.Writer.Write(p)
}

// matcher brings the two ends of a pair together when they come by different ways: the one that was asked for says a
// number, and the other one hears it.
type matcher struct {
	mu      sync.Mutex
	last    uint64
	waiting map[uint64]chan io.ReadCloser
}

// meet says a number to a and waits for the end that has heard it.
func (m *matcher) meet(ctx context.Context, a io.Writer) (io.ReadCloser, error) {
	came := make(chan io.ReadCloser, 1)
	m.mu.Lock()
	m.last++
	n := m.last
	if m.waiting == nil {
		m.waiting = map[uint64]chan io.ReadCloser{}
	}
	m.waiting[n] = came
	m.mu.Unlock()
	if _, err := a.Write(binary.BigEndian.AppendUint64(nil, n)); err != nil {
		return nil, err
	}
	late := time.NewTimer(startPatience)
	defer late.Stop()
	select {
	case b := <-came:
		return b, nil
	case <-late.C:
		return nil, errors.New("the other end does not come")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// came takes an end that has come.
func (m *matcher) came(b io.ReadCloser) {
	var number [8]byte
	if _, err := io.ReadFull(b, number[:]); err != nil {
		drop(b)
		return
	}
	n := binary.BigEndian.Uint64(number[:])
	m.mu.Lock()
	waits := m.waiting[n]
	delete(m.waiting, n)
	m.mu.Unlock()
	if waits == nil {
		drop(b)
		return
	}
	waits <- b
}

// listener gives everybody who connects to the matcher.
func (m *matcher) listen(ctx context.Context) (gonet.Listener, error) {
	ln, err := new(gonet.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go m.came(conn)
		}
	}()
	return ln, nil
}
