package admission

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/secretstack/secretstack/hub/registry"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/secrez"
)

func inviting(c *Config) { c.Mode = ModeInvite }

// publish asks for a key without an id.
func publish(tb testing.TB, a *Admission, k keys.PublicKey, code string) error {
	tb.Helper()
	return a.Publish(tb.Context(), stranger, k, secrez.ID{}, code)
}

func TestAnInviteIsRedeemedOnceByAKeyWhichThenStays(t *testing.T) {
	a, w := open(t, inviting)
	code, i := invite(t, a, Invite{Uses: 2, Note: " friends "})
	if i.Uses != 2 || i.Note != "friends" || i.Left(time.Now()) != 2 || len(i.Members) != 0 {
		t.Errorf("it is %+v", i)
	}
	want(t, "without it", publish(t, a, key(t, 1), ""), ErrInviteNeeded)
	want(t, "with it", publish(t, a, key(t, 1), strings.ToUpper(code)), nil)
	writes := w.invites.written()
	want(t, "without it, later", publish(t, a, key(t, 1), ""), nil)
	want(t, "with it again", publish(t, a, key(t, 1), code), nil)
	want(t, "with anything", publish(t, a, key(t, 1), "nonsense"), nil)
	if w.invites.written() != writes {
		t.Error("a member takes a use of the invite")
	}
	want(t, "another key", publish(t, a, key(t, 2), strings.ReplaceAll(code, "-", " ")), nil)
	want(t, "a third key", publish(t, a, key(t, 3), code), ErrInvite)
	if !a.Member(key(t, 2)) || a.Member(key(t, 3)) {
		t.Error("the members are not those who redeemed")
	}
	got := a.Invites()
	if len(got) != 1 || got[0].Left(time.Now()) != 0 || len(got[0].Members) != 2 || !got[0].Members[0].Key.Equal(key(t, 1)) ||
		time.Since(got[0].Members[1].Since) > time.Minute {
		t.Errorf("the list has %+v", got)
	}
}

func TestAnInviteThatIsNotNeededIsNotUsed(t *testing.T) {
	a, w := open(t, inviting)
	code, _ := invite(t, a, Invite{})
	w.give(key(t, 1), mustID(t, "7y-6ro-3z"))
	set(t, a, "allow "+key(t, 2).Ref(), "deny "+key(t, 3).Ref())
	want(t, "who has an id", publish(t, a, key(t, 1), code), nil)
	want(t, "who is allowed", publish(t, a, key(t, 2), code), nil)
	want(t, "who is denied", publish(t, a, key(t, 3), code), ErrDenied)
	want(t, "open", errors.Join(a.SetMode(ModeOpen), publish(t, a, key(t, 4), code)), nil)
	want(t, "closed", errors.Join(a.SetMode(ModeClosed), publish(t, a, key(t, 5), code)), ErrDenied)
	want(t, "invite", errors.Join(a.SetMode(ModeInvite), publish(t, a, key(t, 6), code)), nil)
}

func TestInvitesThatDoNotWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := open(t, inviting)
		until := time.Now().Add(time.Hour)
		expiring, _ := invite(t, a, Invite{Uses: 9, Expires: until})
		revoked, ri := invite(t, a, Invite{Uses: 9})
		usedUp, _ := invite(t, a, Invite{})
		unredeemed, ui := invite(t, a, Invite{})
		want(t, "in time", publish(t, a, key(t, 1), expiring), nil)
		want(t, "before the revocation", publish(t, a, key(t, 2), revoked), nil)
		want(t, "the last use", publish(t, a, key(t, 3), usedUp), nil)
		want(t, "revoke", a.RevokeInvite(t.Context(), ri.ID), nil)
		want(t, "revoke again", a.RevokeInvite(t.Context(), ri.ID), nil)
		want(t, "revoke what nobody redeemed", a.RevokeInvite(t.Context(), ui.ID), nil)
		want(t, "revoke what is not there", a.RevokeInvite(t.Context(), ui.ID), ErrNotFound)
		time.Sleep(time.Hour)
		for name, code := range map[string]string{
			"expired": expiring, "revoked": revoked, "used up": usedUp, "removed": unredeemed,
			"unknown": newCode(), "too short": expiring[:len(expiring)-1], "no code": "hello", "long": strings.Repeat("y", 1<<20),
		} {
			want(t, name, publish(t, a, key(t, 9), code), ErrInvite)
		}
		for n := range uint64(3) {
			want(t, "a member", publish(t, a, key(t, n+1), ""), nil)
		}
		if got := a.Invites(); len(got) != 3 || !slices.ContainsFunc(got, func(i Invite) bool { return i.ID == ri.ID && i.Revoked }) {
			t.Errorf("the list has %+v", got)
		}
	})
}

