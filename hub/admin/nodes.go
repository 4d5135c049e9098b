package admin

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
	Holds   bool   `json:"holds,omitempty"`   // it holds the records
	Current bool   `json:"current,omitempty"` // it has all of them, or nearly
	Lag     uint64 `json:"lag"`               // writes that it does not have yet
}

// State tells in a few words how the node is.
func (n Node) State() string {
	switch {
	case n.Refused:
		return "refused: its version does not work with this one"
	case !n.Seen:
		return "away"
	case n.Draining:
		return "draining"
	case n.Leads:
		return "leads"
	case n.Holds && !n.Current:
		return "catching up"
	}
	return "works"
}
