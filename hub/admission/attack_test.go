package admission

import (
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/secrez"
)

// The attacks on the original that admission stands against, each tried here. Its review numbers them; the others of the
// review concern other packages.

// Review 3: whoever scans the ports of couriers connects to them, and gets their traffic. Who may connect to a courier's port
// is for the ports to say; that nobody tries them all is for admission, which is asked at every port.
func TestAttackAScanOfTheCouriersPorts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := open(t, nil)
		scanner := netip.MustParseAddr("198.51.100.66")
		connected := 0
		for range 28_000 { // ports, as fast as it goes
			if a.Connect(scanner) == nil {
				connected++
			}
		}
		if connected > 1000 {
			t.Errorf("%d ports are reached at once", connected)
		}
		held := passes(28_000, func() error { return a.Gate().Enter(scanner) })
		if held > defaultPerAddress {
			t.Errorf("%d sockets are held", held)
		}
		want(t, "everybody else", errors.Join(a.Connect(stranger), a.Gate().Enter(stranger)), nil)
		set(t, a, "deny 198.51.100.0/24")
		want(t, "the scanner, once denied", a.Network(scanner), ErrDenied)
		time.Sleep(time.Minute)
		want(t, "and later", a.Connect(scanner), ErrDenied)
	})
}

// Review 10: every registration is a row for ever, and nothing bounds them. Keys cost nothing.
func TestAttackRegistrationsWithoutEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, w := open(t, nil)
		registered := 0
		register := func(addr netip.Addr, k keys.PublicKey) error {
			if err := a.Allow(Registration, addr); err != nil {
				return err
			}
			return a.Publish(t.Context(), addr, k, secrez.ID{}, "")
		}
		attacker := netip.MustParseAddr("2001:db8:6:6::1")
		for hour := range 24 {
			for n := range 5000 { // as many as he likes, from anywhere in his network
				b := attacker.As16()
				b[15], b[14] = byte(n), byte(n>>8)
				if register(netip.AddrFrom16(b), key(t, uint64(registered+1))) == nil {
					registered++
				}
			}
			time.Sleep(time.Hour)
			if hour == 0 {
				want(t, "somebody else", register(stranger, key(t, 1)), nil)
			}
		}
		if registered > 100*24 {
			t.Errorf("%d rows in a day, with %d tries", registered, 24*5000)
		}
		// One key that resets its id again and again, from everywhere.
		k := key(t, 2)
		w.give(k, mustID(t, "7y-6ro-3z"))
		resets := 0
		for n := range 24 * 60 {
			addr := netip.AddrFrom4([4]byte{100, 0, byte(n >> 8), byte(n)})
			if a.Publish(t.Context(), addr, k, secrez.ID{}, "") == nil && a.AllowKey(NewID, addr, k) == nil {
				resets++
			}
			time.Sleep(time.Minute)
		}
		if resets > 10+24 {
			t.Errorf("%d ids are used up by one key in a day", resets)
		}
		// And what is left to an operator: to ask for invites, or for names.
		want(t, "SetMode", a.SetMode(ModeInvite), nil)
		want(t, "without an invite", register(neighbour, key(t, 3)), ErrInviteNeeded)
		want(t, "who has an id", a.Publish(t.Context(), neighbour, k, secrez.ID{}, ""), nil)
		want(t, "SetMode", a.SetMode(ModeClosed), nil)
		want(t, "without a name", register(neighbour, key(t, 3)), ErrDenied)
	})
}

// Review 10 again: sockets and descriptors run out.
func TestAttackAllSocketsAreTaken(t *testing.T) {
	a, _ := open(t, func(c *Config) { c.Limits.Connections = 5000 })
	attacker := netip.MustParseAddr("198.51.100.66")
	if n := passes(100_000, func() error { return a.Gate().Enter(attacker) }); n != defaultPerAddress {
		t.Errorf("one address takes %d", n)
	}
	want(t, "somebody else", a.Gate().Enter(stranger), nil)
	n := 0
	everywhere := func() error {
		n++
		return a.Gate().Enter(netip.AddrFrom4([4]byte{100, byte(n >> 16), byte(n >> 8), byte(n)}))
	}
	if got := passes(100_000, everywhere); got != 5000-defaultPerAddress-1 {
		t.Errorf("everybody takes %d", got)
	}
	if len(a.Gate().clients) > 5000 {
		t.Errorf("%d clients are remembered", len(a.Gate().clients))
	}
	a.Gate().Leave(stranger)
	want(t, "room again", a.Gate().Enter(neighbour), nil)
}

