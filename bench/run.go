package main

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"
)

var errEndedEarly = errors.New("the stream ended before the measurement did")

// plan says how long and how often everything is measured.
type plan struct {
	Round  time.Duration
	Rounds int
	Peer   *regexp.Regexp                   // measure only peers whose name matches; nil means all
	Say    func(format string, args ...any) // progress
}

// result is a measured row.
type result struct {
	Key    string        `json:"row"`
	Title  string        `json:"title"`
	Unit   string        `json:"unit"`
	Peers  []peerResult  `json:"peers"`
	Gauges []gaugeResult `json:"gauges,omitempty"`
}

// peerResult is a peer's figures. Ratio is the median of our figure to the peer's in the same round, or of the peer's to
// ours where less is more: a machine that is slow for a while is slow for both.
type peerResult struct {
	Name    string    `json:"name"`
	Ours    bool      `json:"ours,omitempty"`
	Note    string    `json:"note,omitempty"`
	Rounds  []float64 `json:"rounds,omitempty"`
	Median  float64   `json:"median,omitempty"`
	Ratio   float64   `json:"ratio,omitempty"`
	AtLeast float64   `json:"at_least,omitempty"`
	Missing string    `json:"missing,omitempty"` // why there are no figures
}

type gaugeResult struct {
	Name    string  `json:"name"`
	Value   float64 `json:"value"`
	AtMost  float64 `json:"at_most"`
	Missing string  `json:"missing,omitempty"`
}

func (p peerResult) met() bool { return p.Missing == "" && p.Ratio >= p.AtLeast }

func (g gaugeResult) met() bool { return g.Missing == "" && g.Value <= g.AtMost }

// contender is a peer while its row runs. Its rounds are those of each aspect of the row, the first one first.
type contender struct {
	peer
	meter  meter
	rounds [][]float64
	err    error
}

// measureRow sets every peer up, then measures them in turn, one round each, as often as the plan says. Every other
// round goes backwards, so that nobody always follows the same neighbour. A peer that fails is left out and the
// result says why. There is one result for each aspect of the row.
func measureRow(ctx context.Context, r row, p plan) []result {
	contenders := startAll(ctx, r, p)
	defer closeAll(contenders)
	// One round goes before the first: it warms compilers, pools and windows up, and is not counted.
	for round := range p.Rounds + 1 {
		order := slices.Clone(contenders)
		if round%2 == 1 {
			slices.Reverse(order)
		}
		for _, c := range order {
			c.measure(ctx, p, round)
		}
	}
	aspects := append([]aspect{{r.Title, r.Unit, r.LessIsMore}}, r.Also...)
	results := make([]result, len(aspects))
	for i, a := range aspects {
		results[i] = aspectResult(r, a, i, contenders)
	}
	results[0].Gauges = measureGauges(ctx, r, p)
	return results
}

// aspectResult compares everybody's rounds in the i-th aspect with ours.
func aspectResult(r row, a aspect, i int, contenders []*contender) result {
	res := result{Key: r.Key, Title: a.Title, Unit: a.Unit}
	var ours []float64
	for _, c := range contenders {
		isOurs := c.Name == r.Ours.Name
		if isOurs {
			ours = c.aspect(i)
		}
		peer := c.result(i, ours, a.LessIsMore)
		peer.Ours = isOurs
		res.Peers = append(res.Peers, peer)
	}
	return res
}

// aspect returns the rounds of one aspect, or nothing when there are none.
func (c *contender) aspect(i int) []float64 {
	if i < len(c.rounds) {
		return c.rounds[i]
	}
	return nil
}

// target is what our ratio is to be in an aspect.
func (p peer) target(i int) float64 {
	switch {
	case i == 0:
		return p.AtLeast
	case i <= len(p.AlsoAtLeast):
		return p.AlsoAtLeast[i-1]
	}
	return 0
}

func startAll(ctx context.Context, r row, p plan) []*contender {
	all := []*contender{{peer: r.Ours}}
	for _, peer := range r.Peers {
		all = append(all, &contender{peer: peer})
	}
	all = slices.DeleteFunc(all, func(c *contender) bool { return !p.wants(c.Name) })
	for _, c := range all {
		c.meter, c.err = c.Start(ctx)
	}
	return all
}

func closeAll(contenders []*contender) {
	for _, c := range contenders {
		if c.meter != nil {
			_ = c.meter.Close()
		}
	}
}

func (c *contender) measure(ctx context.Context, p plan, round int) {
	if c.err != nil || ctx.Err() != nil {
		return
	}
	// Garbage of the one before is not this one's work.
	runtime.GC()
	rate, err := c.meter.Measure(ctx, p.Round)
	if err != nil {
		c.err = err
		return
	}
	figures := []float64{rate}
	if m, ok := c.meter.(manifold); ok {
		figures = append(figures, m.Also()...)
	}
	p.Say("%-44s round %d of %d  %s", c.Name, round, p.Rounds, spelled(figures))
	if round > 0 {
		c.note(figures)
	}
}

func (c *contender) note(figures []float64) {
	if c.rounds == nil {
		c.rounds = make([][]float64, len(figures))
	}
	for i, figure := range figures {
		c.rounds[i] = append(c.rounds[i], figure)
	}
}

func spelled(figures []float64) string {
	var text strings.Builder
	for _, figure := range figures {
		fmt.Fprintf(&text, "%12.2f", figure)
	}
	return text.String()
}

// result compares with our figures in the i-th aspect, one a round; there may be fewer, when we failed or were not asked
// for.
func (c *contender) result(i int, ours []float64, lessIsMore bool) peerResult {
	rounds := c.aspect(i)
	res := peerResult{Name: c.Name, Note: c.Note, AtLeast: c.target(i)}
	if c.err != nil {
		res.Missing = c.err.Error()
		return res
	}
	res.Rounds, res.Median = rounds, median(rounds)
	ratios := make([]float64, min(len(ours), len(rounds)))
	for i := range ratios {
		ratios[i] = ours[i] / rounds[i]
		if lessIsMore {
			ratios[i] = 1 / ratios[i]
		}
	}
	res.Ratio = median(ratios)
	return res
}

func measureGauges(ctx context.Context, r row, p plan) []gaugeResult {
	if !p.wants(r.Ours.Name) {
		return nil
	}
	var all []gaugeResult
	for _, g := range r.Gauges {
		res := gaugeResult{Name: g.Name, AtMost: g.AtMost}
		value, err := g.Measure(ctx)
		if err != nil {
			res.Missing = err.Error()
		}
		res.Value = value
		all = append(all, res)
	}
	return all
}

func (p plan) wants(name string) bool { return p.Peer == nil || p.Peer.MatchString(name) }

// selectRows keeps the rows that only names ("1,3a"; "3" means 3a and 3b); all of them if it is empty.
func selectRows(rows []row, only []string) ([]row, error) {
	if len(only) == 0 {
		return rows, nil
	}
	var chosen []row
	for _, name := range only {
		n := len(chosen)
		for _, r := range rows {
			if r.Key == name || strings.TrimRight(r.Key, "abcdefghijklmnopqrstuvwxyz") == name {
				chosen = append(chosen, r)
			}
		}
		if len(chosen) == n {
			return nil, fmt.Errorf("there is no row %q", name)
		}
	}
	return chosen, nil
}

// median of no values is 0.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	mid := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[mid]
	}
	return (sorted[mid-1] + sorted[mid]) / 2
}
