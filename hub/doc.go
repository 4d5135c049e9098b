// Package hub is the relay as a library: a place where peers are found by an id or a key wherever they are, and that
// carries what it cannot read. One process, one port, one data folder, one storage engine inside.
//
//	h, err := hub.New(ctx, hub.Config{Dir: "/var/lib/hub", Domain: "hub.example.org", Listen: []string{":8433"}})
//	if err != nil {
//		return err
//	}
//	defer h.Close(ctx)
//	return h.Serve(ctx)
//
// A Hub is also an http.Handler, so that a program that has a server already mounts the hub in it: all that a hub does,
// WebSocket connections of peers included, then goes through that server. The example runs one in ten lines.
//
// # What it does
//
// A peer that connects, over TCP or WebSocket with the secret handshake, may publish itself (hub.publish) and gets an id;
// with that it is a courier, found by its id and by its key. It is reached through the hub's room (tunnel.connect), through
// circuits, and, if it serves HTTP, at <id>.<domain>. JavaScript couriers of Secrez register with the v1 API and are reached
// at their ids as well, over raw tunnel sockets. An id belongs to a key, whichever way it registers. See docs/PROTOCOL.md
// §7, §10 and §11.
//
// Who may do what is decided by package hub/admission; lists and modes reach live connections. What the hub knows is in
// hub/registry. This package puts the parts together, knows who is connected, and ends everything in order.
//
// # Ends
//
// [Hub.Drain] is the end that nobody notices: couriers are told, nothing new begins, what runs may finish, for as long as
// the caller says. [Hub.Close] is the end. Both return in bounded time, and wait for everything that the hub has started.
package hub
