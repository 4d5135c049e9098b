// Package vhost answers HTTP for couriers at <id>.<domain>: a reverse proxy whose back ends are not addresses but couriers,
// found by id, and the raw tunnel sockets through which the JavaScript courier of Secrez is reached. It has no flags and
// reads no environment.
//
// # The handler
//
// A [Handler] takes the id out of the Host header, asks its [Directory] for the [Courier], takes a connection from it and
// carries one exchange over it. Nothing that a visitor writes decides where bytes go, except the id. It is built on
// [net/http/httputil.ReverseProxy]; what is its own is how connections are taken, watched, used again and given up, and that
// every wait ends:
//
//	what happens                                        answer
//	no such id                                          404
//	the visitor stalls in the middle of a body          408, or 400 when the body breaks off
//	the body is larger than MaxBody                     413
//	the header is larger than MaxRequestHeader          431
//	the courier breaks the connection, sends garbage,
//	or a header larger than MaxResponseHeader           502
//	the courier is away, or busy                        503
//	the courier is too slow                             504
//	it fails in the middle of the response              the visitor's connection, or stream, breaks off
//
// Each answer is a JSON object, {"status_code":N,"message":"…"}. Nothing in it comes from the courier's connection.
//
// A request whose connection fails before a byte of the response has arrived is sent once more, over another connection,
// when that cannot do it twice: the method is idempotent, or nothing was sent; and when its body is still at hand. So is one
// of which the courier says, with a 408 that closes the connection, that it heard no request; and that several times.
//
// # Couriers
//
// A [Pool] is the courier that connects by itself: it holds the sockets that a JavaScript tunnel client opens. It hears
// from the address that registered and from no other, keeps a bounded number of sockets, watches those that no visitor
// uses, and ends when the courier has been gone for longer than its grace. [Pools] holds the pools of a hub and lends them
// [Ports].
//
// [Streams] is the courier that can be dialled: it opens connections through a function, such as the one that opens a
// stream on a courier's own connection, and uses them again.
//
// Both serve waiting visitors in the order in which they came, with the first connection that is free.
package vhost