func TestAnExpiredInviteIsRemovedUnlessItHasMembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := open(t, inviting)
		until := time.Now().Add(time.Hour)
		code, _ := invite(t, a, Invite{Uses: 5, Expires: until, Note: "redeemed"})
		invite(t, a, Invite{Uses: 5, Expires: until})
		want(t, "redeem", publish(t, a, key(t, 1), code), nil)
		time.Sleep(time.Hour + expiredKept - time.Second)
		if n := len(a.Invites()); n != 2 {
			t.Errorf("%d invites are shown", n)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if got := a.Invites(); len(got) != 1 || got[0].Note != "redeemed" {
			t.Errorf("the list has %+v", got)
		}
		want(t, "the member", publish(t, a, key(t, 1), ""), nil)
	})
}

func TestTermsOfAnInvite(t *testing.T) {
	a, _ := open(t, nil)
	for name, terms := range map[string]Invite{
		"no uses":     {Uses: -1},
		"many uses":   {Uses: MaxUses + 1},
		"over":        {Expires: time.Now().Add(-time.Second)},
		"two lines":   {Note: "two\nlines"},
		"a long note": {Note: strings.Repeat("ä", MaxNote)},
	} {
		_, _, err := a.CreateInvite(t.Context(), terms)
		want(t, name, err, ErrRule)
	}
	_, i := invite(t, a, Invite{ID: "mine", Members: []Member{{Key: key(t, 1)}}, Revoked: true})
	if i.ID == "mine" || i.Uses != 1 || i.Left(time.Now()) != 1 || a.Member(key(t, 1)) {
		t.Errorf("it is %+v", i)
	}
}

func TestCodesAreRandom(t *testing.T) {
	seen := map[string]bool{}
	letters := map[byte]int{}
	for range 1000 {
		code := newCode()
		parsed, err := ParseCode(code)
		if err != nil || parsed != code || seen[code] {
			t.Fatalf("%s: %v", code, err)
		}
		seen[code] = true
		for i := range len(code) {
			letters[code[i]]++
		}
	}
	if len(letters) != 33 { // 32 and the dash
		t.Errorf("%d letters are used", len(letters))
	}
}

// Two codes may have the same short name. That is found out when the second is written.
func TestTheNameOfAnInviteIsNotItsCode(t *testing.T) {
	a, w := open(t, inviting)
	code, i := invite(t, a, Invite{})
	held := *a.invite(i.ID)
	held.hash[len(held.hash)-1]++ // as if somebody had found a code with the same name
	value, err := held.encode()
	if err != nil {
		t.Fatal(err)
	}
	revision, err := w.invites.Put(t.Context(), i.ID, value)
	if err != nil {
		t.Fatal(err)
	}
	want(t, "settle", a.settle(t.Context(), func() bool { return a.inviteFeed.seen >= revision }), nil)
	want(t, "redeem", publish(t, a, key(t, 1), code), ErrInvite)
}

// nodes opens several Admissions on the same buckets, as the nodes of a cluster do.
func nodes(tb testing.TB, n int, w *world) (all []*Admission) {
	tb.Helper()
	for range n {
		cfg := w.config()
		cfg.Mode = ModeInvite
		cfg.Limits.Address.NewID = Rate{Every: -1}
		all = append(all, openAt(tb, cfg))
	}
	return all
}

