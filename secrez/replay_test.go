package secrez

import (
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// clock is a clock that a test sets.
type clock struct{ ms atomic.Int64 }

func newClock(ms int64) *clock {
	c := new(clock)
	c.ms.Store(ms)
	return c
}

func (c *clock) now() time.Time          { return time.UnixMilli(c.ms.Load()) }
func (c *clock) advance(d time.Duration) { c.ms.Add(d.Milliseconds()) }

const startMS = 1700000000000

// signedAt gives a payload of that time. Payloads of the same time differ by their serial number.
func signedAt(tb testing.TB, a *Account, ms int64, serial int) *Payload {
	tb.Helper()
	return mustVerify(tb, signMembers(a, fmt.Sprintf(`"when":%d,"serial":%d`, ms, serial)))
}

func wantErr(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) || want == nil && got != nil {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func TestAdmitsOnceWithinTheWindow(t *testing.T) {
	a := derived(t, 1)
	for _, age := range []int64{-60000, -59999, 0, 1, 59999, 60000} {
		c := newClock(startMS)
		replays := NewReplayCache(ReplayOptions{Now: c.now})
		p := signedAt(t, a, startMS-age, 0)
		wantErr(t, fmt.Sprint(age, " ms, first"), replays.Admit(p), nil)
		wantErr(t, fmt.Sprint(age, " ms, again"), replays.Admit(p), ErrReplayed)
		wantErr(t, fmt.Sprint(age, " ms, verified again"), replays.Admit(signedAt(t, a, startMS-age, 0)), ErrReplayed)
	}
	for _, age := range []int64{-60001, 60001, startMS, startMS - maxSafeInteger} {
		replays := NewReplayCache(ReplayOptions{Now: newClock(startMS).now})
		wantErr(t, fmt.Sprint(age, " ms"), replays.Admit(signedAt(t, a, startMS-age, 0)), ErrExpired)
		if replays.Len() != 0 {
			t.Errorf("%d ms: remembered what was refused", age)
		}
	}
}

// A payload is either remembered or outside the window, at every millisecond until long after.
func TestNoMomentIsLeftInWhichAPayloadWorksAgain(t *testing.T) {
	a := derived(t, 1)
	const window = 100 // ms
	for _, ahead := range []int64{-window, -window / 2, -1, 0, 1, window/2 + 3, window} {
		c := newClock(startMS)
		replays := NewReplayCache(ReplayOptions{Window: window * time.Millisecond, Now: c.now})
		p := signedAt(t, a, startMS+ahead, 0)
		wantErr(t, "first", replays.Admit(p), nil)
		for range 5 * window {
			if err := replays.Admit(p); err == nil {
				t.Fatalf("%d ms ahead: admitted again after %d ms", ahead, c.ms.Load()-startMS)
			}
			c.advance(time.Millisecond)
		}
		if replays.Len() != 0 {
			t.Errorf("%d ms ahead: never forgotten", ahead)
		}
	}
}

// Defect: the original remembered signature texts, so a rewritten signature made a used payload new.
func TestAttackAnotherSignatureDoesNotMakeAPayloadNew(t *testing.T) {
	v := readVectors(t).Payloads
	replays := NewReplayCache(ReplayOptions{Now: newClock(startMS).now})
	p := mustVerify(t, v[0].signed())
	wantErr(t, "first", replays.Admit(p), nil)
	for _, i := range []int{2, 3} { // recorded as accepted by the original
		if _, err := v[i].signed().Verify(); !errors.Is(err, ErrSignature) {
			t.Errorf("%s: %v", v[i].Name, err)
		}
	}
	// Should a rewritten signature ever verify, it is still the same entry.
	for _, signature := range []string{"", "another", p.signed.Signature + "\n"} {
		rewritten := *p
		rewritten.signed.Signature = signature
		wantErr(t, "rewritten", replays.Admit(&rewritten), ErrReplayed)
	}
}

func TestPayloadsOfOneMomentAreTwo(t *testing.T) {
	replays := NewReplayCache(ReplayOptions{Now: newClock(startMS).now})
	alice, bob := account(t, "alice"), account(t, "bob")
	wantErr(t, "alice's", replays.Admit(signedAt(t, alice, startMS, 0)), nil)
	wantErr(t, "alice's other", replays.Admit(signedAt(t, alice, startMS, 1)), nil)
	wantErr(t, "bob's", replays.Admit(signedAt(t, bob, startMS, 0)), nil)
	if replays.Len() != 3 {
		t.Errorf("%d remembered, want 3", replays.Len())
	}
}

func TestOfManyAtOnceOneIsAdmitted(t *testing.T) {
	a := derived(t, 1)
	replays := NewReplayCache(ReplayOptions{Now: newClock(startMS).now})
	for serial := range 20 {
		p := signedAt(t, a, startMS, serial)
		var admitted atomic.Int32
		var all sync.WaitGroup
		for range 16 {
			all.Go(func() {
				if replays.Admit(p) == nil {
					admitted.Add(1)
				}
			})
		}
		all.Wait()
		if admitted.Load() != 1 {
			t.Fatalf("admitted %d times", admitted.Load())
		}
	}
}

func TestMemoryIsBoundedAndAFullCacheForgetsNothing(t *testing.T) {
	a := derived(t, 1)
	c := newClock(startMS)
	replays := NewReplayCache(ReplayOptions{Max: 3, Now: c.now})
	for serial := range 3 {
		wantErr(t, "with room", replays.Admit(signedAt(t, a, startMS, serial)), nil)
	}
	for serial := 3; serial < 10; serial++ {
		wantErr(t, "full", replays.Admit(signedAt(t, a, startMS+int64(serial)*5000, serial)), ErrReplayFull)
	}
	for serial := range 3 {
		wantErr(t, "still known", replays.Admit(signedAt(t, a, startMS, serial)), ErrReplayed)
	}
	if len(replays.slots) != 1 || replays.Len() != 3 {
		t.Errorf("%d slots, %d payloads", len(replays.slots), replays.Len())
	}
	c.advance(2 * time.Minute)
	wantErr(t, "with room again", replays.Admit(signedAt(t, a, c.ms.Load(), 3)), nil)
	if replays.Len() != 1 {
		t.Errorf("%d remembered, want 1", replays.Len())
	}
}

func TestSlotsStayFewForever(t *testing.T) {
	a := derived(t, 1)
	c := newClock(startMS)
	replays := NewReplayCache(ReplayOptions{Window: time.Second, Now: c.now})
	for serial := range 400 {
		wantErr(t, "admit", replays.Admit(signedAt(t, a, c.ms.Load()+int64(serial%21-10)*100, serial)), nil)
		c.advance(77 * time.Millisecond)
		if len(replays.slots) > 2*slotsPerWindow+2 {
			t.Fatalf("%d slots", len(replays.slots))
		}
	}
}

func TestForgettingLetsTheSignerTryAgain(t *testing.T) {
	a := derived(t, 1)
	c := newClock(startMS)
	replays := NewReplayCache(ReplayOptions{Now: c.now})
	p, other := signedAt(t, a, startMS, 0), signedAt(t, a, startMS, 1)
	wantErr(t, "first", replays.Admit(p), nil)
	wantErr(t, "other", replays.Admit(other), nil)
	replays.Forget(p)
	replays.Forget(p)
	replays.Forget(nil)
	replays.Forget(signedAt(t, a, startMS+30000, 2))
	if replays.Len() != 1 {
		t.Errorf("%d remembered, want 1", replays.Len())
	}
	wantErr(t, "again", replays.Admit(p), nil)
	wantErr(t, "once more", replays.Admit(p), ErrReplayed)
	wantErr(t, "other again", replays.Admit(other), ErrReplayed)
	c.advance(time.Hour)
	if replays.Forget(p); replays.Len() != 0 {
		t.Errorf("%d remembered, want none", replays.Len())
	}
}

func TestAClockThatStepsBackReopensNothing(t *testing.T) {
	a := derived(t, 1)
	c := newClock(startMS)
	replays := NewReplayCache(ReplayOptions{Now: c.now})
	old, later := signedAt(t, a, startMS, 0), signedAt(t, a, startMS+900, 0) // in one slot
	wantErr(t, "first", replays.Admit(old), nil)
	wantErr(t, "the later one, first", replays.Admit(later), nil)

	c.advance(time.Hour)
	wantErr(t, "ahead of time", replays.Admit(signedAt(t, a, c.ms.Load(), 1)), nil)
	c.advance(-time.Hour + time.Second)

	wantErr(t, "the used one", replays.Admit(old), ErrExpired)
	wantErr(t, "the later one", replays.Admit(later), ErrExpired)
	wantErr(t, "a new one", replays.Admit(signedAt(t, a, c.ms.Load(), 2)), nil)
	c.advance(-30 * time.Second)
	wantErr(t, "the used one, further back", replays.Admit(old), ErrExpired)
	c.advance(time.Minute)
	wantErr(t, "a new one, when time goes on", replays.Admit(signedAt(t, a, c.ms.Load(), 3)), nil)
}

// Defect: a hub forgot what it had admitted when it was started again, and admitted it once more.
func TestAttackWhatWasSignedBeforeTheStartCanBeRefused(t *testing.T) {
	a := derived(t, 1)
	c := newClock(startMS)
	replays := NewReplayCache(ReplayOptions{NotBefore: c.now(), Now: c.now})
	wantErr(t, "before", replays.Admit(signedAt(t, a, startMS-1, 0)), ErrExpired)
	wantErr(t, "at the start", replays.Admit(signedAt(t, a, startMS, 0)), nil)
	wantErr(t, "after", replays.Admit(signedAt(t, a, startMS+1, 0)), nil)
}

func TestOnlyVerifiedPayloadsAreAdmitted(t *testing.T) {
	replays := NewReplayCache(ReplayOptions{})
	wantErr(t, "nil", replays.Admit(nil), ErrPayload)
	wantErr(t, "empty", replays.Admit(&Payload{}), ErrPayload)
	replays.Forget(&Payload{})
}

func TestReplayOptionsHaveDefaults(t *testing.T) {
	for _, opts := range []ReplayOptions{{}, {Window: -time.Second, Max: -1}, {Window: time.Microsecond}} {
		c := NewReplayCache(opts)
		if c.window != time.Minute || c.max != 1<<18 || c.width != 7500 || c.floor != math.MinInt64 {
			t.Errorf("%+v: %v, %d, %d, %d", opts, c.window, c.max, c.width, c.floor)
		}
	}
	if c := NewReplayCache(ReplayOptions{Window: time.Millisecond}); c.width != 1 {
		t.Errorf("width %d", c.width)
	}
}

func TestSlotsRoundDownOnBothSidesOf1970(t *testing.T) {
	c := NewReplayCache(ReplayOptions{Window: 80 * time.Millisecond}) // slots of 10 ms
	for ms, want := range map[int64]int64{-11: -2, -10: -1, -1: -1, 0: 0, 9: 0, 10: 1} {
		if got := c.slotOf(ms); got != want {
			t.Errorf("%d ms: slot %d, want %d", ms, got, want)
		}
	}
}

func TestTheSystemClockIsUsedByDefault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := derived(t, 1)
		replays := NewReplayCache(ReplayOptions{})
		s, err := a.SignPayload(nil, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		p := mustVerify(t, s)
		time.Sleep(time.Minute)
		wantErr(t, "after a minute", replays.Admit(p), nil)
		time.Sleep(time.Millisecond)
		wantErr(t, "a millisecond later", replays.Admit(p), ErrExpired)
		time.Sleep(time.Minute)
		if replays.Len() != 0 {
			t.Error("still remembered")
		}
	})
}

