package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	gonet "net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/secretstack/secretstack/hub/native"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/multiserver/net"
	"github.com/secretstack/secretstack/muxrpc"
)

const (
	// presencesPerSecond is how many presences there are for each second of -seconds.
	presencesPerSecond = 1000
	// sampled is how many couriers of a node are asked about.
	sampled = 64
	// portsOfAddress is how many connections to one port are made from one address of this machine.
	portsOfAddress = 20_000
	// presencePatience is how long anything about presences may take.
	presencePatience = 5 * time.Minute
)

// presencesRow is what it takes that all nodes know who is where.
func presencesRow(key string) row {
	return row{
		Key: key, Title: "presences over three nodes, memory of each", Unit: "KiB", LessIsMore: true,
		Also: []aspect{
			{Title: "couriers coming", Unit: "presences/s"},
			{Title: "CPU time of the nodes for each", Unit: "ms", LessIsMore: true},
			{Title: "of all presences, those with a connection", Unit: "part"},
			{Title: "CPU time of a node for a courier that asks for its status", Unit: "ms", LessIsMore: true},
			{Title: "the last ones are known everywhere after", Unit: "ms", LessIsMore: true},
			{Title: "those of a killed node are gone after", Unit: "ms", LessIsMore: true},
			{Title: "and are back after", Unit: "s", LessIsMore: true},
			{Title: "a node that starts again knows all after", Unit: "s", LessIsMore: true},
		},
		Ours: peer{
			Name: "secretstack, three nodes",
			Note: "what the nodes together grow by, resident, for each of 1,000 presences (for each second of -seconds), each a courier " +
				"that has connected to one of the nodes and published itself. If a node's limit of open files does not allow for so many, " +
				"the missing ones are the presences in the room of the couriers that are there, and couriers of the killed node come " +
				"back to the same one, otherwise to the two others",
			Start: startPresences(nodeCount),
		},
		Peers: []peer{{Name: "secretstack, no cluster", Note: aloneNote, Start: startPresences(1)}},
	}
}

// presences measures a hub of so many nodes, a new one each time. The first time, which is not counted, there are few.
type presences struct {
	nodes int
	again bool
	last  []float64
}

func startPresences(n int) startMeter {
	return func(context.Context) (meter, error) { return &presences{nodes: n}, nil }
}

func (p *presences) Close() error { return nil }

// Also is what a single hub does not tell.
func (p *presences) Also() []float64 { return p.last }

func (p *presences) Measure(ctx context.Context, d time.Duration) (float64, error) {
	if runtime.GOOS != "linux" {
		return 0, fmt.Errorf("the memory of a process: %w", errors.ErrUnsupported)
	}
	n := int(d.Seconds() * presencesPerSecond)
	if !p.again {
		n = min(n, presencesPerSecond)
	}
	p.again = true
	w, err := newWorld(ctx, p.nodes, max(n/p.nodes, 2))
	if err != nil {
		return 0, err
	}
	defer drop(w)
	figures, err := w.come(ctx)
	if err == nil && p.nodes > 1 {
		var more []float64
		more, err = w.lose(ctx)
		figures = append(figures, more...)
	}
	if err != nil {
		return 0, err
	}
	p.last = figures[1:]
	return figures[0], nil
}

// A world is a hub of one or several nodes, with a process of couriers for each.
type world struct {
	trial    bool // it is done quickly: no silence, and a node that is lost does not come back
	nodes    *nodes
	crowds   []*role
	visitors []*hubPeer // of each node; nil: there is none now
	couriers int        // at each node
	inRoom   int        // of these, those who are in the room too
}

func newWorld(ctx context.Context, count, each int) (*world, error) {
	silence, trial := engineSilence, each < 100
	if trial {
		silence = 0
	}
	all, err := startNodes(ctx, count, silence)
	if err != nil {
		return nil, err
	}
	w := &world{trial: trial, nodes: all, visitors: make([]*hubPeer, count), couriers: min(each, mostConnections())}
	w.inRoom = min(each-w.couriers, w.couriers)
	for i, at := range all.at {
		crowd, err := startRole(ctx, rolePresences, strconv.Itoa(i), at.Peers, strconv.Itoa(w.couriers), strconv.Itoa(w.inRoom))
		if err == nil {
			w.crowds = append(w.crowds, crowd)
			err = w.visit(ctx, i)
		}
		if err != nil {
			return nil, errors.Join(err, w.Close())
		}
	}
	return w, nil
}

// visit connects the visitor of a node.
func (w *world) visit(ctx context.Context, i int) error {
	identity, err := keys.Generate()
	if err == nil {
		w.visitors[i], err = dialHub(ctx, w.nodes.at[i].Peers, identity, nil)
	}
	return err
}

func (w *world) Close() error {
	for i := range w.visitors {
		w.leave(i)
	}
	var ending sync.WaitGroup
	for _, crowd := range w.crowds {
		ending.Go(crowd.stop)
	}
	ending.Wait()
	return w.nodes.Close()
}

func (w *world) leave(i int) {
	if w.visitors[i] != nil {
		drop(w.visitors[i])
		w.visitors[i] = nil
	}
}

