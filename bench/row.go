package main

import (
	"context"
	"time"
)

// A row is one line of work, done by us and by each peer in turn.
type row struct {
	Key   string // what -only names: "1", "3a"
	Title string
	Unit  string // of every figure in the row
	Ours  peer
	Peers []peer
	// LessIsMore marks figures of which the smaller is the better: ratios are turned round, so that over 1 we are ahead.
	LessIsMore bool
	// Also is what else the same work shows. Its figures come from meters that are manifold.
	Also []aspect
	// Gauges are counted at the end of the row, not compared with anybody.
	Gauges []gauge
	// Shared are the nodes that some of the peers share; nil: there are none.
	Shared *sharedNodes
}

// A peer is one way of doing a row's work.
type peer struct {
	Name string
	Note string // how it is set up, for the footnotes; may be empty
	// AtLeast is the target: the smallest ratio of our figure to this peer's; 0 means that the peer is shown
	// and not aimed at.
	AtLeast float64
	// AlsoAtLeast are the targets of the row's further aspects, in their order. There may be fewer.
	AlsoAtLeast []float64
	Start       func(ctx context.Context) (meter, error)
}

// A meter is a peer set up and waiting. It costs nothing while it waits, so that the others can be measured.
type meter interface {
	// Measure works for about d and returns the rate in the row's unit.
	Measure(ctx context.Context, d time.Duration) (float64, error)
	Close() error
}

// An aspect is another figure of a row's work, such as its latency or its cost.
type aspect struct {
	Title, Unit string
	LessIsMore  bool
}

// A manifold meter tells, after each measurement, the figures of its row's further aspects in their order.
type manifold interface {
	meter
	Also() []float64
}

// A gauge is a number that has a limit instead of a peer.
type gauge struct {
	Name    string
	AtMost  float64
	Measure func(ctx context.Context) (float64, error)
}

// measureFunc is a meter that holds nothing.
type measureFunc func(ctx context.Context, d time.Duration) (float64, error)

func (f measureFunc) Measure(ctx context.Context, d time.Duration) (float64, error) { return f(ctx, d) }

func (measureFunc) Close() error { return nil }

// held is a meter that keeps something open between its rounds.
type held struct {
	measureFunc
	close func() error
}

func (h held) Close() error { return h.close() }

// several is a meter of more than one figure.
type several struct {
	measure func(ctx context.Context, d time.Duration) ([]float64, error)
	close   func() error
	last    []float64
}

func (s *several) Measure(ctx context.Context, d time.Duration) (float64, error) {
	all, err := s.measure(ctx, d)
	if err != nil {
		return 0, err
	}
	s.last = all[1:]
	return all[0], nil
}

func (s *several) Also() []float64 { return s.last }

func (s *several) Close() error { return s.close() }

// stateless starts a peer whose measurements need nothing set up.
func stateless(f measureFunc) func(context.Context) (meter, error) {
	return func(context.Context) (meter, error) { return f, nil }
}

// allRows are the rows of the targets, in their order, and the memory of an idle peer. A heap profile of its server is
// written to the named file, unless it has no name.
func allRows(js, heapProfile string) []row {
	node, secrez, shared := newNodeJS(js), newSecrezJS(js), new(sharedNodes)
	return []row{
		handshakeRow(node),
		boxRow(node),
		callRow(node, 1),
		callRow(node, 64),
		itemsRow(node),
		chunksRow(node),
		circuitRow("6a", 1),
		circuitRow("6b", 16),
		endsRow("6c"),
		setupRow("6d", 1),
		setupRow("6e", 16),
		manyRow("6f"),
		httpRow("7a", secrez, 1),
		httpRow("7b", secrez, 50),
		rawHTTPRow("7c", secrez, 1),
		rawHTTPRow("7d", secrez, 50),
		courierMemoryRow("8", heapProfile, secrez),
		connectingRow("9a"),
		comingBackRow("9b"),
		apiRow("10a", secrez),
		registrationRow("10b"),
		lookUpRow("11a", shared, 1),
		lookUpRow("11b", shared, 16),
		nodesSetupRow("11c", shared, 1),
		nodesSetupRow("11d", shared, 16),
		nodesCircuitRow("11e", shared, 1),
		nodesCircuitRow("11f", shared, 16),
		presencesRow("11g"),
		idleRow(heapProfile),
	}
}
