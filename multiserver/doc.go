// Package multiserver reaches peers over many transports, and lets them reach
// us, behind one kind of address and one kind of connection.
//
// An address such as
//
//	net:example.org:8008~shs:1b9KP8znF7A4i8wnSevBSK2ZabI/Re4bYF/Vh3hXasQ=
//
// names a [Transport], which moves bytes (net, ws, unix, onion, or one that a
// plugin brings), and a [Transform], which proves who is at the other end and
// encrypts ([SHS], or [NoAuth] for sockets that the system already protects).
// [Parse] reads what people type and says what is wrong with it; [ParseLoose]
// reads what peers send, as the JavaScript package multiserver does.
//
// A [Server] listens as its [Config] says and dials addresses. What it hands
// over is a [Conn]: a net.Conn with the proven key of the peer. Accepting never
// waits for anybody: each handshake runs on its own, against one deadline, and
// the number of connections that have not proved a key is capped.
//
// See docs/PROTOCOL.md §6.
package multiserver