// come connects all couriers. It returns by how many KiB the nodes grow for each presence, how many came a second, how many
// ms of the nodes' CPU time each took, and which part of them has a connection, how many ms of CPU time one
// takes that asks; with several nodes, in ms, how long it took until all nodes knew the last ones.
func (w *world) come(ctx context.Context) ([]float64, error) {
	count := len(w.crowds)
	// What the first ones cause to be made once is not the others' cost.
	first := max(w.couriers/10, 1)
	if err := w.tell(allOf(count), "come", first); err != nil {
		return nil, err
	}
	before, err := w.nodes.memory()
	if err != nil {
		return nil, err
	}
	cpuBefore, errBefore := cpusOf(w.nodes.pids())
	began := time.Now()
	if err := w.tell(allOf(count), "come", w.couriers); err != nil {
		return nil, err
	}
	came := time.Now()
	cpuAfter, errAfter := cpusOf(w.nodes.pids())
	if err := errors.Join(errBefore, errAfter); err != nil {
		return nil, err
	}
	presences := float64(count * (w.couriers + w.inRoom - first - inRoomOf(first, w.couriers, w.inRoom)))
	figures := []float64{
		0, presences / came.Sub(began).Seconds(), 1000 * (sum(cpuAfter) - sum(cpuBefore)).Seconds() / presences,
		float64(w.couriers) / float64(w.couriers+w.inRoom), 0,
	}
	if count > 1 {
		if err := w.known(ctx, allOf(count), allOf(count), true); err != nil {
			return nil, err
		}
		figures = append(figures, 1000*time.Since(came).Seconds())
	}
	after, err := w.nodes.memory()
	if err != nil {
		return nil, err
	}
	asking, err := w.ask()
	if err != nil {
		return nil, err
	}
	figures[4] = asking
	for i := range after {
		figures[0] += float64(after[i]-before[i]) / 1024 / presences
		_, _ = fmt.Fprintf(os.Stderr, "node %d: %d KiB with a tenth of them, %d KiB with all\n", i+1, before[i]>>10, after[i]>>10)
	}
	return figures, nil
}

// ask lets each courier ask its node once, after its silence, as couriers do to see whether their hub is still there. It returns
// how many ms of the node's CPU time that takes.
func (w *world) ask() (float64, error) {
	before, errBefore := cpusOf(w.nodes.pids())
	err := w.tell(allOf(len(w.crowds)), "ask")
	after, errAfter := cpusOf(w.nodes.pids())
	return 1000 * (sum(after) - sum(before)).Seconds() / float64(len(w.crowds)*w.couriers), errors.Join(errBefore, err, errAfter)
}

// lose kills the last node. It returns after how many ms nobody takes its couriers for online, after how many seconds they are back,
// and how many seconds a new process of the node takes until it knows all.
func (w *world) lose(ctx context.Context) ([]float64, error) {
	last := len(w.crowds) - 1
	others := allOf(last)
	died := time.Now()
	w.leave(last)
	if err := w.nodes.kill(last); err != nil {
		return nil, err
	}
	if err := w.known(ctx, allOf(last + 1)[last:], others, false); err != nil {
		return nil, err
	}
	gone := time.Since(died)
	var back, knows time.Duration
	comeBack := func(to []int) error {
		var at []any
		for _, i := range to {
			at = append(at, w.nodes.at[i].Peers)
		}
		err := w.tell(allOf(last + 1)[last:], "move", at...)
		if err == nil {
			err = w.known(ctx, allOf(last + 1)[last:], others, true)
		}
		back = time.Since(died)
		return err
	}
	room := w.couriers+w.couriers/last+1 <= mostConnections()
	if room {
		if err := comeBack(others); err != nil {
			return nil, err
		}
	}
	if w.trial {
		return []float64{1000 * gone.Seconds(), back.Seconds(), 0}, nil
	}
	started := time.Now()
	err := w.nodes.launch(ctx, last)
	if err == nil {
		err = w.nodes.ready(last)
	}
	if err == nil {
		err = w.visit(ctx, last)
	}
	if err == nil {
		err = w.known(ctx, others, allOf(last + 1)[last:], true)
	}
	knows = time.Since(started)
	if err == nil && !room {
		err = comeBack(allOf(last + 1)[last:])
	}
	return []float64{1000 * gone.Seconds(), back.Seconds(), knows.Seconds()}, err
}

// allOf counts from 0 on.
func allOf(n int) (all []int) {
	for i := range n {
		all = append(all, i)
	}
	return all
}

// tell tells crowds something, and waits until all have done it.
func (w *world) tell(crowds []int, what string, args ...any) error {
	text := strings.Join(append([]string{what}, strings.Fields(fmt.Sprintln(args...))...), " ") + "\n"
	for _, i := range crowds {
		if _, err := io.WriteString(w.crowds[i].in, text); err != nil {
			return err
		}
	}
	for _, i := range crowds {
		if _, err := w.crowds[i].line(); err != nil {
			return err
		}
	}
	return nil
}

