// Package envelope holds the formats of what couriers send each other: messages, which their sender signs, and sealed
// envelopes, in which a message waits where it can be neither read nor told from others.
//
// A [Message] names its sender, its recipient and the conversation of the two, so that nobody can pass it on as meant
// for another. It has a number in the sender's series, by which a recipient sees order and gaps. [Message.Sign] makes a
// [Signed] of it and [Parse] reads one; its hash names it, and whoever has seen a hash has seen the message, whatever
// way it comes a second time.
//
// [Seal] encrypts a signed message for its recipient's key. Who sent it is inside; the length is one of a few size
// classes. [Open] undoes it.
//
// The package knows nothing of networks or storage. docs/MESSAGES.md gives the bytes.
package envelope