func TestNodesAgree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		n := nodes(t, 2, w)
		set(t, n[0], "deny "+key(t, 1).Ref())
		code, i := invite(t, n[0], Invite{Uses: 3})
		synctest.Wait()
		want(t, "the rule", n[1].Visit(stranger, key(t, 1)), ErrDenied)
		want(t, "the invite", publish(t, n[1], key(t, 2), code), nil)
		synctest.Wait()
		want(t, "the member", publish(t, n[0], key(t, 2), ""), nil)
		want(t, "revoke", n[1].RevokeInvite(t.Context(), i.ID), nil)
		want(t, "revoked", publish(t, n[0], key(t, 3), code), ErrInvite) // heard of or not
		if err := n[0].RemoveRule(t.Context(), KeySubject(key(t, 1))); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		want(t, "no rule", n[1].Visit(stranger, key(t, 1)), nil)
	})
}

// What happens on another node between the look at an invite and the write.
func TestARaceBetweenNodesHasOneWinner(t *testing.T) {
	redeems := func(n uint64) func(*testing.T, *Admission, string, string) error {
		return func(t *testing.T, other *Admission, code, _ string) error { return publish(t, other, key(t, n), code) }
	}
	for name, c := range map[string]struct {
		uses  int
		other func(t *testing.T, other *Admission, code, id string) error
		err   error
		used  int
	}{
		"the last use is taken": {1, redeems(2), ErrInvite, 1},
		"one of two is taken":   {2, redeems(2), nil, 2},
		"the same key redeems":  {2, redeems(1), nil, 1},
		"it is revoked and was never redeemed": {2, func(t *testing.T, o *Admission, _, id string) error {
			return o.RevokeInvite(t.Context(), id)
		}, ErrInvite, 0},
		"it is redeemed and revoked": {3, func(t *testing.T, o *Admission, code, id string) error {
			return errors.Join(publish(t, o, key(t, 2), code), o.RevokeInvite(t.Context(), id))
		}, ErrInvite, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld()
				n := nodes(t, 2, w)
				code, i := invite(t, n[0], Invite{Uses: c.uses})
				synctest.Wait() // the other node hears of it
				w.invites.beforeNextWrite(func() { want(t, "the other node", c.other(t, n[1], code, i.ID), nil) })
				want(t, "this node", publish(t, n[0], key(t, 1), code), c.err)
				synctest.Wait()
				for _, a := range n {
					if members := a.Stats().Members; members != c.used {
						t.Errorf("%d members", members)
					}
				}
			})
		})
	}
}

func TestARevocationGetsOverRacesWithRedemptions(t *testing.T) {
	w := newWorld()
	n := nodes(t, 2, w)
	code, i := invite(t, n[0], Invite{Uses: 5})
	want(t, "the other node hears of it", n[1].settle(t.Context(), func() bool { return n[1].invites[i.ID] != nil }), nil)
	w.invites.beforeNextWrite(func() { want(t, "redeem", publish(t, n[1], key(t, 1), code), nil) })
	want(t, "revoke", n[0].RevokeInvite(t.Context(), i.ID), nil)
	want(t, "redeem", publish(t, n[1], key(t, 2), code), ErrInvite)
	want(t, "the member", publish(t, n[0], key(t, 1), ""), nil) // known here, because what came after is

	code, i = invite(t, n[0], Invite{Uses: 5})
	w.invites.beforeNextWrite(func() { want(t, "the other node's", w.invites.Delete(t.Context(), i.ID), nil) })
	want(t, "revoke what another node removes", n[0].RevokeInvite(t.Context(), i.ID), nil)
	want(t, "redeem", publish(t, n[0], key(t, 2), code), ErrInvite)
}

func TestConcurrentRedemptionsNeverUseAnInviteOnceTooOften(t *testing.T) {
	const uses, rivals, connections = 5, 40, 3
	w := newWorld()
	n := nodes(t, 2, w)
	code, _ := invite(t, n[0], Invite{Uses: uses})
	want(t, "the other node hears of it", n[1].settle(t.Context(), func() bool { return len(n[1].invites) == 1 }), nil)
	checkRedemptions(t, n, code, uses, rivals, connections)
	// The same on the real engine is in TestRedemptionsOnTheEngine.
}

