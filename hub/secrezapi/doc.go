// Package secrezapi answers the v1 API of the Secrez hub, docs/PROTOCOL.md §10: the call with which a JavaScript courier
// registers and gets a tunnel port, the look-up of a courier's key, and the counts for whoever runs the hub. It also
// answers the contact links that people hand each other.
//
// A [Handler] is everything that a hub says over HTTP under its own name. Requests for a courier's name, <id>.<domain>, are
// for hub/vhost, whose Handler comes first and has this one as its Next.
//
// # Registering
//
// A registration is a payload that the courier's account has signed. It counts within a minute of its time and does its
// work once:
//
//   - The answer to it is kept for as long as it could be sent again. The same payload gets the same answer, and nothing
//     else happens: a client that did not hear the answer asks again in the same words.
//   - What was used is also written down, in Config.Used, before the courier's port opens. A payload that was used before
//     the hub's restart is therefore refused, and one that was not is good, however wrong its signer's clock is within the
//     minute. Nodes with one registry write it to Config.Shared: it counts once at all of them, and only the node that took it
//     gives the same answer again.
//   - What is refused, or fails, is not used.
//
// # What the original does and this package does not
//
// Nothing is done for who has not proved a key: there is no /<id> that opens a port. HEAD changes nothing. A new id is
// given only when the signed payload asks for it. No address is made of what a visitor writes into a Host header. Every
// error is a JSON object, and none is an internal one because of what came in. The tests replay the recorded exchanges of
// the original and list every difference with its reason.
package secrezapi
