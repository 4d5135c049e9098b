// Package claim holds what couriers and hubs sign for each other: the two texts that bind a courier to its id at a hub, the
// [Statement], which the courier signs, and the [Receipt], which the hub signs; and the [Addresses] of a courier. It is
// apart from the registry so that a courier can use it without carrying a hub's storage engine.
//
// # Statement
//
// A courier that registers natively signs a statement: which hub, which key, what it asks for, which id it holds. It is
// the evidence that the registry keeps with the record. The bytes are, version 1:
//
//	size  field
//	29    "secretstack hub statement v1" and a zero byte
//	32    the hub's public key
//	32    the courier's public key
//	1     what is asked for: 1 register, 2 reset
//	1     length of the box half: 0 or 32
//	0/32  the box half
//	1     length of the id: 0 or 9
//	0/9   the id, as text
//	8     the sequence, big endian
//	8     the time in ms since 1970, big endian
//
// The hub's key keeps a statement from being used at another hub. A reset names the id that it gives up and the sequence
// of the id that it asks for, one more than the last: so it works once, however often it is repeated and whatever any clock
// says. The time is for people; nothing is decided by it.
//
// # Receipt
//
// A receipt says that the hub gave an id to a key, and in which sequence. A courier keeps its latest. When a hub has lost
// the record, or an old backup brought an older one back, the receipt proves what was, and the courier gets its id back
// ([Receipt.Verify]). The bytes are, version 1:
//
//	size  field
//	27    "secretstack hub receipt v1" and a zero byte
//	32    the hub's public key
//	32    the courier's public key
//	9     the id, as text
//	8     the sequence, big endian
//	8     the time of the registration in ms since 1970, big endian
//	64    the hub's Ed25519 signature over everything before it
//
// # Addresses
//
// A courier that is at several hubs says so at each of them, so that whoever does not find it at one can try the next. The
// bytes are, version 1:
//
//	size  field
//	25    "secretstack addresses v1" and a zero byte
//	32    the courier's public key
//	8     the time in ms since 1970, big endian: of two, the later one counts
//	…     multiserver addresses joined with ";", at most 4096 bytes
//	64    the courier's Ed25519 signature over everything before it
package claim
