package circuits

import (
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/secretstack/secretstack/circuit"
	"github.com/secretstack/secretstack/keys"
)

func TestTwoEndsThatPresentTheirTokensAreJoined(t *testing.T) {
	var cfg Config
	told := record(&cfg)
	table := newTable(t, cfg)
	address := serve(t, table)
	visitor, target := enter(t, address, offer(t, table, "visitor", "target"))

	wantPassed(t, visitor, target, "a question")
	wantPassed(t, target, visitor, "the answer")
	if s := table.Stats(); s.Open != 1 || s.Pending != 0 || s.Joined != 1 || s.InKernel != 1 {
		t.Errorf("%+v", s)
	}
	_ = visitor.CloseWrite()
	if rest, err := io.ReadAll(target); len(rest) > 0 || err != nil {
		t.Errorf("got %q, %v", rest, err)
	}
	wantPassed(t, target, visitor, "more")
	_ = target.CloseWrite()
	if rest, err := io.ReadAll(visitor); len(rest) > 0 || err != nil {
		t.Errorf("got %q, %v", rest, err)
	}

	c := <-told.ended
	if c.FromVisitor != 10 || c.FromTarget != 14 || c.Err != nil || !c.InKernel {
		t.Errorf("%+v", c)
	}
	if !c.Visitor.Equal(key(t, "visitor")) || !c.Target.Equal(key(t, "target")) {
		t.Errorf("%+v", c)
	}
	if c.Offered.IsZero() || c.Joined.Before(c.Offered) || c.Ended.Before(c.Joined) {
		t.Errorf("%+v", c)
	}
	if len(told.joined) != 1 || !told.joined[0].Ended.IsZero() {
		t.Errorf("joined: %+v", told.joined)
	}
	if s := table.Stats(); s.Open != 0 || s.Bytes != 24 {
		t.Errorf("%+v", s)
	}
}

func TestATokenIsGoodOnce(t *testing.T) {
	table := newTable(t, Config{})
	address := serve(t, table)
	o := offer(t, table, "visitor", "target")
	visitor := dial(t, address)
	entered := make(chan error, 1)
	go func() { entered <- circuit.Enter(t.Context(), visitor, o.Visitor) }()
	eventually(t, "the visitor waits", func() bool {
		table.mu.Lock()
		defer table.mu.Unlock()
		return o.p.first != nil
	})
	wantAnswer(t, dial(t, address), o.Visitor, circuit.Unknown) // while the first waits,
	target := dial(t, address)
	if err := errors.Join(circuit.Enter(t.Context(), target, o.Target), <-entered); err != nil {
		t.Fatal(err)
	}
	wantAnswer(t, dial(t, address), o.Visitor, circuit.Unknown) // while it is joined,
	wantAnswer(t, dial(t, address), o.Target, circuit.Unknown)
	wantPassed(t, visitor, target, "undisturbed")
	visitor.Close()
	target.Close()
	eventually(t, "the circuit is over", func() bool { return table.Stats().Open == 0 })
	wantAnswer(t, dial(t, address), o.Target, circuit.Unknown) // and when it is over
	if s := table.Stats(); s.BadTokens != 4 || s.Joined != 1 {
		t.Errorf("%+v", s)
	}
}

func TestTokensOfDifferentCircuitsAreNotJoined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := newTable(t, Config{})
		one, two := offer(t, table, "alice", "target"), offer(t, table, "bob", "target")
		alice, target := pipeEnd(table), pipeEnd(table)
		go wantAnswer(t, alice, one.Visitor, circuit.Absent)
		wantAnswer(t, target, two.Target, circuit.Absent)
		synctest.Wait()
	})
}

