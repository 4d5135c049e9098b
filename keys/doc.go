// Package keys holds the identities of secretstack: Ed25519 key pairs, the
// public keys that name peers, and the app keys that separate networks.
//
// The three are different types, so that one cannot be passed for another.
// None can be compared with ==, because == on secrets is not constant time and
// == on a struct invites its use as such. An [Identity] and an [AppKey] never
// show their secret through fmt, log/slog or encoding/json; a [PublicKey] prints
// as its reference, "@….ed25519".
//
// [Load], [LoadOrCreate] and [Save] read and write the file "secret" of the
// JavaScript package ssb-keys, with an optional passphrase. See
// docs/PROTOCOL.md §8.
package keys

// incomparable makes a struct that embeds it refuse == at compile time.
type incomparable [0]func()

// hiding holds a secret out of the reach of fmt, which prints what unexported
// fields and the pointers in them lead to, but never what a function holds. It
// also makes a struct that has it incomparable.
type hiding[T any] func() *T

// hide puts a secret away. The nil hiding holds none.
func hide[T any](v *T) hiding[T] { return func() *T { return v } }
