// Package circuit is what crosses the wire when two peers are joined at a hub: the preamble with which each end presents
// its token, the hub's answer of one byte, and the joining of the two connections. See docs/PROTOCOL.md §12.
//
// An end that has been given a [Token] opens a connection to the hub and calls [Enter]. When it returns nil, the
// connection is the other end's: not one byte of the hub's own follows. The two ends prove their keys to each other by
// the secret handshake through it, for the hub proves nothing.
//
// The hub tells the connections of ends from others with [Match], reads the token with [ReadPreamble], and joins the
// two that belong together with [Join]. Two TCP connections are joined in the kernel where the system can do that, and
// with pooled buffers otherwise; whatever one end does not take is not read from the other.
//
// The package keeps no tables and knows no keys: who may be joined with whom is its caller's to say.
package circuit
