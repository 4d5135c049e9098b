package muxrpc

import "math"

// idSpan is how many of the peer's latest request ids are remembered one by one; older ones count as used. Peers that
// number a request before they queue it may send neighbours out of order, so the latest id alone is not enough.
const idSpan = 1024

// idWindow remembers in bounded memory which of the peer's request ids were used, so that a late packet of a finished
// stream is never taken for a new call. Ids are compared on the circle of the positive int32, so they may wrap around.
type idWindow struct {
	started bool
	newest  int32
	at      uint64 // how far newest has moved; its bit is at % idSpan
	used    [idSpan / 64]uint64
}

// use marks id as used and reports whether it was unused before.
func (w *idWindow) use(id int32) bool {
	if !w.started {
		w.started, w.newest = true, id
		w.set(w.at)
		return true
	}
	ahead, behind := idDistance(w.newest, id)
	switch {
	case ahead <= behind:
		if ahead == 0 {
			return false
		}
		w.advance(id, uint64(ahead))
		return true
	case behind >= idSpan || w.has(w.at-uint64(behind)):
		return false
	}
	w.set(w.at - uint64(behind))
	return true
}

// advance makes id the newest and forgets the ids that fall out of the window.
func (w *idWindow) advance(id int32, by uint64) {
	for i := range min(by, idSpan) {
		w.clear(w.at + 1 + i)
	}
	w.newest = id
	w.at += by
	w.set(w.at)
}

func (w *idWindow) has(at uint64) bool { return w.used[at%idSpan/64]&(1<<(at%64)) != 0 }
func (w *idWindow) set(at uint64)      { w.used[at%idSpan/64] |= 1 << (at % 64) }
func (w *idWindow) clear(at uint64)    { w.used[at%idSpan/64] &^= 1 << (at % 64) }

// idDistance returns how far to is ahead of from and how far behind it, going around the circle 1…MaxInt32.
func idDistance(from, to int32) (ahead, behind int32) {
	switch {
	case to == from:
		return 0, 0
	case to > from:
		ahead = to - from
	default:
		ahead = math.MaxInt32 - (from - to)
	}
	return ahead, math.MaxInt32 - ahead
}
