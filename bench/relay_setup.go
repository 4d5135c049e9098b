package main

import (
	"context"
	"errors"
	"strconv"
	"time"
)

// endsRow is bulk through a circuit as an app has it, encrypted from end to end.
func endsRow(key string) row {
	return row{
		Key: key, Title: "circuits, 1 stream, end to end", Unit: "MB/s", Also: []aspect{cpuAspect},
		Ours: peer{
			Name:  oursName,
			Note:  "a stream of plugins/hubclient: a circuit with the secret handshake and the box stream inside; both ends in one process",
			Start: relayFlow(startHubEnds, 1),
		},
		Peers: []peer{
			{
				Name:  "our box stream alone",
				Note:  "boxstream.Writer to boxstream.Reader, 64 KiB at a time, on loopback TCP, without a relay",
				Start: stateless(measureBoxStreamOverTCP),
			},
			{
				Name: "libp2p circuit relay v2", AtLeast: 1,
				Note:  "go-libp2p 0.51.0: a stream in a connection through the relay, with noise and yamux inside; both ends in one process",
				Start: relayFlow(startLibp2pCircuits, 1),
			},
		},
	}
}

// setupRow is how many circuits can be set up and used.
func setupRow(key string, workers int) row {
	return row{
		Key: key, Title: "setting circuits up, " + strconv.Itoa(workers) + " at a time", Unit: "circuits/s",
		Also: []aspect{
			{Title: "half of them within", Unit: "ms", LessIsMore: true},
			{Title: "99 % of them within", Unit: "ms", LessIsMore: true},
		},
		Ours: peer{
			Name:  oursName,
			Note:  "from asking until bytes have come out at the other end, secret handshake of the ends included; then it is cut",
			Start: setups(startHubEnds, workers),
		},
		Peers: []peer{
			{
				Name: "secretstack, the ends' handshake left out", Note: circuitNote,
				Start: setups(startHubRelay, workers),
			},
			{
				Name: "libp2p circuit relay v2", AtLeast: 1, AlsoAtLeast: []float64{1, 1},
				Note:  "go-libp2p 0.51.0: a connection through the relay with noise and yamux inside, and a stream in it",
				Start: setups(startLibp2pCircuits, workers),
			},
			{Name: "io.Copy proxy", Note: "a connection to it, and its own to the other end", Start: setups(startPlainRelay, workers)},
		},
	}
}

func setups(start func(ctx context.Context) (relay, error), workers int) func(context.Context) (meter, error) {
	return func(ctx context.Context) (meter, error) {
		r, err := start(ctx)
		if err != nil {
			return nil, err
		}
		ops := make([]func(context.Context) error, workers)
		for i := range ops {
			ops[i] = func(ctx context.Context) error {
				a, b, err := r.open(ctx)
				if err != nil {
					return err
				}
				drop(a, b)
				return nil
			}
		}
		measure := func(ctx context.Context, d time.Duration) ([]float64, error) { return rateAndLatency(ctx, d, ops) }
		return &several{measure: measure, close: r.Close}, nil
	}
}

// manyCircuits is how many there are at once, in a round of manyRound or longer; fewer in a shorter one. What passes
// through them is measured for manyTimes as long as a round: all of them have to get going first.
const (
	manyCircuits = 1000
	manyRound    = 400 * time.Millisecond
	manyTimes    = 5
)

// manyRow is a thousand circuits at once: bulk through all of them, and the relay's memory.
func manyRow(key string) row {
	r := row{
		Key: key, Title: "circuits, 1,000 at once", Unit: "MB/s",
		Also: []aspect{
			cpuAspect,
			{Title: "memory of each while idle", Unit: "KiB", LessIsMore: true},
			{Title: "memory of each while busy", Unit: "KiB", LessIsMore: true},
		},
		Ours: peer{
			Name:  oursName,
			Note:  circuitNote + "; memory is the process's own, the kernel's buffers not counted; while idle, garbage is collected",
			Start: many(startHubRelay),
		},
	}
	for _, k := range relays() {
		r.Peers = append(r.Peers, peer{Name: k.name, Note: k.note, Start: many(k.start)})
	}
	return r
}

func many(start func(ctx context.Context) (relay, error)) func(context.Context) (meter, error) {
	return func(ctx context.Context) (meter, error) {
		r, err := start(ctx)
		if err != nil {
			return nil, err
		}
		// What the first circuits cause to be made once is not the others' cost.
		first, err := openPairs(ctx, r, openAtOnce)
		drop(first...)
		if err != nil {
			return nil, errors.Join(err, r.Close())
		}
		before, err := r.memory()
		if err != nil {
			return nil, errors.Join(err, r.Close())
		}
		measure := func(ctx context.Context, d time.Duration) ([]float64, error) {
			n := max(1, min(manyCircuits, int(manyCircuits*d/manyRound)))
			return measureMany(ctx, r, manyTimes*d, n, before)
		}
		return &several{measure: measure, close: r.Close}, nil
	}
}

// measureMany measures n circuits through a relay that had so much memory before.
func measureMany(ctx context.Context, r relay, d time.Duration, n, before int) ([]float64, error) {
	pairs, err := openPairs(ctx, r, n)
	defer drop(pairs...)
	if err != nil {
		return nil, err
	}
	idle, err := r.memory()
	if err != nil {
		return nil, err
	}
	busy := make(chan int, 1)
	look := time.AfterFunc(d*9/10, func() {
		n, _ := residentOf(strconv.Itoa(r.pid()))
		busy <- n
	})
	defer look.Stop()
	rate, perGiB, err := flowAndCPU(ctx, d, []int{r.pid()}, pairs, chunkSize)
	if err != nil {
		return nil, err
	}
	each := func(after int) float64 { return max(0, float64(after-before)/1024/float64(n)) }
	return []float64{rate / megabyte, perGiB[0], each(idle), each(<-busy)}, nil
}

// memory is how much the process has when it has become steady.
func (r *role) memory() (int, error) {
	text, err := r.ask()
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(text)
}

func (d *daemon) memory() (int, error) { return residentOf(strconv.Itoa(d.pid())) }