// checkRedemptions lets rivals redeem one invite, each through several connections to several nodes at once.
func checkRedemptions(t *testing.T, n []*Admission, code string, uses, rivals, connections int) {
	t.Helper()
	var mu sync.Mutex
	in := map[string]int{}
	var wg sync.WaitGroup
	for rival := range rivals {
		for c := range connections {
			wg.Go(func() {
				k := key(t, uint64(rival))
				err := publish(t, n[(rival+c)%len(n)], k, code)
				if err != nil {
					want(t, "redeem", err, ErrInvite)
					return
				}
				mu.Lock()
				defer mu.Unlock()
				in[k.Ref()]++
			})
		}
	}
	wg.Wait()
	if len(in) != uses {
		t.Errorf("%d keys came in by an invite for %d", len(in), uses)
	}
	for _, a := range n {
		err := a.settle(t.Context(), func() bool { return len(a.members) == uses })
		want(t, "every node hears of the members", err, nil)
		for _, i := range a.Invites() {
			if len(i.Members) > i.Uses {
				t.Errorf("%d of %d uses", len(i.Members), i.Uses)
			}
			for _, m := range i.Members {
				if in[m.Key.Ref()] == 0 {
					t.Errorf("%s is a member and was told otherwise", m.Key)
				}
			}
		}
	}
}

func TestAnOutageLosesNoUseOfAnInvite(t *testing.T) {
	a, w := open(t, inviting)
	first, _ := invite(t, a, Invite{})
	want(t, "redeem", publish(t, a, key(t, 1), first), nil)
	code, i := invite(t, a, Invite{Uses: 2})
	set(t, a, "deny "+key(t, 5).Ref())
	w.rules.setFail(fmt.Errorf("%w: /srv/hub: no space left on device", registry.ErrUnavailable))
	w.invites.setFail(registry.ErrUnavailable)
	ctx := t.Context()
	for what, err := range map[string]error{
		"redeem":  publish(t, a, key(t, 2), code),
		"rule":    a.SetRule(ctx, rule(t, "deny 192.0.2.9")),
		"no rule": a.RemoveRule(ctx, KeySubject(key(t, 5))),
		"revoke":  a.RevokeInvite(ctx, i.ID),
		"invite":  func() error { _, _, err := a.CreateInvite(ctx, Invite{}); return err }(),
	} {
		want(t, what, err, ErrUnavailable)
	}
	want(t, "the rules", a.Visit(stranger, key(t, 5)), ErrDenied)
	want(t, "the rule that was not written", a.Network(netip.MustParseAddr("192.0.2.9")), nil)
	want(t, "the members", publish(t, a, key(t, 1), ""), nil)
	want(t, "without an invite", publish(t, a, key(t, 2), ""), ErrInviteNeeded)
	want(t, "with a wrong one", publish(t, a, key(t, 2), newCode()), ErrInvite)
	w.rules.setFail(nil)
	w.invites.setFail(nil)
	want(t, "redeem, later", publish(t, a, key(t, 2), code), nil)
	if left := a.Invites()[1].Left(time.Now()) + a.Invites()[0].Left(time.Now()); left != 1 {
		t.Errorf("%d uses are left", left)
	}
}

// An engine may fail after it has written and before it says so.
func TestAnAnswerThatIsLostCostsNoSecondUse(t *testing.T) {
	a, w := open(t, inviting)
	code, i := invite(t, a, Invite{Uses: 2})
	w.invites.loseAnswer(registry.ErrUnavailable)
	want(t, "redeem", publish(t, a, key(t, 1), code), ErrUnavailable)
	want(t, "redeem again", publish(t, a, key(t, 1), code), nil)
	want(t, "another", publish(t, a, key(t, 2), code), nil)
	if got := a.invite(i.ID); len(got.Members) != 2 {
		t.Errorf("the members are %v", got.Members)
	}
}

func TestWaitingForTheDiskEndsWithTheContext(t *testing.T) {
	a, _ := open(t, inviting)
	code, i := invite(t, a, Invite{})
	release, err := a.myTurn(t.Context()) // somebody's write hangs
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("gone"))
	if err := a.Publish(ctx, stranger, key(t, 1), secrez.ID{}, code); err == nil || !strings.Contains(err.Error(), "gone") {
		t.Errorf("got %v", err)
	}
	if err := a.RevokeInvite(ctx, i.ID); err == nil || !strings.Contains(err.Error(), "gone") {
		t.Errorf("got %v", err)
	}
	want(t, "a wrong code waits for nobody", a.Publish(t.Context(), stranger, key(t, 1), secrez.ID{}, newCode()), ErrInvite)
}
