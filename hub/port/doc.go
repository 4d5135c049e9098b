// Package port is the hub's one port: it accepts connections and sorts them, by their first bytes, into HTTP, circuits
// and the secret handshake, in the clear or inside TLS.
//
// A connection passes these stages, all within one deadline:
//
//	header    the PROXY protocol, version 1 or 2, from trusted proxies: it says who the visitor is
//	let in    Options.Connect is asked, and the visitor's connections are counted
//	kind      the first bytes, 16 at most, tell what is spoken
//	TLS       is ended here, and the kind of what is inside is asked again; ALPN says it without asking
//	hand over to the listener of its kind
//
// What is handed over has the visitor's address as its RemoteAddr, and no deadline.
//
// # Who may hold what
//
// Until a peer has proved a key ([Port.Proved]) its connection counts: against Options.MaxPending while it passes the
// stages above, against Options.MaxUnproved and, with the others of its address, against Options.MaxPerAddress for as
// long as it is open. Above the first two, the connection for which nothing has been done for longest makes room: one in
// the stages, one that is silent since it was handed over, one on which HTTP waits for the next request. A connection on
// which a request is being served, or that was upgraded, is left alone; when there are no others, newcomers are refused.
// Addresses of IPv6 count by the 64 bits that one host has to itself. Loopback, and proxies that do not say whom they
// speak for, are not counted by address.
//
// So whoever holds many connections and does nothing with them loses them to those who do.
package port