// Review 11: some eighty wrong signatures a second keep the original busy. Ours is asked before it looks at a signature; and
// a signature costs it a fifteen-thousandth of a second.
func TestAttackWrongSignatures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := open(t, nil)
		verified := 0
		for range 60 { // seconds
			verified += passes(2000, func() error { return a.Allow(Registration, stranger) })
			time.Sleep(time.Second)
		}
		if verified > 200+5*60 {
			t.Errorf("%d signatures are looked at in a minute", verified)
		}
		if n := passes(10, func() error { return a.Allow(Registration, neighbour) }); n != 10 {
			t.Error("the neighbour has to suffer for it")
		}
	})
}

// Review 12: one key has many names. A rule is about the sign half, in whatever way the key is written.
func TestAttackAnotherNameForADeniedKey(t *testing.T) {
	a, _ := open(t, nil)
	id := identity(t, 1)
	account, err := secrez.FromIdentity(id)
	if err != nil {
		t.Fatal(err)
	}
	other, err := secrez.FromIdentity(identity(t, 2))
	if err != nil {
		t.Fatal(err)
	}
	box := other.Public().String()[:44] // anybody's box half
	for _, name := range []string{
		id.Public().Ref(), id.Public().Base64(), account.Public().String(), box + "$" + id.Public().Base64(),
	} {
		set(t, a, "deny "+name)
		want(t, name, a.Visit(stranger, id.Public()), ErrDenied)
		if rules := a.Rules(); len(rules) != 1 || rules[0].Subject != KeySubject(id.Public()) {
			t.Errorf("%s: the rules are %v", name, rules)
		}
		if err := a.RemoveRule(t.Context(), rule(t, "deny "+name).Subject); err != nil {
			t.Error(err)
		}
		want(t, name, a.Visit(stranger, id.Public()), nil)
	}
}

// Review 18: ids have 35 bits, and whether one is taken is told to everybody. With 10,000 couriers, one id in 3.4 million is.
func TestAttackEnumerationOfIDs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := open(t, nil)
		asked := 0
		for range 60 { // minutes, with more questions in each than are answered
			asked += passes(1500, func() error { return a.Allow(Lookup, stranger) })
			time.Sleep(time.Minute)
		}
		if ids := 10_000 * 24 * float64(asked) / (1 << 35); ids > 1 {
			t.Errorf("a day of questions finds %.2f of 10,000 couriers", ids)
		}
		k := key(t, 1)
		if perKey := passes(10_000, func() error { return a.AllowKey(Lookup, neighbour, k) }); perKey > 200 {
			t.Errorf("%d by one key at once", perKey)
		}
	})
}

// Review 22: messages flood what is stored. Size and number in a mailbox are its own to bound; how fast they come is here. A
// sender has as many keys as he likes.
func TestAttackAFloodOfMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := open(t, nil)
		var one, many int
		n, sender := uint64(0), key(t, 1)
		for range 60 { // seconds
			one += passes(2000, func() error { return a.AllowKey(Deposit, stranger, sender) })
			many += passes(2000, func() error { n++; return a.AllowKey(Deposit, neighbour, key(t, n)) })
			time.Sleep(time.Second)
		}
		if one > 200+5*60 {
			t.Errorf("%d messages by one key in a minute", one)
		}
		if many > 500+20*60 {
			t.Errorf("%d messages by many keys from one address in a minute", many)
		}
		set(t, a, "deny "+key(t, 1).Ref())
		want(t, "the sender, once denied", a.Visit(stranger, key(t, 1)), ErrDenied)
	})
}

// Invites are guessed.
func TestAttackGuessedInvites(t *testing.T) {
	a, w := open(t, inviting)
	invite(t, a, Invite{Uses: MaxUses})
	writes := w.invites.written()
	tries, guesser := 0, key(t, 1)
	for range 10_000 {
		err := publish(t, a, guesser, newCode())
		if errors.Is(err, ErrInvite) {
			tries++
		} else if !limited(err) {
			t.Fatalf("got %v", err)
		}
	}
	if tries > 101 || w.invites.written() != writes {
		t.Errorf("%d codes are tried at once, %d writes", tries, w.invites.written()-writes)
	}
}
