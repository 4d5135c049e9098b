package registry

import (
	"context"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/secretstack/secretstack/hub/registry/claim"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/secrez"
)

// accountOf derives the account of an identity.
func accountOf(tb testing.TB, id *keys.Identity) *secrez.Account {
	tb.Helper()
	account, err := secrez.FromIdentity(id)
	if err != nil {
		tb.Fatal(err)
	}
	return account
}

// importedAccount is one as Secrez makes them: with a box half of its own.
func importedAccount(tb testing.TB, id *keys.Identity) *secrez.Account {
	tb.Helper()
	box := make([]byte, 32)
	_, _ = rand.Read(box)
	account, err := secrez.ImportAccount(id.Seed(), box)
	if err != nil {
		tb.Fatal(err)
	}
	return account
}

func TestAKeyKeepsItsID(t *testing.T) {
	cfg := config(t, t.TempDir())
	r := open1(t, cfg)
	owner := identity(t, 1)
	first := register(t, r, native(t, owner))
	if first.ID.IsZero() || first.Sequence != 1 || !first.Key.Equal(owner.Public()) {
		t.Fatalf("got %+v", first)
	}
	check := func(r *Registry) {
		t.Helper()
		if again := register(t, r, native(t, owner)); again.ID != first.ID || again.Sequence != 1 {
			t.Errorf("registering again gives %+v", again)
		}
		if rec, ok := r.Lookup(first.ID); !ok || !rec.Key.Equal(owner.Public()) {
			t.Errorf("the id is not found: %+v", rec)
		}
		if rec, ok := r.LookupKey(owner.Public()); !ok || rec.ID != first.ID || !rec.Since.Equal(first.Since) {
			t.Errorf("the key is not found: %+v", rec)
		}
		if n := r.Count(); n != 1 {
			t.Errorf("%d records", n)
		}
		if err := r.Verify(t.Context(), first.ID); err != nil {
			t.Error(err)
		}
	}
	check(r)
	if writes := r.Status().Writes; writes != 1 {
		t.Errorf("%d writes for one id", writes)
	}
	closed(t, r)
	check(open1(t, cfg))
}

func TestUnknownIDsAndKeysAreNotFound(t *testing.T) {
	r := open1(t, config(t, t.TempDir()))
	if _, ok := r.Lookup(secrez.NewID()); ok {
		t.Error("an unknown id is found")
	}
	if _, ok := r.LookupKey(identity(t, 1).Public()); ok {
		t.Error("an unknown key is found")
	}
	if err := r.Verify(t.Context(), secrez.NewID()); !errors.Is(err, ErrNotFound) {
		t.Errorf("got %v", err)
	}
	if _, err := r.Evidence(t.Context(), secrez.ID{}); !errors.Is(err, ErrNotFound) {
		t.Errorf("got %v", err)
	}
}

// Six concurrent first registrations of one key gave one id and five internal errors.
func TestDefectConcurrentFirstRegistrationsGiveOneID(t *testing.T) {
	r := open1(t, config(t, t.TempDir()))
	const keysAtOnce, each = 20, 32
	ids := make([][]secrez.ID, keysAtOnce)
	var wg sync.WaitGroup
	for k := range ids {
		ids[k] = make([]secrez.ID, each)
		owner := identity(t, uint64(k))
		regs := []Registration{native(t, owner), v1(t, accountOf(t, owner), nil)}
		for i := range each {
			wg.Go(func() {
				rec, err := r.Register(t.Context(), regs[i%len(regs)])
				if err != nil {
					t.Error(err)
				}
				ids[k][i] = rec.ID
				if found, ok := r.Lookup(rec.ID); !ok || !found.Key.Equal(owner.Public()) {
					t.Error("what Register returned is not found")
				}
			})
		}
	}
	wg.Wait()
	all := map[secrez.ID]bool{}
	for k := range ids {
		for _, id := range ids[k] {
			if id != ids[k][0] {
				t.Fatalf("key %d got %v and %v", k, id, ids[k][0])
			}
		}
		all[ids[k][0]] = true
	}
	if len(all) != keysAtOnce || r.Count() != keysAtOnce {
		t.Errorf("%d ids for %d keys", len(all), keysAtOnce)
	}
}

