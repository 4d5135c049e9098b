// Package muxrpc runs remote calls in both directions over one connection, wire-compatible with the JavaScript muxrpc.
//
// A [Session] is made with [New] from any connection; neither end is special, both may serve and both may call. What a
// peer may call is what is registered in a [Mux] and not refused by [Permissions]; the [Manifest] is derived from it.
//
//	mux := muxrpc.NewMux()
//	muxrpc.HandleAsync(mux, "hello", func(ctx context.Context, name string) (string, error) {
//		return "hello " + name, nil
//	})
//	session := muxrpc.New(ctx, conn, muxrpc.Options{Mux: mux})
//	defer session.Close(ctx)
//
//	answer, err := muxrpc.Call[string](ctx, session, "hello", "alice")
//
// There are five types of call. Async and sync take one answer and differ only in the manifest. A source sends items to
// the caller, a sink takes items from it, a duplex does both.
//
// # Values
//
// An item, a result or an argument is bytes, a string or a JSON value. On the receiving side the type parameter decides:
// []byte and string take what was sent as such, [Value] takes anything undecoded, [json.RawMessage] takes it as JSON,
// any takes []byte, string or a decoded JSON value, and every other type is decoded from JSON by encoding/json.
//
// # Errors
//
// What the peer answered is a [*RemoteError]. Everything else was concluded on this side. A handler's error reaches the
// peer only when it was made by [Errorf] or came from another peer; any other error is logged and answered with
// "internal error", because its text may hold what is none of the peer's business.
//
// # Memory and time
//
// Everything a peer can make a session hold is bounded by [Limits], and so is every wait for a peer. The protocol has no
// flow control of its own. Two sessions of this package give each stream a window, so that a reader that falls behind
// holds up its own stream only. A peer that knows no windows is held back by not reading from it for a while; if the
// reader does not catch up meanwhile, the stream ends with [ErrSlowReader]. See docs/PROTOCOL.md §5.
package muxrpc
