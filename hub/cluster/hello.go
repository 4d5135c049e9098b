package cluster

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// A hello is what a node says of itself, every second or so.
type hello struct {
	Version int    `json:"version"`
	Release string `json:"release,omitempty"`
	Run     string `json:"run,omitempty"`  // another text for each process
	Turn    uint64 `json:"turn,omitempty"` // of two that a process says, the greater one counts
	Time    int64  `json:"time,omitempty"` // by its clock, in ms since 1970
	Place
	Load
}

// other is what is known of another node.
type other struct {
	hello
	heard   time.Time
	skew    time.Duration // how much its clock is ahead of this node's
	refused bool          // it has been said that its version does not fit
}

// Member is a node as this one sees it.
type Member struct {
	Place
	Load
	Version int    // of what nodes say to each other
	Release string // of the program
	Self    bool
	Works   bool          // its version works with this one's
	Silent  time.Duration // how long it has said nothing
	Skew    time.Duration // how much its clock is ahead of this node's, give or take how long its words are under way
}

// Members lists the nodes that have been heard of lately, by name, this one included.
func (n *Node) Members() []Member {
	members := []Member{{
		Place: n.place(), Load: n.cfg.Load(), Version: n.cfg.version, Release: n.cfg.Release, Self: true, Works: true,
	}}
	n.mu.Lock()
	for name, o := range n.others {
		silent := time.Since(o.heard)
		if silent > silentAfter*n.cfg.Limits.HelloEvery {
			delete(n.others, name)
			continue
		}
		members = append(members, Member{
			Place: o.Place, Load: o.Load, Version: o.Version, Release: o.Release, Works: n.cfg.works(o.Version), Silent: silent,
			Skew: o.skew,
		})
	}
	n.mu.Unlock()
	slices.SortFunc(members, func(a, b Member) int { return strings.Compare(a.Node, b.Node) })
	return members
}

// Draining reports whether another node has said lately that it is about to end. A node says so before it gives anybody up, so who
// was told that somebody is offline, and asks afterwards, is told of a node that had him.
func (n *Node) Draining(ctx context.Context) bool {
	n.listened(ctx)
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, o := range n.others {
		if o.Draining && time.Since(o.heard) <= silentAfter*n.cfg.Limits.HelloEvery {
			return true
		}
	}
	return false
}

// Announce tells the others of this node at once. What is published or withdrawn afterwards reaches them later.
func (n *Node) Announce() { n.sayHello("") }

// listen takes in what other nodes say of themselves.
func (n *Node) listen() {
	for {
		select {
		case m := <-n.hellos:
			n.hear(m)
		case heard := <-n.catchUp:
			for len(n.hellos) > 0 { // nobody else takes any
				n.hear(<-n.hellos)
			}
			close(heard)
		case <-n.life.Done():
			return
		}
	}
}

// listened waits until everything was heard that has come, or ctx ends.
func (n *Node) listened(ctx context.Context) {
	heard := make(chan struct{})
	select {
	case n.catchUp <- heard:
	case <-n.life.Done():
		return
	case <-ctx.Done():
		return
	}
	select {
	case <-heard: // by listen, which is at it
	case <-ctx.Done():
	}
}

// greet tells the others of this node, again and again.
func (n *Node) greet() {
	ticker := time.NewTicker(n.cfg.Limits.HelloEvery)
	defer ticker.Stop()
	for {
		n.sayHello("")
		select {
		case <-ticker.C:
		case <-n.life.Done():
			return
		}
	}
}

// hello is what this node says of itself now.
func (n *Node) hello() ([]byte, error) {
	turn := n.turns.Add(1) // before the load is looked at: who has the greater turn has not seen an older one
	return json.Marshal(hello{n.cfg.version, n.cfg.Release, n.self, turn, time.Now().UnixMilli(), n.place(), n.cfg.Load()})
}

