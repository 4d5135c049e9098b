package cluster

import (
	"errors"
	"sync/atomic"
)

// Stats counts what a node has had to do with others.
type Stats struct {
	Asked       uint64 // questions put to other nodes
	Offline     uint64 // of these, those about couriers that no node had
	Unanswered  uint64 // of these, those that failed
	LinksOpened uint64 // links to other nodes
	LinksFailed uint64 // links that could not be opened
	LinksTaken  uint64 // links that other nodes have opened
}

type counts struct{ asked, offline, unanswered, opened, failed, taken, resumed atomic.Uint64 }

// Stats tells what there was since the node was opened.
func (n *Node) Stats() Stats {
	c := &n.counts
	return Stats{
		Asked: c.asked.Load(), Offline: c.offline.Load(), Unanswered: c.unanswered.Load(),
		LinksOpened: c.opened.Load(), LinksFailed: c.failed.Load(), LinksTaken: c.taken.Load(),
	}
}

// question counts what came of a question. A refusal is an answer.
func (c *counts) question(err error) {
	c.asked.Add(1)
	var r Refusal
	switch {
	case errors.Is(err, ErrOffline):
		c.offline.Add(1)
	case err != nil && !errors.As(err, &r):
		c.unanswered.Add(1)
	}
}

// link counts what came of opening a link.
func (c *counts) link(err error) {
	if err == nil {
		c.opened.Add(1)
	} else {
		c.failed.Add(1)
	}
}
