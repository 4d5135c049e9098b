package muxrpc

import (
	"encoding/json"
	"math"
	"strconv"
	"time"

	"github.com/secretstack/secretstack/packetstream"
)

// Windows, docs/PROTOCOL.md §5.2. Each stream and direction counts the bytes of its data packets, headers included. A
// sender stops when the count reaches the limit that the receiver has granted, and may go over it by one packet, so
// that a packet larger than the window still passes. Limits are absolute, so that grants can be repeated, merged and
// come late.
//
// Both sides mark the first packet they send. Who sees the mark answers with a hello that holds the window of streams
// that have no grant yet; only peers that showed the mark are sent hellos and grants.

// firstWindow is what a stream may send before anything is known of the peer.
const firstWindow = 64 << 10

type creditMode uint8

const (
	creditUnknown creditMode = iota // the peer has not sent a packet
	creditNone                      // it does not know windows: send as fast as the connection takes it
	creditOn
)

// credit is a session's part of flow control. Guarded by Session.mu.
type credit struct {
	mode     creditMode
	window   uint64 // what the peer lets a stream send before its first grant
	timer    *time.Timer
	reserved int     // sum of the windows of the streams we read
	dirty    *stream // streams with a grant to send, linked by nextDirty
}

// packetCost is what a data packet counts.
func packetCost(body int) int { return packetstream.HeaderSize + body }

// ownWindow is the window of a new stream that we read.
func (s *Session) ownWindow() int {
	return max(min(s.limits.StreamBuffer, s.limits.SessionBuffer/s.limits.MaxStreams), 1)
}

// heard learns from the first packet of the peer whether it knows windows.
func (s *Session) heard(marked bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !marked {
		s.setCredit(creditNone)
		return
	}
	s.credit.window = firstWindow
	s.setCredit(creditOn)
	hello := append([]byte(nil), `{"secretstack":{"credit":1,"window":`...)
	hello = strconv.AppendInt(hello, int64(s.ownWindow()), 10)
	hello = append(hello, "}}"...)
	s.out.put(packetstream.Header{Type: packetstream.JSON}, hello)
	s.flushSoon()
}

// setCredit changes the mode and wakes the streams that wait for it. Called with mu held.
func (s *Session) setCredit(mode creditMode) {
	s.credit.mode = mode
	if s.credit.timer != nil {
		s.credit.timer.Stop()
	}
	for _, st := range s.mine {
		st.changed.broadcast()
	}
	for _, st := range s.theirs {
		st.changed.broadcast()
	}
}

// mayWrite reports whether flow control lets st send one more packet. Called with mu held.
func (s *Session) mayWrite(st *stream) bool {
	switch s.credit.mode {
	case creditNone:
		return true
	case creditOn:
		return st.sent < max(st.limit, s.credit.window)
	}
	if st.sent < firstWindow {
		return true
	}
	if s.credit.timer == nil {
		s.credit.timer = time.AfterFunc(s.limits.CreditWait, s.stopWaiting)
	}
	return false
}

// stopWaiting treats a peer that has not said anything as one without windows, until it says otherwise.
func (s *Session) stopWaiting() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.credit.mode == creditUnknown {
		s.setCredit(creditNone)
	}
}

// extension is the body of a packet with id 0, as far as it concerns us.
type extension struct {
	Secretstack struct {
		Credit int        `json:"credit"`
		Window int64      `json:"window"`
		Grant  [][2]int64 `json:"grant"` // stream id as in the granter's own packets, absolute limit
	} `json:"secretstack"`
}

// handleExtension handles a packet with id 0. What is not understood is ignored: the id is free for anybody's use.
func (s *Session) handleExtension(v Value) {
	var ext extension
	const longest = 64 << 10 // room for a grant to each of 2048 streams
	if v.Kind != KindJSON || len(v.Bytes) > longest || json.Unmarshal(v.Bytes, &ext) != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if ext.Secretstack.Credit == 1 && ext.Secretstack.Window > 0 {
		s.credit.window = uint64(ext.Secretstack.Window)
		s.setCredit(creditOn)
	}
	for _, grant := range ext.Secretstack.Grant {
		s.granted(grant[0], grant[1])
	}
}

// granted raises the limit of a stream. Called with mu held.
func (s *Session) granted(id, limit int64) {
	if id < -math.MaxInt32 || id > math.MaxInt32 || limit < 0 {
		return
	}
	st := s.theirs[int32(id)]
	if id < 0 {
		st = s.mine[int32(-id)]
	}
	if st != nil && uint64(limit) > st.limit {
		st.limit = uint64(limit)
		st.changed.broadcast()
	}
}

// grant raises the limit of a stream that we read, once half of its window was read since the last time. A window that
// is used grows towards StreamBuffer as long as all windows together fit SessionBuffer. Called with mu held.
func (s *Session) grant(st *stream) {
	if s.credit.mode != creditOn || st.recvErr != nil || st.deaf {
		return
	}
	if st.consumed+uint64(st.window) < st.granted+uint64(st.window/2) {
		return
	}
	grow := max(0, min(st.window, s.limits.StreamBuffer-st.window, s.limits.SessionBuffer-s.credit.reserved))
	st.window += grow
	s.credit.reserved += grow
	st.granted = st.consumed + uint64(st.window)
	if !st.grantDirty {
		st.grantDirty = true
		s.credit.dirty, st.nextDirty = st, s.credit.dirty
	}
	s.flushSoon()
}

// putGrants adds one packet with all grants that wait. Called with mu held.
func (s *Session) putGrants() {
	if s.credit.dirty == nil {
		return
	}
	body := append([]byte(nil), `{"secretstack":{"grant":[`...)
	for s.credit.dirty != nil {
		st := s.credit.dirty
		s.credit.dirty, st.nextDirty, st.grantDirty = st.nextDirty, nil, false
		if st.recvErr != nil || st.deaf {
			continue
		}
		if body[len(body)-1] == ']' {
			body = append(body, ',')
		}
		body = append(body, '[')
		body = strconv.AppendInt(body, int64(st.id), 10)
		body = append(body, ',')
		body = strconv.AppendUint(body, st.granted, 10)
		body = append(body, ']')
	}
	if body[len(body)-1] == '[' {
		return
	}
	s.out.put(packetstream.Header{Type: packetstream.JSON}, append(body, "]}}"...))
}