func TestAStrangerGetsNowhere(t *testing.T) {
	table := newTable(t, Config{})
	address := serve(t, table)
	o := offer(t, table, "visitor", "target")
	half := o.Visitor
	half[circuit.TokenSize-1] ^= 1 // found, but not the same
	wantAnswer(t, dial(t, address), half, circuit.Unknown)
	wantAnswer(t, dial(t, address), circuit.Token{}, circuit.Unknown)
	wantAnswer(t, dial(t, address), circuit.NewToken(), circuit.Unknown)

	short := dial(t, address)
	_, _ = short.Write(circuit.AppendPreamble(nil, o.Visitor)[:circuit.PreambleSize-1])
	short.Close()
	eventually(t, "the short preamble was seen", func() bool { return table.Stats().BadPreambles == 1 })

	visitor, target := enter(t, address, o)
	wantPassed(t, visitor, target, "undisturbed")
}

func TestATokenMustComeInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := newTable(t, Config{Limits: Limits{Preamble: time.Second}})
		slow := pipeEnd(table)
		begin := time.Now()
		_, _ = io.WriteString(slow, "sstack")
		if n, _ := io.Copy(io.Discard, slow); n > 0 || time.Since(begin) != time.Second {
			t.Errorf("%d bytes after %v", n, time.Since(begin))
		}
	})
}

func TestEndsLearnThatTheOtherDidNotCome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var cfg Config
		told := record(&cfg)
		cfg.Limits.Setup = 10 * time.Second
		table := newTable(t, cfg)
		o := offer(t, table, "visitor", "target")
		if o.Lifetime != cfg.Limits.Setup {
			t.Errorf("the offer is good for %v", o.Lifetime)
		}
		began := time.Now()
		wantAnswer(t, pipeEnd(table), o.Visitor, circuit.Absent)
		if waited := time.Since(began); waited != cfg.Limits.Setup {
			t.Errorf("it waited for %v", waited)
		}
		wantAnswer(t, pipeEnd(table), o.Target, circuit.Expired)
		wantAnswer(t, pipeEnd(table), o.Target, circuit.Unknown)
		c := <-told.ended
		if answer, ok := errors.AsType[*circuit.AnswerError](c.Err); !ok || answer.Answer != circuit.Absent || !c.Joined.IsZero() {
			t.Errorf("%+v", c)
		}

		late := offer(t, table, "visitor", "target")
		time.Sleep(cfg.Limits.Setup + time.Second)
		wantAnswer(t, pipeEnd(table), late.Visitor, circuit.Expired)
		forgotten := offer(t, table, "visitor", "target")
		time.Sleep(3 * cfg.Limits.Setup)
		wantAnswer(t, pipeEnd(table), forgotten.Visitor, circuit.Unknown)
		if s := table.Stats(); s.Failed != 3 || s.Pending != 0 || len(table.doors) != 0 || table.lingering != 0 {
			t.Errorf("%+v, %d doors, %d lingering", s, len(table.doors), table.lingering)
		}
	})
}

func TestEndsLearnThatTheOtherRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := newTable(t, Config{})
		o := offer(t, table, "visitor", "target")
		go func() {
			time.Sleep(time.Second)
			o.Refuse(circuit.Refused)
			o.Refuse(circuit.Busy) // says nothing new
		}()
		wantAnswer(t, pipeEnd(table), o.Visitor, circuit.Refused)
		wantAnswer(t, pipeEnd(table), o.Target, circuit.Refused)
		again := offer(t, table, "visitor", "target")
		again.Refuse(circuit.Refused)
		wantAnswer(t, pipeEnd(table), again.Visitor, circuit.Refused)
	})
}

func TestWhatIsJoinedCannotBeRefused(t *testing.T) {
	table := newTable(t, Config{})
	o := offer(t, table, "visitor", "target")
	visitor, target := enter(t, serve(t, table), o)
	o.Refuse(circuit.Refused)
	wantPassed(t, visitor, target, "still there")
}

