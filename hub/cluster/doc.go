// Package cluster lets the nodes of a hub find and reach each other's couriers.
//
//	n, err := cluster.Open(ctx, cluster.Config{Bus: registry, Name: "hub-1", Identity: node, AppKey: appKey, ...})
//	if err != nil {
//		return err // ErrVersion: a node that this one cannot work with is there
//	}
//	defer n.Close()
//	n.Publish(cluster.Courier, key)                              // a courier has connected here
//	place, reply, err := n.Ask(ctx, cluster.Courier, key, question) // of the node that has it; ErrOffline at once if none has
//	conn, err := n.Dial(ctx, place, request, true) // a direct connection to that node
//
// # Presence
//
// There is no table of who is where. A node is subscribed to a subject for each courier that it has. A question for a courier
// is published on that subject, and reaches one of the nodes that have the courier; if none has, the bus says so at
// once. What a dead node was subscribed to is gone with its connection.
//
// # Links
//
// What couriers and visitors say never crosses the bus. For that one node connects to another: both prove the keys of their
// nodes with the secret handshake, in a network whose app key comes from the cluster's credential. A request follows, and
// its answer; what comes then is encrypted by the link or, for ends that encrypt by themselves, left as it is so that the
// system can move it. A node never passes on what came over a link.
//
// # Versions
//
// Nodes of a version and of the next one work together. A node that is neither is refused with [ErrVersion], by questions, by
// links, and when it opens. See docs/PROTOCOL.md §15.
package cluster
