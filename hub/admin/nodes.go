package admin

import "time"

// Cluster is how the nodes of a hub are doing, as the one that is asked sees them.
type Cluster struct {
	Name string `json:"name"`
	Node string `json:"node"` // which is asked

	// Alone says that no majority of nodes can be reached: what is known is served, and nothing is written.
	Alone bool `json:"alone,omitempty"`

	// Nodes are those that are connected or hold the records, by name.
	Nodes []Node `json:"nodes"`

	// CircuitsOut are circuits of visitors that are here to couriers elsewhere, CircuitsIn those of couriers that are here to
	// visitors elsewhere; both are open now.
	CircuitsOut int `json:"circuitsOut"`
	CircuitsIn  int `json:"circuitsIn"`

	// TunnelsOut are tunnels of the room to attendants elsewhere, TunnelsIn those to attendants that are here from elsewhere; both
	// are open now.
	TunnelsOut int `json:"tunnelsOut"`
	TunnelsIn  int `json:"tunnelsIn"`

	Traffic NodeTraffic `json:"traffic"`
}

// odd reports whether there are other nodes, and the version of none works with that of the one that is asked.
func (c *Cluster) odd() bool {
	others := false
	for _, n := range c.Nodes {
		if n.Self || !n.Seen {
			continue
		}
		if !n.Refused {
			return false
		}
		others = true
	}
	return others
}

// NodeTraffic counts what a node has had to do with others since it started.
type NodeTraffic struct {
	Asked       uint64 `json:"asked"`       // questions about couriers that were put to other nodes
	Offline     uint64 `json:"offline"`     // of these, those about couriers that no node had
	Unanswered  uint64 `json:"unanswered"`  // of these, those that failed
	LinksOpened uint64 `json:"linksOpened"` // connections to other nodes for what they carry
	LinksFailed uint64 `json:"linksFailed"` // those that could not be opened
	LinksTaken  uint64 `json:"linksTaken"`  // those that other nodes have opened
}

// Node is one of the nodes.
type Node struct {
	Name    string `json:"name"`
	Self    bool   `json:"self,omitempty"`
	Seen    bool   `json:"seen"`              // it is connected
	Refused bool   `json:"refused,omitempty"` // it speaks a version with which nothing is carried

	Release  string  `json:"release,omitempty"` // of the program
	Couriers int     `json:"couriers"`          // that are connected to it
	Peers    int     `json:"peers"`             // connections with a proven key
	Draining bool    `json:"draining,omitempty"`
	Silent   float64 `json:"silent"` // seconds since it was heard
	Skew     float64 `json:"skew"`   // seconds by which its clock is ahead of that of the node that is asked

	Leads   bool   `json:"leads,omitempty"`   // it puts writes in their order
	Holds   bool   `json:"holds,omitempty"`   // it holds records, lists or mail
	Current bool   `json:"current,omitempty"` // it has all of what it is to hold, or nearly
	Lag     uint64 `json:"lag"`               // writes that it does not have yet
}

const (
	longSilence = 2.5 // seconds after which a node that says something every second may be gone
	clockSkew   = 5   // seconds by which clocks may differ
)

// State tells in a few words how the node is.
func (n Node) State() string {
	switch {
	case n.Refused:
		return "refused: its version does not work with this one"
	case !n.Seen:
		return "away"
	case n.Silent > longSilence:
		return "silent for " + (time.Duration(n.Silent) * time.Second).String()
	case n.Draining:
		return "draining"
	case n.Leads:
		return "leads"
	case n.Holds && !n.Current:
		return "catching up"
	}
	return "works"
}

// Advice says what is to be done about the node; empty if nothing is. Same is the version of the program that this node runs.
func (n Node) Advice(same string) string {
	switch skew := time.Duration(n.Skew) * time.Second; {
	case n.Refused:
		return "upgrade it, or this one: nothing is carried between them"
	case !n.Seen && n.Holds:
		return "start it, or replace or remove it, and stop no other until then"
	case !n.Seen, n.Silent > longSilence:
		return "see whether it runs and is reached"
	case n.Holds && !n.Current && !n.Leads && !n.Draining:
		return "stop no other until it works"
	case skew.Abs() >= clockSkew*time.Second:
		return "set its clock, or this one's: they differ by " + skew.Abs().String()
	case n.Release != same && n.Release != "" && !n.Draining:
		return "it runs version " + n.Release + ", and this one " + same + ": upgrade the one that is behind"
	}
	return ""
}

// Advice says what is to be done about the nodes, a sentence each.
func (c *Cluster) Advice() (all []string) {
	if c.Alone {
		return []string{"This node is cut off from the majority: what is known is served, and nothing is written. Start the others, or see why " +
			"they are not reached."}
	}
	same := ""
	for _, n := range c.Nodes {
		if n.Self {
			same = n.Release
		}
	}
	for _, n := range c.Nodes {
		if advice := n.Advice(same); advice != "" {
			all = append(all, n.Name+": "+advice+".")
		}
	}
	return all
}