func TestLimitsHold(t *testing.T) {
	limits := Limits{Max: 5, MaxPending: 4, MaxPerVisitor: 3, MaxPerTarget: 3, MaxPendingPerKey: 2}
	try := func(t *testing.T, table *Table, visitor, target string, want error) *Offer {
		t.Helper()
		o, err := table.Offer(key(t, visitor), key(t, target))
		if !errors.Is(err, want) {
			t.Errorf("%s to %s: %v, want %v", visitor, target, err, want)
		}
		return o
	}
	t.Run("pending of a key", func(t *testing.T) {
		table := newTable(t, Config{Limits: limits})
		first := try(t, table, "v", "a", nil)
		try(t, table, "v", "b", nil)
		try(t, table, "v", "c", ErrVisitorLimit)
		try(t, table, "x", "v", ErrTargetLimit)
		try(t, table, "x", "a", nil)
		try(t, table, "y", "a", ErrTargetLimit)
		first.Refuse(circuit.Refused)
		try(t, table, "v", "c", nil)
	})
	t.Run("pending in all", func(t *testing.T) {
		table := newTable(t, Config{Limits: limits})
		for _, pair := range []string{"ab", "cd", "ef", "gh"} {
			try(t, table, pair[:1], pair[1:], nil)
		}
		try(t, table, "i", "j", ErrFull)
		if s := table.Stats(); s.Limited != 1 || s.Offered != 4 {
			t.Errorf("%+v", s)
		}
	})
	t.Run("open", func(t *testing.T) {
		table := newTable(t, Config{Limits: limits})
		address := serve(t, table)
		for range 3 {
			enter(t, address, try(t, table, "v", "t", nil))
		}
		try(t, table, "v", "x", ErrVisitorLimit)
		try(t, table, "x", "t", ErrTargetLimit)
		last, _ := enter(t, address, try(t, table, "a", "b", nil))
		enter(t, address, try(t, table, "c", "d", nil))
		try(t, table, "e", "f", ErrFull)
		_ = last.SetLinger(0)
		last.Close()
		eventually(t, "a circuit is over", func() bool { return table.Stats().Open == 4 })
		try(t, table, "e", "f", nil)
	})
}

func TestTheMemoryOfFailedCircuitsIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := newTable(t, Config{Limits: Limits{MaxPending: 10}})
		for range 100 {
			o := offer(t, table, "visitor", "target")
			o.Refuse(circuit.Refused)
		}
		if n := len(table.doors); n != 20 {
			t.Errorf("%d tokens are kept", n)
		}
	})
}

func TestWhatPassesIsCountedAndNothingIsKeptOfKeysWithoutCircuits(t *testing.T) {
	table := newTable(t, Config{})
	address := serve(t, table)
	v1, t1 := enter(t, address, offer(t, table, "v", "t"))
	wantPassed(t, v1, t1, "12345")
	v2, t2 := enter(t, address, offer(t, table, "v", "t"))
	wantPassed(t, t2, v2, "123")
	pending := offer(t, table, "v", "other")
	counted := func(open int) bool { return table.Stats().Bytes == 8 && table.Stats().Open == open }
	eventually(t, "the bytes are counted", func() bool { return counted(2) })
	accounts := func() accounts {
		table.mu.Lock()
		defer table.mu.Unlock()
		return maps.Clone(table.accounts)
	}
	if v, other := accounts().of(key(t, "v")), accounts().of(key(t, "other")); v != (account{visits: 3, pending: 1}) || other != (account{visited: 1, pending: 1}) {
		t.Errorf("%+v, %+v", v, other)
	}
	v1.Close()
	t1.Close()
	eventually(t, "the first circuit is over", func() bool { return counted(1) })
	if a := accounts().of(key(t, "t")); a != (account{visited: 1}) {
		t.Errorf("%+v", a)
	}
	v2.Close()
	t2.Close()
	eventually(t, "all is over", func() bool { return counted(0) })
	pending.Refuse(circuit.Refused)
	if left := accounts(); len(left) > 0 {
		t.Errorf("%d keys are kept", len(left))
	}
}