func TestTheSameSignKeyHasOneIDWhicheverWayItRegisters(t *testing.T) {
	for name, order := range map[string][2]func(*testing.T, *keys.Identity, *secrez.Account) Registration{
		"native first": {
			func(t *testing.T, id *keys.Identity, _ *secrez.Account) Registration { return native(t, id) },
			func(t *testing.T, _ *keys.Identity, a *secrez.Account) Registration { return v1(t, a, nil) },
		},
		"Secrez first": {
			func(t *testing.T, _ *keys.Identity, a *secrez.Account) Registration { return v1(t, a, nil) },
			func(t *testing.T, id *keys.Identity, _ *secrez.Account) Registration { return native(t, id) },
		},
	} {
		for kind, account := range map[string]*secrez.Account{
			"derived": accountOf(t, identity(t, 1)), "imported": importedAccount(t, identity(t, 1)),
		} {
			t.Run(name+", "+kind, func(t *testing.T) {
				cfg := config(t, t.TempDir())
				r := open1(t, cfg)
				first := register(t, r, order[0](t, identity(t, 1), account))
				second := register(t, r, order[1](t, identity(t, 1), account))
				if first.ID != second.ID {
					t.Errorf("got %v and %v", first.ID, second.ID)
				}
				closed(t, r)
				rec, _ := open1(t, cfg).Lookup(first.ID)
				public, err := rec.PublicKey()
				if err != nil || !public.Equal(account.Public()) {
					t.Errorf("the public key is %v, %v, want %v", public, err, account.Public())
				}
			})
		}
	}
}