func BenchmarkAdmit(b *testing.B) {
	a := derived(b, 1)
	c := newClock(startMS)
	replays := NewReplayCache(ReplayOptions{Now: c.now})
	p := signedAt(b, a, startMS, 0)
	b.ReportAllocs()
	for b.Loop() {
		c.advance(time.Millisecond)
		next := *p
		next.when = c.ms.Load()
		next.signed.Payload = p.signed.Payload[:len(p.signed.Payload)-1] + fmt.Sprint(next.when)
		if err := replays.Admit(&next); err != nil {
			b.Fatal(err)
		}
	}
}

func TestWhatAnotherProcessAdmittedIsRemembered(t *testing.T) {
	a := derived(t, 1)
	c := newClock(startMS)
	replays := NewReplayCache(ReplayOptions{Max: 2, Now: c.now})
	used, ahead, third := signedAt(t, a, startMS-1000, 0), signedAt(t, a, startMS+60000, 0), signedAt(t, a, startMS-2000, 0)
	for range 2 { // again changes nothing
		replays.Remember(used.Digest(), used.When())
	}
	replays.Remember(ahead.Digest(), ahead.When())
	wantErr(t, "used", replays.Admit(used), ErrReplayed)
	wantErr(t, "used, signed ahead of the clock", replays.Admit(ahead), ErrReplayed)
	if replays.Len() != 2 {
		t.Errorf("%d are remembered", replays.Len())
	}
	replays.Remember(third.Digest(), third.When()) // no room
	wantErr(t, "used, and there was no room", replays.Admit(third), ErrExpired)
	wantErr(t, "signed before that", replays.Admit(signedAt(t, a, startMS-2001, 0)), ErrExpired)
	c.advance(3 * time.Minute)
	wantErr(t, "later", replays.Admit(signedAt(t, a, startMS+180000, 0)), nil)
}