func TestCircuitsOfTheUnwelcomeAreCut(t *testing.T) {
	var cfg Config
	told := record(&cfg)
	table := newTable(t, cfg)
	address := serve(t, table)
	visitor, target := enter(t, address, offer(t, table, "bad", "target"))
	other, otherTarget := enter(t, address, offer(t, table, "good", "target"))
	pending := offer(t, table, "good", "bad")
	bad := key(t, "bad")
	n := table.Cut(func(visitor, target keys.PublicKey) bool { return visitor.Equal(bad) || target.Equal(bad) })
	if n != 2 {
		t.Errorf("%d circuits were cut", n)
	}
	for _, end := range []net.Conn{visitor, target} {
		if n, _ := io.Copy(io.Discard, end); n > 0 {
			t.Errorf("%d bytes out of nothing", n)
		}
	}
	wantAnswer(t, dial(t, address), pending.Visitor, circuit.Unwelcome)
	wantPassed(t, other, otherTarget, "undisturbed")
	errs := []error{(<-told.ended).Err, (<-told.ended).Err}
	if !slices.ContainsFunc(errs, func(err error) bool { return errors.Is(err, ErrUnwelcome) }) {
		t.Errorf("%v", errs)
	}
}

func TestAllTellsOfEveryCircuit(t *testing.T) {
	table := newTable(t, Config{})
	address := serve(t, table)
	enter(t, address, offer(t, table, "a", "b"))
	offer(t, table, "c", "d")
	var seen []string
	for c := range table.All() {
		seen = append(seen, strings.TrimPrefix(c.Visitor.Short(), "@"))
		if c.Joined.IsZero() == c.Visitor.Equal(key(t, "a")) {
			t.Errorf("%+v", c)
		}
	}
	if len(seen) != 2 {
		t.Errorf("%v", seen)
	}
	for range table.All() {
		break
	}
}

func TestClosingTellsThoseWhoWaitAndGivesTheOthersTime(t *testing.T) {
	table := New(Config{})
	address := serve(t, table)
	visitor, target := enter(t, address, offer(t, table, "v", "t"))
	pending := offer(t, table, "v", "t")
	waiting := dial(t, address)
	turnedAway := make(chan struct{})
	go func() {
		defer close(turnedAway)
		wantAnswer(t, waiting, pending.Visitor, circuit.Closing)
	}()
	silent := dial(t, address)
	_, _ = io.WriteString(silent, "sstack-circuit/1")
	eventually(t, "both are here", func() bool {
		table.mu.Lock()
		defer table.mu.Unlock()
		return pending.p.first != nil && len(table.arriving) == 1
	})
	closed := make(chan error, 2)
	go func() { closed <- table.Close(context.Background()) }()
	<-turnedAway
	if _, err := table.Offer(key(t, "v"), key(t, "t")); !errors.Is(err, ErrClosed) {
		t.Errorf("offered: %v", err)
	}
	if n, _ := io.Copy(io.Discard, silent); n != 1 { // Closing
		t.Errorf("%d bytes", n)
	}
	go func() { closed <- table.Close(context.Background()) }()
	wantPassed(t, visitor, target, "there is time to finish")
	select {
	case err := <-closed:
		t.Errorf("closed with %v while a circuit was open", err)
	default:
	}
	visitor.Close()
	target.Close()
	for range 2 {
		if err := <-closed; err != nil {
			t.Error(err)
		}
	}
	if err := circuit.Enter(t.Context(), dial(t, address), pending.Target); err == nil {
		t.Error("a closed table lets somebody in")
	}
}

func TestClosingCutsWhatTakesTooLong(t *testing.T) {
	var cfg Config
	told := record(&cfg)
	table := New(cfg)
	visitor, target := enter(t, serve(t, table), offer(t, table, "v", "t"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := table.Close(ctx); !errors.Is(err, ErrClosed) {
		t.Errorf("%v", err)
	}
	for _, end := range []net.Conn{visitor, target} {
		if n, _ := io.Copy(io.Discard, end); n > 0 {
			t.Errorf("%d bytes out of nothing", n)
		}
	}
	if c := <-told.ended; !errors.Is(c.Err, ErrClosed) {
		t.Errorf("%+v", c)
	}
}

func TestAnUnusedTableCloses(t *testing.T) {
	table := New(Config{})
	if err := errors.Join(table.Close(t.Context()), table.Close(t.Context())); err != nil {
		t.Error(err)
	}
}
