// Package store keeps what a courier must not forget, in one SQLite file: contacts with their pinned keys, messages and
// how far each has come, what waits to be sent, what strangers have asked, and files.
//
// What a method has acknowledged by returning without an error is on disk, whole, whatever ends the process afterwards.
// A message is taken once: its hash is remembered, and [Store.Receive] tells a second coming from a first.
//
// The store has one writer, the process that has it open; a second one is refused with [ErrInUse]. It knows nothing of
// networks, and is safe for concurrent use.
package store
