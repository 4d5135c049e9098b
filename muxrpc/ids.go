package muxrpc

import "math"

// idSpan is how many of the peer's latest request ids are remembered one by one; older ones count as used. Peers that
// number a request before they queue it may send neighbours out of order, so the latest id alone is not enough.
const idSpan = 1024

// idWindow remembers in bounded memory which of the peer's request ids were used, so that a late packet of a finished
// stream is never taken for a new call. Ids are compared on the circle of the positive int32, so they may wrap around.
type idWindow struct {
	newest int32
	run    int32   // how many ids up to the newest were used without a gap, at most idSpan; 0 before the first
	gaps   *idBits // what was used before those; nil while that is nothing
}

// idBits has a bit for each id of the window: that of the newest is at % idSpan.
type idBits struct {
	at   uint64
	used [idSpan / 64]uint64
}

// use marks id as used and reports whether it was unused before.
func (w *idWindow) use(id int32) bool {
	ahead, behind := idDistance(w.newest, id)
	switch {
	case w.run == 0:
		w.newest, w.run = id, 1
	case ahead <= behind:
		if ahead == 0 {
			return false
		}
		w.advance(id, ahead)
	case behind >= idSpan || behind < w.run:
		return false
	case w.gaps == nil:
		w.remember()
		fallthrough
	default:
		return w.gaps.use(w.gaps.at - uint64(behind))
	}
	return true
}

// advance makes id the newest and forgets the ids that fall out of the window. As a rule ids come one after the other, and
// nothing needs a bit.
func (w *idWindow) advance(id, by int32) {
	if by > 1 && w.gaps == nil {
		w.remember()
	}
	w.newest = id
	if by > 1 {
		w.run = 0
	}
	w.run = min(w.run+1, idSpan)
	if w.run == idSpan {
		w.gaps = nil
	}
	if w.gaps != nil {
		w.gaps.advance(uint64(by))
	}
}

// remember starts to keep a bit for each id.
func (w *idWindow) remember() {
	w.gaps = &idBits{at: idSpan}
	for i := range uint64(w.run) {
		w.gaps.set(w.gaps.at - i)
	}
}

// advance moves the newest id, which is used.
func (b *idBits) advance(by uint64) {
	for i := range min(by, idSpan) {
		b.clear(b.at + 1 + i)
	}
	b.at += by
	b.set(b.at)
}

// use marks the id at a place and reports whether it was unused before.
func (b *idBits) use(at uint64) bool {
	if b.used[at%idSpan/64]&(1<<(at%64)) != 0 {
		return false
	}
	b.set(at)
	return true
}

func (b *idBits) set(at uint64)   { b.used[at%idSpan/64] |= 1 << (at % 64) }
func (b *idBits) clear(at uint64) { b.used[at%idSpan/64] &^= 1 << (at % 64) }

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
