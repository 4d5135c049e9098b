// Package secrezapi is the courier as Secrez's programs know it: the API that Secrez's command line calls on its own
// machine, the one request by which couriers of Secrez give each other messages, and the two ways into a hub of theirs.
//
// [New] makes an [API] with two handlers. [API.Local] is for the machine's own programs, over HTTPS on loopback with a
// certificate of [Certificates]: every route, each call signed by the owner. [API.Public] is for the rest of the world,
// through a hub: POST / with a signed message, and nothing else. [Client] delivers messages to other couriers, and
// [Tunnel] makes the public handler reachable at a hub of Secrez.
//
// # What the original does and this package does not
//
// Calls are good for a minute, and once. Messages of people who are not trusted are refused, repeated ones are kept once,
// and old ones are refused. A message that the owner's secret does not open was meant for somebody else. Every request is
// answered; nothing that arrives ends the process. The owner is known from the start, and nobody beyond loopback becomes
// one. "ready" and "publish" tell whether the tunnel is there now. "add" says what is wrong with a key or an address. The
// tests replay the recorded exchanges and name every difference.
package secrezapi