// known waits until the visitors of some nodes hear of some of the couriers of each of the crowds, the last ones among them, that
// they are online, or that they are not.
func (w *world) known(ctx context.Context, crowds, nodes []int, online bool) error {
	ctx, cancel := context.WithTimeout(ctx, presencePatience)
	defer cancel()
	var asking sync.WaitGroup
	errs := make(chan error, len(crowds)*len(nodes))
	for _, crowd := range crowds {
		for _, node := range nodes {
			asking.Go(func() { errs <- w.heard(ctx, crowd, node, online) })
		}
	}
	asking.Wait()
	close(errs)
	var all error
	for err := range errs {
		all = errors.Join(all, err)
	}
	return all
}

func (w *world) heard(ctx context.Context, crowd, node int, online bool) error {
	for n := range min(sampled, w.couriers) {
		i := w.couriers - 1 - n // half of them are the last ones
		if n%2 == 1 {
			i = n * w.couriers / sampled
		}
		identity, err := presenceKey(crowd, i)
		if err != nil {
			return err
		}
		for {
			seen, err := w.visitors[node].sees(ctx, identity.Public())
			if err == nil && seen == online {
				break
			}
			if ctx.Err() != nil {
				return fmt.Errorf("node %d about a courier of node %d: online %v: %w", node+1, crowd+1, seen, errors.Join(err, ctx.Err()))
			}
			time.Sleep(time.Millisecond)
		}
	}
	return nil
}

// presenceKey makes the key of a courier, which who measures has to know too.
func presenceKey(crowd, i int) (*keys.Identity, error) {
	seed := sha256.Sum256(fmt.Appendf(nil, "bench presence %d %d", crowd, i))
	return keys.FromSeed(seed[:])
}

// rolePresences are the couriers of one node.
const rolePresences = "presences"

// inRoomOf is how many of the first i couriers are in the room, of all that many are in it.
func inRoomOf(i, couriers, inRoom int) int { return i * inRoom / couriers }

// crowd is the couriers of one node.
type crowd struct {
	number, couriers, inRoom int
	all                      []*hubPeer
}

// servePresences connects couriers when it is told so, or connects them again to other addresses.
func servePresences(ctx context.Context, args []string) error {
	var numbers [3]int
	for i, text := range []string{args[0], args[2], args[3]} {
		var err error
		if numbers[i], err = strconv.Atoi(text); err != nil {
			return err
		}
	}
	c := &crowd{number: numbers[0], couriers: numbers[1], inRoom: numbers[2]}
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		words := strings.Fields(lines.Text())
		if words[0] == "ask" {
			for _, p := range c.all {
				if err := p.status(ctx); err != nil {
					return err
				}
			}
			fmt.Println("done")
			continue
		}
		from, to, addresses := 0, len(c.all), words[1:]
		if words[0] == "come" {
			var err error
			if to, err = strconv.Atoi(words[1]); err != nil {
				return err
			}
			from, addresses = len(c.all), args[1:2]
			c.all = append(c.all, make([]*hubPeer, to-from)...)
		}
		if err := c.connect(ctx, from, to, addresses); err != nil {
			return err
		}
		fmt.Println("done")
	}
	return nil
}

// connect connects some of the couriers to one of the addresses each, again if they were connected. The first failure ends it.
func (c *crowd) connect(ctx context.Context, from, to int, addresses []string) error {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	next := from
	var mu sync.Mutex
	_, _ = dialMany(ctx, to-from, "", func(ctx context.Context, _ string) (io.Closer, error) {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		mu.Lock()
		i := next
		next++
		mu.Unlock()
		if c.all[i] != nil {
			drop(c.all[i])
		}
		p, err := c.dial(ctx, i, addresses[i%len(addresses)])
		if err != nil {
			fail(fmt.Errorf("courier %d of node %d: %w", i, c.number+1, err))
			return nil, err
		}
		c.all[i] = p
		return p, nil
	})
	return context.Cause(ctx)
}

// dial connects a courier, from an address of its own for as many as there are ports for.
func (c *crowd) dial(ctx context.Context, i int, address string) (*hubPeer, error) {
	identity, err := presenceKey(c.number, i)
	if err != nil {
		return nil, err
	}
	from := gonet.IPv4(127, 0, byte(c.number+2), byte(1+i/portsOfAddress))
	// The hub's own probes are enough: of those of both ends the loopback device drops too many.
	dialer := gonet.Dialer{LocalAddr: &gonet.TCPAddr{IP: from}, KeepAlive: -1}
	p, err := dialHubOver(ctx, net.New(net.Options{DialContext: dialer.DialContext}), address, identity, nil)
	if err != nil {
		return nil, err
	}
	// A cluster whose nodes have too little of the machine is not there for moments. Couriers try again.
	for until := time.Now().Add(presencePatience); ; {
		err = p.publish(ctx, native.ServesHTTP, native.ServesCircuits)
		if native.CodeOf(err) != native.Unavailable || time.Now().After(until) {
			break
		}
		time.Sleep(time.Second)
	}
	if err == nil && inRoomOf(i, c.couriers, c.inRoom) != inRoomOf(i+1, c.couriers, c.inRoom) {
		_, err = muxrpc.Call[bool](ctx, p.session, "tunnel.announce")
	}
	if err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}
