package registry

import (
	"bytes"
	"errors"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/secretstack/secretstack/hub/registry/claim"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/keys/rotation"
	"github.com/secretstack/secretstack/secrez"
)

func rotated(tb testing.TB, from, to *keys.Identity) *rotation.Statement {
	tb.Helper()
	s, err := rotation.New(from, to, time.UnixMilli(1_700_000_000_000))
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// rotating makes a registration of a key for which others were given up.
func rotating(tb testing.TB, to *keys.Identity, from ...*keys.Identity) Registration {
	tb.Helper()
	reg := native(tb, to)
	for _, f := range from {
		reg.Rotations = append(reg.Rotations, rotated(tb, f, to))
	}
	return reg
}

func refused(tb testing.TB, r *Registry, reg Registration, want error) {
	tb.Helper()
	if rec, err := r.Register(tb.Context(), reg); !errors.Is(err, want) {
		tb.Errorf("%v, %v, want %v", rec, err, want)
	}
}

func holds(tb testing.TB, r *Registry, owner *keys.Identity, id secrez.ID, sequence uint64) {
	tb.Helper()
	rec, known := r.Lookup(id)
	if !known || !rec.Key.Equal(owner.Public()) || rec.Sequence != sequence {
		tb.Errorf("%v is %v, %d", id, rec, rec.Sequence)
	}
	if err := r.Verify(tb.Context(), id); err != nil {
		tb.Error(err)
	}
}

func TestAnIDGoesToTheKeyForWhichItsOwnIsGivenUp(t *testing.T) {
	dir := t.TempDir()
	r := open1(t, config(t, dir))
	a, b, c := identity(t, 1), identity(t, 2), identity(t, 3)
	first := register(t, r, native(t, a))
	second := register(t, r, rotating(t, b, a))
	if second.ID != first.ID || second.Sequence != 2 {
		t.Fatalf("%v, %d", second, second.Sequence)
	}
	holds(t, r, b, first.ID, 2)
	register(t, r, statement(t, b, claim.Statement{Action: claim.Register, ID: first.ID, Sequence: 2})) // better evidence
	register(t, r, rotating(t, c, b))
	again := register(t, r, rotating(t, c, b, a)) // does nothing
	closed(t, r)

	r = open1(t, config(t, dir))
	holds(t, r, c, first.ID, 3)
	if again.Sequence != 3 || r.Count() != 1 {
		t.Errorf("%d, %d records", again.Sequence, r.Count())
	}
	for _, old := range []*keys.Identity{a, b} {
		refused(t, r, native(t, old), ErrGivenUp)
		if heir, known := r.Heir(old.Public()); !known || !heir.Key.Equal(c.Public()) {
			t.Errorf("the heir is %v, %v", heir, known)
		}
	}
	if _, known := r.Heir(c.Public()); known {
		t.Error("who was not given up has an heir")
	}
	if got := r.Ancestors(c.Public()); len(got) != 2 || !got[0].Equal(b.Public()) || !got[1].Equal(a.Public()) {
		t.Errorf("given up were %v", got)
	}
	e, err := r.Evidence(t.Context(), first.ID)
	if err != nil || e.Rotation == nil || !e.Rotation.Old.Equal(b.Public()) {
		t.Errorf("%v, %v", e.Rotation, err)
	}
}

func TestAKeyThatWasGivenUpNeverComesBack(t *testing.T) {
	r := open1(t, config(t, t.TempDir()))
	a, b, thief := identity(t, 1), identity(t, 2), identity(t, 3)
	first := register(t, r, native(t, a))
	receipt := r.Receipt(first)
	register(t, r, rotating(t, b, a))

	withReceipt := statement(t, a, claim.Statement{Action: claim.Register, ID: first.ID, Sequence: 1})
	withReceipt.Receipt = &receipt
	for name, reg := range map[string]Registration{
		"anew":            native(t, a),
		"with a receipt":  withReceipt,
		"with a reset":    statement(t, a, claim.Statement{Action: claim.Reset, ID: first.ID, Sequence: 3}),
		"as an heir":      rotating(t, a, b),
		"with a sequence": statement(t, a, claim.Statement{Action: claim.Register, ID: first.ID, Sequence: 9}),
	} {
		t.Run(name, func(t *testing.T) { refused(t, r, reg, ErrGivenUp) })
	}
	// Whoever has the old key can sign for another one, which gets nothing of what there was.
	if rec := register(t, r, rotating(t, thief, a)); rec.ID == first.ID {
		t.Error("the id was given twice")
	}
	holds(t, r, b, first.ID, 2)
}

func TestAChangeOfKeysThatIsNotProvedIsRefused(t *testing.T) {
	r := open1(t, config(t, t.TempDir()))
	a, b, other := identity(t, 1), identity(t, 2), identity(t, 3)
	first := register(t, r, native(t, a))
	forged := bytes.Clone(rotated(t, other, b).Bytes())
	copy(forged[len("secretstack key rotation v1\x00"):], a.Public().Bytes())
	if _, err := rotation.Parse(forged); err == nil {
		t.Error("a statement without the old key's signature is one")
	}
	foreign := native(t, other)
	foreign.Rotations = []*rotation.Statement{rotated(t, a, b)} // of somebody else
	refused(t, r, foreign, ErrEvidence)
	elsewhere := statement(t, b, claim.Statement{Action: claim.Register, Hub: other.Public()})
	elsewhere.Rotations = []*rotation.Statement{rotated(t, a, b)}
	refused(t, r, elsewhere, ErrEvidence)
	claimed := statement(t, b, claim.Statement{Action: claim.Register, ID: secrez.NewID(), Sequence: 1})
	claimed.Rotations = []*rotation.Statement{rotated(t, a, b)}
	refused(t, r, claimed, ErrClaim) // it names another id
	holds(t, r, a, first.ID, 1)
}

func TestAKeyThatHasAnIDKeepsIt(t *testing.T) {
	r := open1(t, config(t, t.TempDir()))
	a, b := identity(t, 1), identity(t, 2)
	of, own := register(t, r, native(t, a)), register(t, r, native(t, b))
	if rec := register(t, r, rotating(t, b, a)); rec.ID != own.ID {
		t.Errorf("%v has become %v", own, rec)
	}
	holds(t, r, a, of.ID, 1)
	holds(t, r, b, own.ID, 1)
}

// TestAnOlderBackupDoesNotBringAGivenUpKeyBack: sequences decide, with the statement as the proof.
func TestAnOlderBackupDoesNotBringAGivenUpKeyBack(t *testing.T) {
	dir := t.TempDir()
	r := open1(t, config(t, filepath.Join(dir, "now")))
	a, b, c := identity(t, 1), identity(t, 2), identity(t, 3)
	first := register(t, r, native(t, a))
	var archive bytes.Buffer
	if _, err := r.Backup(t.Context(), &archive); err != nil {
		t.Fatal(err)
	}
	register(t, r, rotating(t, b, a))
	last := register(t, r, rotating(t, c, b))
	receipt := r.Receipt(last)
	restored := filepath.Join(dir, "before")
	if _, err := Restore(t.Context(), &archive, restored); err != nil {
		t.Fatal(err)
	}
	older := open1(t, config(t, restored))
	old := r.Receipt(first)
	register(t, older, native(t, a)) // it is there first
	reg := statement(t, c, claim.Statement{Action: claim.Register, ID: last.ID, Sequence: last.Sequence})
	reg.Receipt = &receipt
	refused(t, older, reg, ErrClaim) // nothing says that it is not another's
	reg.Rotations = []*rotation.Statement{rotated(t, b, c), rotated(t, a, c)}
	register(t, older, reg)
	holds(t, older, c, first.ID, 3)
	back := native(t, a)
	back.Receipt = &old
	refused(t, older, back, ErrGivenUp)

	empty := open1(t, config(t, filepath.Join(dir, "lost")))
	register(t, empty, reg)
	refused(t, empty, back, ErrClaim)
	holds(t, empty, c, first.ID, 3)
}

func TestOfTwoKeysAtOnceOneIsLeft(t *testing.T) {
	r := open1(t, config(t, t.TempDir()))
	for n := range uint64(20) {
		a, b, c := identity(t, 3*n), identity(t, 3*n+1), identity(t, 3*n+2)
		first := register(t, r, native(t, a))
		regs := []Registration{rotating(t, b, a), rotating(t, c, a), native(t, a)}
		var wg sync.WaitGroup
		for _, reg := range regs {
			wg.Go(func() {
				if _, err := r.Register(t.Context(), reg); err != nil && !errors.Is(err, ErrGivenUp) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		rec, known := r.Lookup(first.ID)
		if !known || rec.Key.Equal(a.Public()) || rec.Sequence != 2 {
			t.Fatalf("%v, %d", rec, rec.Sequence)
		}
		refused(t, r, native(t, a), ErrGivenUp)
		if err := r.Verify(t.Context(), first.ID); err != nil {
			t.Error(err)
		}
	}
}
