package cluster

import (
	"context"
	"errors"
	"time"
)

// A partner is a process of another node to which there are links, or were. That it has died need not show on a link: what its
// system still has to send waits for a reader here, or the cable is cut.
type partner struct {
	place Place
	run   string          // which process of the node it is; empty: it does not say
	life  context.Context // ends when the process has gone, and with this node
	end   context.CancelFunc
	asked bool // somebody is asking whether it is there
}

// mostPatience bounds the time in which a node that has fallen silent on the bus must answer over a link.
const mostPatience = 5 * time.Second

// partner gives the life of a process that has just been met over a link. The node's process before it has gone. One that does not
// say where it takes links cannot be asked whether it is there, and is not remembered: it would be for ever.
func (n *Node) partner(place Place, run string) context.Context {
	if place.Address == "" {
		return n.life
	}
	p, before := n.met(place, run)
	if before != nil {
		before.end()
	}
	return p.life
}

// met gives a partner, and the process in whose place it has come; nil: none.
func (n *Node) met(place Place, run string) (p, before *partner) {
	n.mu.Lock()
	defer n.mu.Unlock()
	key := place.Key.Array()
	before = n.partners[key]
	if before != nil && before.run == run {
		before.place = place
		return before, nil
	}
	p = &partner{place: place, run: run}
	p.life, p.end = context.WithCancel(n.life)
	n.partners[key] = p
	return p, before
}

// watch ends the lives of processes that have gone.
func (n *Node) watch() {
	ticker := time.NewTicker(n.cfg.Limits.HelloEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-n.life.Done():
			return
		}
		for _, p := range n.doubtful() {
			_ = n.run(func() { n.visit(p) })
		}
	}
}

// doubtful lists the partners of which nothing has been heard on the bus for some time, or something of another process.
func (n *Node) doubtful() (all []*partner) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, p := range n.partners {
		o := n.others[p.place.Node]
		heard := o != nil && o.Run == p.run && time.Since(o.heard) <= silentAfter*n.cfg.Limits.HelloEvery
		if !heard && !p.asked {
			p.asked = true
			all = append(all, p)
		}
	}
	return all
}

// visit opens a link to a partner to see whether it is there: it may be the bus that is not.
func (n *Node) visit(p *partner) {
	n.mu.Lock()
	place := p.place
	n.mu.Unlock()
	ctx, cancel := context.WithTimeout(n.life, min(mostPatience, n.cfg.Limits.LinkTimeout))
	defer cancel()
	conn, _, err := n.dial(ctx, place, nil, false)
	if err == nil {
		_ = conn.Close()
	}
	if n.visited(p, isAnswer(err)) {
		p.end()
		n.cfg.Logger.Warn("cluster: a node has gone: links to it are ended", "node", place.Node, "err", err)
	}
}

// visited takes in whether a partner has answered, and reports whether it has gone without another process in its place.
func (n *Node) visited(p *partner, answered bool) (gone bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	p.asked = false
	key := p.place.Key.Array()
	if answered || n.life.Err() != nil || n.partners[key] != p {
		return false
	}
	delete(n.partners, key)
	return true
}

// isAnswer reports whether there was somebody who answered.
func isAnswer(err error) bool {
	var r Refusal
	return err == nil || errors.As(err, &r) || errors.Is(err, ErrVersion) || errors.Is(err, ErrOffline) || errors.Is(err, ErrBusy)
}
