package muxrpc

import "sync"

// arena is memory that packets are collected in. Arenas come in sizes from 1 KiB to 1 MiB, each four times the one
// before, so that little is held for few bytes; they are used again, so that growing costs no garbage.
type arena struct {
	b    []byte
	next *arena // what follows it in an outbox
}

const arenaSizes = 6

// arenas holds those that nobody uses.
var arenas [arenaSizes]sync.Pool

func arenaSize(i int) int { return 1 << (10 + 2*i) }

// withRoom returns a with room for n more bytes. A nil arena becomes a new one.
func (a *arena) withRoom(n int) *arena {
	if a == nil {
		return newArena(n)
	}
	if !a.fits(n) {
		larger := newArena(max(len(a.b)+n, cap(a.b)+1))
		larger.b, a.b = a.b, append(larger.b, a.b...)
		larger.free()
	}
	return a
}

func (a *arena) fits(n int) bool { return len(a.b)+n <= cap(a.b) }

func newArena(n int) *arena {
	for i := range arenas {
		if n > arenaSize(i) {
			continue
		}
		if a, ok := arenas[i].Get().(*arena); ok {
			return a
		}
		return &arena{b: make([]byte, 0, arenaSize(i))}
	}
	return &arena{b: make([]byte, 0, n+n/4)} // larger ones are not kept
}

// free gives the arena back. Nobody may use it or its bytes after that.
func (a *arena) free() {
	if a == nil {
		return
	}
	a.b, a.next = a.b[:0], nil
	for i := range arenas {
		if cap(a.b) == arenaSize(i) {
			arenas[i].Put(a)
			return
		}
	}
}