// sayHello tells everybody, or one who has asked.
func (n *Node) sayHello(to string) {
	conn, _ := n.cfg.Bus.Conn()
	if conn == nil {
		return
	}
	data, err := n.hello()
	if err != nil {
		return
	}
	if to != "" {
		err = conn.Publish(to, data)
	} else {
		err = conn.Publish(subjectHello, data)
	}
	if err != nil {
		n.cfg.Logger.Debug("cluster: hello", "err", err)
	}
}

// longestHello bounds what a node says of itself, bytes. It is remembered.
const longestHello = 16 << 10

// hear takes in what another node says of itself, and answers one who asks.
func (n *Node) hear(m *nats.Msg) {
	var h hello
	if len(m.Data) > longestHello || json.Unmarshal(m.Data, &h) != nil || h.Node == "" || h.Node == n.cfg.Name {
		return
	}
	if m.Reply != "" {
		n.sayHello(m.Reply)
	}
	n.note(h)
}

// note remembers what another node has said of itself, unless that has been overtaken by something that it has said later.
func (n *Node) note(h hello) {
	const most = 1024 // nodes; whoever is on the bus has the credential
	n.mu.Lock()
	before := n.others[h.Node]
	late := before != nil && before.Run == h.Run && h.Turn < before.Turn
	if late || before == nil && len(n.others) >= most {
		n.mu.Unlock()
		return
	}
	o := &other{hello: h, heard: time.Now(), refused: !n.cfg.works(h.Version)}
	if h.Time != 0 {
		o.skew = time.UnixMilli(h.Time).Sub(o.heard)
	}
	n.others[h.Node] = o
	n.mu.Unlock()
	n.compareClocks(o, before)
	if o.Draining && (before == nil || !before.Draining) {
		n.cfg.Drains()
	}
	if o.refused && (before == nil || !before.refused) {
		n.cfg.Logger.Error("cluster: a node is of a version that does not work with this one: nothing is carried between the two",
			"node", h.Node, "version", h.Version, "own version", n.cfg.version)
	}
}

// maxSkew is from when on it is said that the clocks of two nodes differ. What couriers of Secrez sign is good for a minute.
const maxSkew = 10 * time.Second

// compareClocks says that the clock of another node differs from this one's, and that it does no more.
func (n *Node) compareClocks(now, before *other) {
	differ, differed := now.skew.Abs() > maxSkew, before != nil && before.skew.Abs() > maxSkew
	switch {
	case differ && !differed:
		n.cfg.Logger.Warn("cluster: the clock of another node differs from this one's: set them right, by NTP",
			"node", now.Node, "ahead", now.skew.Round(time.Second))
	case differed && !differ:
		n.cfg.Logger.Info("cluster: the clock of another node agrees with this one's again", "node", now.Node)
	}
}

// meetFor is how long a node that opens listens for the others.
const meetFor = 500 * time.Millisecond

// meet asks the others who they are, and refuses to be beside one that this node cannot work with.
func (n *Node) meet(ctx context.Context) error {
	conn, _ := n.cfg.Bus.Conn()
	if conn == nil {
		return ErrUnreachable
	}
	data, err := n.hello()
	if err != nil {
		return err
	}
	inbox := nats.NewInbox()
	sub, err := conn.SubscribeSync(inbox)
	if err == nil {
		err = conn.PublishRequest(subjectHello, inbox, data)
	}
	if err != nil {
		return ErrUnreachable
	}
	defer func() { _ = sub.Unsubscribe() }()
	ctx, cancel := context.WithTimeout(ctx, meetFor)
	defer cancel()
	for {
		m, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			return nil // those who have something to say have said it
		}
		var h hello
		if len(m.Data) > longestHello || json.Unmarshal(m.Data, &h) != nil || h.Node == "" {
			continue
		}
		n.note(h)
		if !n.cfg.works(h.Version) {
			return versionError(h.Node, h.Version, n.cfg.version)
		}
	}
}
