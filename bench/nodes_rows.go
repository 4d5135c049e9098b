package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"
)

// The rows about several nodes compare what is done across two of them with the same on one of them, and on a hub that is no
// node.
const (
	acrossNote = "the courier is connected to one node of three, the visitor to another; all are processes of this machine"
	onOneNote  = "both are connected to the same node of the same three"
	aloneNote  = "a hub that is no node"
)

// nodeKinds are the three, ours first.
func nodeKinds(shared *sharedNodes) (ours nodeKind, peers []nodeKind) {
	at := func(visitor int) startHub {
		return func(ctx context.Context) (*hubRelay, error) { return shared.relay(ctx, visitor) }
	}
	return nodeKind{"secretstack, two nodes", acrossNote, at(1)}, []nodeKind{
		{"secretstack, one node", onOneNote, at(0)},
		{"secretstack, no cluster", aloneNote, relayOfHub},
	}
}

type (
	startHub   = func(ctx context.Context) (*hubRelay, error)
	startMeter = func(ctx context.Context) (meter, error)
)

type nodeKind struct {
	name, note string
	start      startHub
}

// nodesRow makes a row of what is measured of each.
func nodesRow(r row, shared *sharedNodes, note string, measured func(startHub) startMeter) row {
	ours, others := nodeKinds(shared)
	r.Shared = shared
	r.Ours = peer{Name: ours.name, Note: ours.note + "; " + note, Start: measured(ours.start)}
	for _, k := range others {
		r.Peers = append(r.Peers, peer{Name: k.name, Note: k.note, Start: measured(k.start)})
	}
	return r
}

// latenciesAndCPU are what repeated tells beside the rate.
func latenciesAndCPU() []aspect {
	return []aspect{
		{Title: "half of them within", Unit: "ms", LessIsMore: true},
		{Title: "99 % of them within", Unit: "ms", LessIsMore: true},
		{Title: "CPU time of the nodes for each", Unit: "ms", LessIsMore: true},
	}
}

// lookUpRow is how often it can be asked whether a courier is there.
func lookUpRow(key string, shared *sharedNodes, workers int) row {
	r := row{Key: key, Title: "looking couriers up across nodes, " + strconv.Itoa(workers) + " at a time", Unit: "look-ups/s", Also: latenciesAndCPU()}
	return nodesRow(r, shared, "a visitor's call of hub.whois with the key of a courier that is online", func(start startHub) startMeter {
		return repeated(start, workers, (*hubRelay).lookUp)
	})
}

// nodesSetupRow is how many circuits can be set up and used.
func nodesSetupRow(key string, shared *sharedNodes, workers int) row {
	r := row{Key: key, Title: "setting circuits up across nodes, " + strconv.Itoa(workers) + " at a time", Unit: "circuits/s", Also: latenciesAndCPU()}
	return nodesRow(r, shared, "from asking until bytes have come out at the other end, without the handshake of the ends; then it is cut",
		func(start startHub) startMeter {
			return repeated(start, workers, func(r *hubRelay, ctx context.Context) error {
				a, b, err := r.open(ctx)
				if err == nil {
					drop(a, b)
				}
				return err
			})
		})
}

// repeated measures how often something can be done, by so many at a time, and how long it takes.
func repeated(start startHub, workers int, op func(*hubRelay, context.Context) error) startMeter {
	return func(ctx context.Context) (meter, error) {
		r, err := start(ctx)
		if err != nil {
			return nil, err
		}
		ops := slices.Repeat([]func(context.Context) error{func(ctx context.Context) error { return op(r, ctx) }}, workers)
		measure := func(ctx context.Context, d time.Duration) ([]float64, error) {
			before, errBefore := cpusOf(r.pids())
			start := time.Now()
			figures, err := rateAndLatency(ctx, d, ops)
			took := time.Since(start)
			after, errAfter := cpusOf(r.pids())
			if err := errors.Join(errBefore, err, errAfter); err != nil {
				return nil, err
			}
			return append(figures, 1000*(sum(after)-sum(before)).Seconds()/(figures[0]*took.Seconds())), nil
		}
		return &several{measure: measure, close: r.Close}, nil
	}
}

// nodesCircuitRow is bulk through circuits.
func nodesCircuitRow(key string, shared *sharedNodes, streams int) row {
	r := row{
		Key: key, Title: fmt.Sprintf("circuits across nodes, %s", counted(streams, "stream")), Unit: "MB/s",
		Also: []aspect{
			{Title: "CPU time of the courier's node", Unit: "s a GiB", LessIsMore: true},
			{Title: "CPU time of the visitor's node", Unit: "s a GiB", LessIsMore: true},
		},
	}
	return nodesRow(r, shared, "bytes as they are, from the visitor to the courier", func(start startHub) startMeter {
		return func(ctx context.Context) (meter, error) {
			r, err := start(ctx)
			if err != nil {
				return nil, err
			}
			return flowThrough(r, r.pids(), streams), nil
		}
	})
}

func sum(all []time.Duration) (total time.Duration) {
	for _, d := range all {
		total += d
	}
	return total
}

// pids are those of the courier's node and, if it is another one, of the visitor's.
func (r *hubRelay) pids() []int {
	if r.other == nil || r.other.pid() == r.pid() {
		return []int{r.pid()}
	}
	return []int{r.pid(), r.other.pid()}
}