func TestASecondBoxHalfIsRefused(t *testing.T) {
	r := open1(t, config(t, t.TempDir()))
	owner := identity(t, 1)
	account := importedAccount(t, owner)
	first := register(t, r, v1(t, account, nil))
	for name, reg := range map[string]Registration{
		"another one":        v1(t, importedAccount(t, owner), nil),
		"the derived one":    v1(t, accountOf(t, owner), nil),
		"in a reset":         v1(t, importedAccount(t, owner), map[string]any{"reset": true}),
		"stated natively":    statement(t, owner, claim.Statement{Action: claim.Register, Box: accountOf(t, owner).Public().Box()}),
		"in a native reset":  statement(t, owner, claim.Statement{Action: claim.Reset, ID: first.ID, Sequence: 2, Box: accountOf(t, owner).Public().Box()}),
		"with a new receipt": withReceipt(v1(t, importedAccount(t, owner), nil), r.Receipt(first)),
	} {
		if _, err := r.Register(t.Context(), reg); !errors.Is(err, ErrBoxKey) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if again := register(t, r, v1(t, account, nil)); again.ID != first.ID {
		t.Errorf("the owner got %v", again.ID)
	}
}

func withReceipt(reg Registration, receipt claim.Receipt) Registration {
	reg.Receipt = &receipt
	return reg
}

// A key could register under any number of names, as the box half is bound to nothing: victim's box half, attacker's sign
// half. The record is the sign key's; the victim's id and record stay as they are.
func TestDefectTheVictimsBoxHalfGivesNothing(t *testing.T) {
	r := open1(t, config(t, t.TempDir()))
	victim, attacker := accountOf(t, identity(t, 1)), identity(t, 2)
	owned := register(t, r, v1(t, victim, nil))
	stolen := register(t, r, statement(t, attacker, claim.Statement{Action: claim.Register, Box: victim.Public().Box()}))
	if stolen.ID == owned.ID {
		t.Fatal("the attacker has the victim's id")
	}
	if rec, _ := r.LookupKey(victim.Public().Identity()); rec.ID != owned.ID {
		t.Errorf("the victim has %v", rec.ID)
	}
}

func TestAResetGivesANewIDAndTheOldOneIsNobodysForEver(t *testing.T) {
	cfg := config(t, t.TempDir())
	r := open1(t, cfg)
	owner := identity(t, 1)
	first := register(t, r, native(t, owner))
	reset := statement(t, owner, claim.Statement{Action: claim.Reset, ID: first.ID, Sequence: 2})
	second := register(t, r, reset)
	if second.ID == first.ID || second.Sequence != 2 {
		t.Fatalf("got %+v", second)
	}
	check := func(r *Registry) {
		t.Helper()
		if rec, ok := r.Lookup(first.ID); ok {
			t.Errorf("the old id is %+v's", rec)
		}
		if !r.Retired(first.ID) || r.Retired(second.ID) {
			t.Error("the wrong id is retired")
		}
		if rec, ok := r.Lookup(second.ID); !ok || !rec.Key.Equal(owner.Public()) {
			t.Error("the new id is not found")
		}
		if again := register(t, r, reset); again.ID != second.ID {
			t.Errorf("the reset sent again gives %v", again.ID)
		}
		if again := register(t, r, native(t, owner)); again.ID != second.ID {
			t.Errorf("registering gives %v", again.ID)
		}
		if s := r.Status(); s.Records != 1 || s.Retired != 1 || s.Err != nil {
			t.Errorf("status %+v", s)
		}
		if err := r.Verify(t.Context(), second.ID); err != nil {
			t.Error(err)
		}
		other := identity(t, 2)
		forged := claim.Receipt{Key: other.Public(), ID: first.ID, Sequence: 1}.Sign(hubIdentity(t))
		if _, err := r.Register(t.Context(), withReceipt(native(t, other), forged)); !errors.Is(err, ErrClaim) {
			t.Errorf("another key claims the old id: %v", err)
		}
	}
	check(r)
	closed(t, r)
	check(open1(t, cfg))
}

func TestAResetWorksOnce(t *testing.T) {
	r := open1(t, config(t, t.TempDir()))
	owner := identity(t, 1)
	first := register(t, r, native(t, owner))
	one := statement(t, owner, claim.Statement{Action: claim.Reset, ID: first.ID, Sequence: 2})
	second := register(t, r, one)
	third := register(t, r, statement(t, owner, claim.Statement{Action: claim.Reset, ID: second.ID, Sequence: 3}))
	for name, reg := range map[string]Registration{
		"the first reset again":   one,
		"another of the first id": statement(t, owner, claim.Statement{Action: claim.Reset, ID: first.ID, Sequence: 4}),
		"a wrong sequence":        statement(t, owner, claim.Statement{Action: claim.Reset, ID: third.ID, Sequence: 3}),
		"a sequence ahead":        statement(t, owner, claim.Statement{Action: claim.Reset, ID: third.ID, Sequence: 9}),
		"no id":                   statement(t, owner, claim.Statement{Action: claim.Reset, Sequence: 4}),
		"a key without id":        statement(t, identity(t, 2), claim.Statement{Action: claim.Reset, Sequence: 1}),
	} {
		if _, err := r.Register(t.Context(), reg); !errors.Is(err, ErrStale) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if rec, _ := r.LookupKey(owner.Public()); rec.ID != third.ID {
		t.Errorf("the key has %v, want %v", rec.ID, third.ID)
	}
}

func TestConcurrentResetsOfOneSequenceGiveOneID(t *testing.T) {
	r := open1(t, config(t, t.TempDir()))
	owner := identity(t, 1)
	first := register(t, r, native(t, owner))
	var wg sync.WaitGroup
	var granted, stale int
	var mu sync.Mutex
	for i := range 20 {
		reg := statement(t, owner, claim.Statement{
			Action: claim.Reset, ID: first.ID, Sequence: 2, Time: time.UnixMilli(int64(i)),
		})
		wg.Go(func() {
			_, err := r.Register(t.Context(), reg)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				granted++
			case errors.Is(err, ErrStale):
				stale++
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if granted != 1 || stale != 19 {
		t.Errorf("%d were granted and %d were stale", granted, stale)
	}
}

// The parameter that asked for a reset was not signed, so anybody could add it to somebody's registration.
func TestDefectAResetIsSigned(t *testing.T) {
	r := open1(t, config(t, t.TempDir()))
	account := importedAccount(t, identity(t, 1))
	first := register(t, r, v1(t, account, nil))
	for _, value := range []any{false, nil} {
		if rec := register(t, r, v1(t, account, map[string]any{"reset": value})); rec.ID != first.ID {
			t.Errorf("reset %v gives %v", value, rec.ID)
		}
	}
	for _, value := range []any{"true", 1, []any{}} {
		reg := v1(t, account, map[string]any{"reset": value})
		if _, err := r.Register(t.Context(), reg); !errors.Is(err, ErrEvidence) {
			t.Errorf("reset %v gives %v", value, err)
		}
	}
	reset := v1(t, account, map[string]any{"reset": true})
	second := register(t, r, reset)
	if second.ID == first.ID || !r.Retired(first.ID) {
		t.Errorf("the signed reset gives %v", second.ID)
	}
	if again := register(t, r, reset); again.ID != second.ID {
		t.Errorf("the same reset again gives %v", again.ID)
	}
	if err := r.Verify(t.Context(), second.ID); err != nil {
		t.Error(err)
	}
}

func TestAFirstRegistrationWithResetIsARegistration(t *testing.T) {
	r := open1(t, config(t, t.TempDir()))
	if rec := register(t, r, v1(t, accountOf(t, identity(t, 1)), map[string]any{"reset": true})); rec.Sequence != 1 {
		t.Errorf("got %+v", rec)
	}
}

func TestAStatementThatNamesTheIDBecomesTheEvidence(t *testing.T) {
	cfg := config(t, t.TempDir())
	r := open1(t, cfg)
	owner := identity(t, 1)
	rec := register(t, r, native(t, owner))
	confirm := statement(t, owner, claim.Statement{Action: claim.Register, ID: rec.ID, Sequence: 1})
	if again := register(t, r, confirm); again.ID != rec.ID {
		t.Fatalf("got %v", again.ID)
	}
	check := func(r *Registry) {
		t.Helper()
		evidence, err := r.Evidence(t.Context(), rec.ID)
		if err != nil {
			t.Fatal(err)
		}
		if string(evidence.Statement.Statement) != string(confirm.Statement.Statement) {
			t.Error("the evidence is another statement")
		}
		if err := r.Verify(t.Context(), rec.ID); err != nil {
			t.Error(err)
		}
		writes := r.Status().Writes
		register(t, r, statement(t, owner, claim.Statement{Action: claim.Register, ID: rec.ID, Sequence: 1}))
		register(t, r, native(t, owner))
		if now := r.Status().Writes; now != writes {
			t.Errorf("registering again costs %d writes", now-writes)
		}
	}
	check(r)
	closed(t, r)
	check(open1(t, cfg))
}

func TestRegistrationsThatAreNotProvedAreRefused(t *testing.T) {
	cfg := config(t, t.TempDir())
	cfg.Limits.MaxEvidence = 1000
	r := open1(t, cfg)
	owner := identity(t, 1)
	good := native(t, owner)
	forged := *good.Statement
	forged.Signature = append([]byte(nil), forged.Signature...)
	forged.Signature[5] ^= 1
	receipt := claim.Receipt{Key: owner.Public(), ID: secrez.NewID(), Sequence: 4}
	for name, reg := range map[string]Registration{
		"nothing":                     {},
		"both":                        {Statement: good.Statement, Payload: v1(t, accountOf(t, owner), nil).Payload},
		"a wrong signature":           {Statement: &forged},
		"no statement":                {Statement: &claim.Signed{}},
		"another hub's statement":     statement(t, owner, claim.Statement{Hub: owner.Public(), Action: claim.Register}),
		"a large payload":             v1(t, accountOf(t, owner), map[string]any{"x": strings.Repeat("x", 1000)}),
		"a box half nobody can use":   statement(t, owner, claim.Statement{Action: claim.Register, Box: make([]byte, 32)}),
		"a receipt of another hub":    withReceipt(good, receipt.Sign(identity(t, 9))),
		"a receipt of another key":    withReceipt(native(t, identity(t, 2)), receipt.Sign(hubIdentity(t))),
		"a receipt without signature": withReceipt(good, receipt),
	} {
		if _, err := r.Register(t.Context(), reg); !errors.Is(err, ErrEvidence) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if r.Count() != 0 || r.Status().Writes != 0 {
		t.Error("something was written")
	}
}

func TestTheLargestRegistrationsFitAWrite(t *testing.T) {
	cfg := config(t, t.TempDir())
	cfg.Limits.MaxEvidence = 1 << 30 // which is cut down to what is allowed
	r := open1(t, cfg)
	large := map[string]any{"x": strings.Repeat("x", maxEvidence-500), "reset": true}
	var wg sync.WaitGroup
	for i := range uint64(12) {
		account := accountOf(t, identity(t, i))
		receipt := claim.Receipt{Key: identity(t, i).Public(), ID: secrez.NewID(), Sequence: 9}.Sign(hubIdentity(t))
		reg := withReceipt(v1(t, account, large), receipt) // heals and resets: two records
		wg.Go(func() {
			rec, err := r.Register(t.Context(), reg)
			if err != nil || rec.Sequence != 10 {
				t.Errorf("got %+v, %v", rec, err)
			}
		})
	}
	wg.Wait()
	if err := r.Status().Err; err != nil {
		t.Error(err)
	}
	closed(t, r)
	r = open1(t, cfg)
	for rec := range r.All() {
		if err := r.Verify(t.Context(), rec.ID); err != nil {
			t.Error(err)
		}
	}
	if r.Count() != 12 {
		t.Errorf("%d records", r.Count())
	}
}

func TestALostRecordIsHealedByItsReceipt(t *testing.T) {
	lost := open1(t, config(t, t.TempDir()))
	owner := identity(t, 1)
	rec := register(t, lost, native(t, owner))
	receipt := lost.Receipt(rec)

	cfg := config(t, t.TempDir()) // the same hub with nothing left
	r := open1(t, cfg)
	claimed := statement(t, owner, claim.Statement{Action: claim.Register, ID: rec.ID, Sequence: 1})
	if _, err := r.Register(t.Context(), claimed); !errors.Is(err, ErrClaim) {
		t.Errorf("the id is claimed without proof: %v", err)
	}
	healed := register(t, r, withReceipt(claimed, receipt))
	if healed.ID != rec.ID || healed.Sequence != 1 || !healed.Since.Equal(rec.Since) {
		t.Errorf("got %+v, want %+v", healed, rec)
	}
	check := func(r *Registry) {
		t.Helper()
		if err := r.Verify(t.Context(), rec.ID); err != nil {
			t.Error(err)
		}
		if evidence, err := r.Evidence(t.Context(), rec.ID); err != nil || evidence.Receipt == nil {
			t.Errorf("the evidence is %+v, %v", evidence, err)
		}
		if again := register(t, r, withReceipt(native(t, owner), receipt)); again.ID != rec.ID {
			t.Errorf("then it got %v", again.ID)
		}
	}
	check(r)
	closed(t, r)
	check(open1(t, cfg))
}

func TestAnOldBackupIsHealedByTheLatestReceipt(t *testing.T) {
	r := open1(t, config(t, t.TempDir()))
	owner, other := identity(t, 1), identity(t, 2)
	first := register(t, r, native(t, owner))
	var old strings.Builder
	if _, err := r.Backup(t.Context(), &old); err != nil {
		t.Fatal(err)
	}
	second := register(t, r, statement(t, owner, claim.Statement{Action: claim.Reset, ID: first.ID, Sequence: 2}))
	receipt := r.Receipt(second)
	closed(t, r)

	dir := filepath.Join(t.TempDir(), "restored")
	if _, err := Restore(t.Context(), strings.NewReader(old.String()), dir); err != nil {
		t.Fatal(err)
	}
	r = open1(t, config(t, dir))
	if rec := register(t, r, native(t, owner)); rec.ID != first.ID {
		t.Fatalf("the backup gives %v", rec.ID)
	}
	theirs := register(t, r, native(t, other))
	if rec := register(t, r, withReceipt(native(t, owner), receipt)); rec.ID != second.ID || rec.Sequence != 2 {
		t.Errorf("the receipt gives %+v", rec)
	}
	if !r.Retired(first.ID) {
		t.Error("the id that was given up before is not retired")
	}
	if rec := register(t, r, withReceipt(native(t, owner), r.Receipt(first))); rec.ID != second.ID {
		t.Errorf("an old receipt gives %v", rec.ID)
	}
	if rec, _ := r.LookupKey(other.Public()); rec.ID != theirs.ID {
		t.Error("somebody else's id has changed")
	}
}

func TestAResetWithAReceiptHealsFirst(t *testing.T) {
	lost := open1(t, config(t, t.TempDir()))
	owner := identity(t, 1)
	rec := register(t, lost, native(t, owner))
	cfg := config(t, t.TempDir())
	r := open1(t, cfg)
	reset := statement(t, owner, claim.Statement{Action: claim.Reset, ID: rec.ID, Sequence: 2})
	after := register(t, r, withReceipt(reset, lost.Receipt(rec)))
	if after.ID == rec.ID || after.Sequence != 2 || !r.Retired(rec.ID) {
		t.Errorf("got %+v", after)
	}
	closed(t, r)
	r = open1(t, cfg)
	if again := register(t, r, withReceipt(reset, lost.Receipt(rec))); again.ID != after.ID || !r.Retired(rec.ID) {
		t.Errorf("sent again after a restart: %+v", again)
	}
	if err := r.Verify(t.Context(), after.ID); err != nil {
		t.Error(err)
	}
}

// The folder was inside the program's own, readable by everybody, and went with every update.
func TestDefectTheDataFolderIsTheOwnersAlone(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Log("permissions are another system's")
		return
	}
	dir := filepath.Join(t.TempDir(), "data")
	open1(t, config(t, dir))
	info, err := os.Stat(dir)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("got %v, %v", info.Mode(), err)
	}
}

func TestTwoRegistriesCannotShareAFolder(t *testing.T) {
	cfg := config(t, t.TempDir())
	r := open1(t, cfg)
	if _, err := Open(t.Context(), cfg); !errors.Is(err, ErrLocked) {
		t.Errorf("got %v", err)
	}
	closed(t, r)
	open1(t, cfg)
}

func TestCloseIsTheEnd(t *testing.T) {
	r := open1(t, config(t, t.TempDir()))
	rec := register(t, r, native(t, identity(t, 1)))
	bucket, err := r.Bucket(t.Context(), "list")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() { closed(t, r) })
	}
	wg.Wait()
	if _, err := r.Register(t.Context(), native(t, identity(t, 2))); !errors.Is(err, ErrClosed) {
		t.Errorf("Register gives %v", err)
	}
	if _, err := bucket.Put(t.Context(), "k", nil); !errors.Is(err, ErrClosed) {
		t.Errorf("Put gives %v", err)
	}
	if _, err := r.Bucket(t.Context(), "other"); !errors.Is(err, ErrClosed) {
		t.Errorf("Bucket gives %v", err)
	}
	if _, err := r.Backup(t.Context(), new(strings.Builder)); !errors.Is(err, ErrClosed) {
		t.Errorf("Backup gives %v", err)
	}
	if _, ok := r.Lookup(rec.ID); !ok {
		t.Error("look-ups need no disk")
	}
	if s := r.Status(); !errors.Is(s.Err, ErrClosed) {
		t.Errorf("status %+v", s)
	}
}

func TestCloseAnswersWhoWaits(t *testing.T) {
	cfg := config(t, t.TempDir())
	r := open1(t, cfg)
	answers := make([]struct {
		id  secrez.ID
		err error
	}, 300)
	var wg sync.WaitGroup
	for i := range answers {
		reg := native(t, identity(t, uint64(i)))
		wg.Go(func() {
			rec, err := r.Register(t.Context(), reg)
			answers[i].id, answers[i].err = rec.ID, err
		})
	}
	closed(t, r)
	wg.Wait()
	r = open1(t, cfg)
	for i, a := range answers {
		rec, ok := r.LookupKey(identity(t, uint64(i)).Public())
		switch {
		case a.err == nil && (!ok || rec.ID != a.id):
			t.Errorf("%v was acknowledged, there is %v", a.id, rec.ID)
		case a.err != nil && !errors.Is(a.err, ErrClosed):
			t.Error(a.err)
		}
	}
}

func TestCloseLeavesNoGoroutineOfOurs(t *testing.T) {
	r := open1(t, config(t, t.TempDir()))
	fill(t, r, 0, 50)
	closed(t, r)
	var left []string
	for range 60_000 {
		if left = goroutinesOfOurs(); len(left) == 0 {
			return
		}
		time.Sleep(time.Millisecond) // one that has told that it ends takes a moment to be gone
	}
	t.Errorf("still there:\n%s", strings.Join(left, "\n\n"))
}

func goroutinesOfOurs() (stacks []string) {
	buf := make([]byte, 1<<20)
	buf = buf[:runtime.Stack(buf, true)]
	for stack := range strings.SplitSeq(string(buf), "\n\n") {
		if strings.Contains(stack, "hub/registry.(*") {
			stacks = append(stacks, stack)
		}
	}
	return stacks
}

func TestWhoGivesUpIsNotKeptWaiting(t *testing.T) {
	r := open1(t, config(t, t.TempDir()))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Register(ctx, native(t, identity(t, 1))); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if _, err := Open(ctx, config(t, t.TempDir())); !errors.Is(err, context.Canceled) {
		t.Errorf("Open gives %v", err)
	}
}

func TestAllGoesThroughAllOldestFirst(t *testing.T) {
	cfg := config(t, t.TempDir())
	r := open1(t, cfg)
	var want []secrez.ID
	for i := range uint64(20) {
		want = append(want, register(t, r, native(t, identity(t, i))).ID)
	}
	check := func(r *Registry) {
		t.Helper()
		var got []secrez.ID
		for rec := range r.All() {
			got = append(got, rec.ID)
			register(t, r, native(t, rec2identity(t, rec))) // nothing is locked
		}
		if len(got) != len(want) {
			t.Fatalf("%d of %d", len(got), len(want))
		}
		for i := range got {
			if got[i] != want[i] {
				t.Errorf("%d is %v, want %v", i, got[i], want[i])
			}
		}
		for range r.All() {
			break
		}
	}
	check(r)
	closed(t, r)
	check(open1(t, cfg))
}

func rec2identity(tb testing.TB, rec Record) *keys.Identity {
	tb.Helper()
	for i := range uint64(100) {
		if id := identity(tb, i); id.Public().Equal(rec.Key) {
			return id
		}
	}
	tb.Fatal("nobody's")
	return nil
}

// Clocks that step decide nothing: the sequence does.
func TestClockStepsChangeNothing(t *testing.T) {
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	cfg := config(t, t.TempDir())
	cfg.Now = func() time.Time { return now }
	r := open1(t, cfg)
	owner := identity(t, 1)
	first := register(t, r, native(t, owner))
	now = now.AddDate(-40, 0, 0) // back, to before everything
	second := register(t, r, statement(t, owner, claim.Statement{
		Action: claim.Reset, ID: first.ID, Sequence: 2, Time: now.AddDate(-20, 0, 0),
	}))
	now = now.AddDate(9000, 0, 0) // and far ahead
	third := register(t, r, statement(t, owner, claim.Statement{
		Action: claim.Reset, ID: second.ID, Sequence: 3, Time: now.AddDate(-9500, 0, 0),
	}))
	now = now.AddDate(-9010, 0, 0)
	register(t, r, native(t, identity(t, 2)))
	check := func(r *Registry) {
		t.Helper()
		if rec, _ := r.LookupKey(owner.Public()); rec.ID != third.ID || rec.Sequence != 3 {
			t.Errorf("got %+v, want %+v", rec, third)
		}
		if !r.Retired(first.ID) || !r.Retired(second.ID) {
			t.Error("an old id is back")
		}
		if rec := register(t, r, withReceipt(native(t, owner), r.Receipt(second))); rec.ID != third.ID {
			t.Errorf("an old receipt gives %v", rec.ID)
		}
		if err := r.Verify(t.Context(), third.ID); err != nil {
			t.Error(err)
		}
	}
	check(r)
	closed(t, r)
	check(open1(t, cfg))
}

func TestOpenSaysWhatIsMissing(t *testing.T) {
	for name, cfg := range map[string]Config{
		"folder":   {Identity: hubIdentity(t)},
		"identity": {Dir: t.TempDir()},
		"replica":  {Dir: t.TempDir(), Identity: hubIdentity(t), Replicas: 3},
	} {
		if _, err := Open(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// Another node, or a write that was given up as lost, may extend the log behind the writer's back. What it says comes first.
func TestRegistrationsGiveWayToOtherWritersOfTheLog(t *testing.T) {
	cfg := config(t, t.TempDir())
	r := open1(t, cfg)
	n, _ := r.current()
	const owners = 150
	theirs := map[uint64]secrez.ID{}
	other := func(owner uint64) { // another node gives the same key another id
		for {
			last, _ := r.dir.position()
			if r.dir.keyed(identity(t, owner).Public().Array()) != nil {
				return
			}
			d := deed{key: identity(t, owner).Public().Array(), id: secrez.NewID(), sequence: 1}
			d.evidence.Statement = native(t, identity(t, owner)).Statement
			_, err := n.appendLog(t.Context(), appendDeed(newGroup(r.dir.last()), &d), last)
			if err == nil {
				theirs[owner] = d.id
				return
			}
			if !errors.Is(err, errMoved) {
				t.Fatal(err)
			}
		}
	}
	ours := make([]secrez.ID, owners)
	var wg sync.WaitGroup
	for part := range 4 {
		wg.Go(func() {
			for i := part; i < owners; i += 4 {
				rec, err := r.Register(t.Context(), native(t, identity(t, uint64(i))))
				if err != nil {
					t.Error(err)
				}
				ours[i] = rec.ID
			}
		})
	}
	for i := range uint64(owners) {
		other(owners - 1 - i)
	}
	wg.Wait()
	check := func(r *Registry) {
		t.Helper()
		for i, id := range ours {
			if want := theirs[uint64(i)]; !want.IsZero() && want != id {
				t.Errorf("owner %d got %v, and %v from the other", i, id, want)
			}
			if rec, _ := r.LookupKey(identity(t, uint64(i)).Public()); rec.ID != id {
				t.Errorf("owner %d got %v and has %v", i, id, rec.ID)
			}
		}
	}
	check(r)
	if len(theirs) == 0 {
		t.Error("the other never wrote")
	}
	closed(t, r)
	check(open1(t, cfg))
}
