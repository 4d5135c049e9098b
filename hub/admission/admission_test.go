package admission

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/secretstack/secretstack/hub/registry"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/secrez"
)

func TestTheMostSpecificNetworkDecides(t *testing.T) {
	a, _ := open(t, nil)
	set(t, a,
		"deny 0.0.0.0/0", "allow 192.0.2.0/24", "deny 192.0.2.128/25", "allow 192.0.2.200", "allow 127.0.0.0/8",
		"deny 2001:db8::/32", "allow 2001:db8:1::/48", "deny 2001:db8:1:2::3")
	for addr, wanted := range map[string]error{
		"8.8.8.8":                 ErrDenied,
		"192.0.2.1":               nil,
		"192.0.2.129":             ErrDenied,
		"192.0.2.200":             nil,
		"127.0.0.1":               nil,
		"::ffff:192.0.2.1":        nil,
		"::ffff:192.0.2.129":      ErrDenied,
		"::ffff:8.8.8.8":          ErrDenied,
		"2001:db8::1":             ErrDenied,
		"2001:db8:1::1":           nil,
		"2001:db8:1:2::3":         ErrDenied,
		"2001:db8:1:2::4":         nil,
		"2001:db9::1":             nil, // no rule
		"2001:db8::1%eth0":        ErrDenied,
		"::1":                     nil,
		"64:ff9b::192.0.2.129":    nil,
		"fe80::1%anything at all": nil,
	} {
		addr := netip.MustParseAddr(addr)
		want(t, "Network "+addr.String(), a.Network(addr), wanted)
		want(t, "Connect "+addr.String(), a.Connect(addr), wanted)
		want(t, "Visit "+addr.String(), a.Visit(addr, key(t, 1)), wanted)
		want(t, "Publish "+addr.String(), a.Publish(t.Context(), addr, key(t, 1), secrez.ID{}, ""), wanted)
	}
	want(t, "no address", a.Connect(netip.Addr{}), nil)
	if err := a.RemoveRule(t.Context(), rule(t, "deny 192.0.2.128/25").Subject); err != nil {
		t.Fatal(err)
	}
	want(t, "after the rule was removed", a.Connect(netip.MustParseAddr("192.0.2.129")), nil)
}

// What each mode lets people do about whom there is no rule, and what a rule makes of it.
func TestModes(t *testing.T) {
	const id = "7y-6ro-3z"
	for _, c := range []struct {
		mode    Mode
		rule    string // KEY stands for the key
		member  bool
		hasID   bool
		visit   error
		publish error
		reach   error
	}{
		{mode: ModeOpen},
		{mode: ModeOpen, rule: "deny KEY", visit: ErrDenied, publish: ErrDenied, reach: ErrDenied},
		{mode: ModeOpen, rule: "deny KEY", member: true, hasID: true, visit: ErrDenied, publish: ErrDenied, reach: ErrDenied},
		{mode: ModeOpen, rule: "deny " + id, hasID: true, visit: ErrDenied, publish: ErrDenied, reach: ErrDenied},
		{mode: ModeOpen, rule: "deny 192.0.2.0/24", visit: ErrDenied, publish: ErrDenied}, // others still reach him
		{mode: ModeInvite, publish: ErrInviteNeeded},
		{mode: ModeInvite, member: true},
		{mode: ModeInvite, hasID: true},
		{mode: ModeInvite, rule: "allow KEY"},
		{mode: ModeInvite, rule: "allow 192.0.2.0/24"},
		{mode: ModeInvite, rule: "allow 198.51.100.0/24", publish: ErrInviteNeeded},
		{mode: ModeInvite, rule: "deny KEY", member: true, visit: ErrDenied, publish: ErrDenied, reach: ErrDenied},
		{mode: ModeInvite, rule: "deny " + id, member: true, hasID: true, visit: ErrDenied, publish: ErrDenied, reach: ErrDenied},
		{mode: ModeClosed, visit: ErrDenied, publish: ErrDenied, reach: ErrDenied},
		{mode: ModeClosed, member: true, hasID: true, visit: ErrDenied, publish: ErrDenied, reach: ErrDenied},
		{mode: ModeClosed, rule: "allow 192.0.2.0/24", visit: ErrDenied, publish: ErrDenied, reach: ErrDenied},
		{mode: ModeClosed, rule: "allow KEY"},
		{mode: ModeClosed, rule: "allow " + id, hasID: true},
		{mode: ModeClosed, rule: "allow uz-3ms-cm", hasID: true, visit: ErrDenied, publish: ErrDenied, reach: ErrDenied},
	} {
		t.Run(fmt.Sprintf("%s/%s/member=%v/id=%v", c.mode, c.rule, c.member, c.hasID), func(t *testing.T) {
			a, w := open(t, func(cfg *Config) { cfg.Mode = ModeInvite })
			k := key(t, 1)
			if c.member {
				code, _ := invite(t, a, Invite{})
				want(t, "redeem", a.Publish(t.Context(), stranger, k, secrez.ID{}, code), nil)
			}
			want(t, "SetMode", a.SetMode(c.mode), nil)
			if c.hasID {
				w.give(k, mustID(t, id))
			}
			if c.rule != "" {
				set(t, a, strings.ReplaceAll(c.rule, "KEY", k.Ref()))
			}
			want(t, "Visit", a.Visit(stranger, k), c.visit)
			want(t, "Publish", a.Publish(t.Context(), stranger, k, secrez.ID{}, ""), c.publish)
			want(t, "Reach", a.Reach(mustID(t, id), k), c.reach)
		})
	}
}

func TestADenialWinsOverAnAllowanceOfTheSameCourier(t *testing.T) {
	k, id := key(t, 1), mustID(t, "7y-6ro-3z")
	for _, rules := range [][]string{
		{"deny " + k.Ref(), "allow 7y-6ro-3z"},
		{"allow " + k.Ref(), "deny 7y-6ro-3z"},
		{"allow " + k.Ref(), "allow 7y-6ro-3z", "deny 192.0.2.0/24"},
	} {
		for _, mode := range []Mode{ModeOpen, ModeInvite, ModeClosed} {
			a, w := open(t, func(c *Config) { c.Mode = mode })
			w.give(k, id)
			set(t, a, rules...)
			want(t, fmt.Sprint(mode, rules), a.Visit(stranger, k), ErrDenied)
			want(t, fmt.Sprint(mode, rules), a.Publish(t.Context(), stranger, k, id, ""), ErrDenied)
		}
	}
}

// Whoever is denied by his id would be rid of that with a reset, if the reset were not refused.
func TestADeniedIDCannotBeGivenUpForAnother(t *testing.T) {
	a, w := open(t, nil)
	k, id := key(t, 1), mustID(t, "7y-6ro-3z")
	w.give(k, id)
	set(t, a, "deny 7y-6ro-3z")
	want(t, "publish for a reset", a.Publish(t.Context(), stranger, k, secrez.ID{}, ""), ErrDenied)
	w.give(k, secrez.ID{}) // the registry has lost him, but he shows a receipt
	want(t, "publish with a receipt", a.Publish(t.Context(), stranger, k, id, ""), ErrDenied)
}

func TestAnIDProvedByAReceiptNeedsNoInvite(t *testing.T) {
	a, _ := open(t, func(c *Config) { c.Mode = ModeInvite })
	want(t, "publish", a.Publish(t.Context(), stranger, key(t, 1), mustID(t, "7y-6ro-3z"), ""), nil)
}

func TestTheZeroKeyIsNobody(t *testing.T) {
	a, _ := open(t, nil)
	want(t, "visit", a.Visit(stranger, keys.PublicKey{}), ErrDenied)
	want(t, "publish", a.Publish(t.Context(), stranger, keys.PublicKey{}, secrez.ID{}, ""), ErrDenied)
	want(t, "reach", a.Reach(mustID(t, "7y-6ro-3z"), keys.PublicKey{}), ErrDenied)
}

func TestARuleReplacesTheOneAboutTheSameSubject(t *testing.T) {
	a, _ := open(t, nil)
	set(t, a, "deny 192.0.2.7 # first", "deny ::ffff:192.0.2.7/128 # second")
	if got := a.Rules(); len(got) != 1 || got[0].Note != "second" {
		t.Errorf("got %v", got)
	}
	set(t, a, "allow 192.0.2.7/32")
	want(t, "connect", a.Connect(stranger), nil)
}

func TestRulesOfTheConfigurationAreNotTheOperatorsToRemove(t *testing.T) {
	k := key(t, 1)
	a, _ := open(t, func(c *Config) {
		c.Fixed = []Rule{rule(t, "deny "+k.Ref()+" # config"), rule(t, "allow 192.0.2.7")}
	})
	set(t, a, "allow "+k.Ref(), "deny 192.0.2.7", "deny 192.0.2.8")
	want(t, "the key", a.Visit(neighbour, k), ErrDenied)
	want(t, "the network", a.Network(stranger), ErrDenied) // the denial wins, wherever it comes from
	var got []string
	for _, r := range a.Rules() {
		got = append(got, fmt.Sprint(r.Fixed, " ", r))
	}
	wanted := []string{
		"true deny " + k.Ref() + " # config", "true allow 192.0.2.7",
		"false deny 192.0.2.7", "false deny 192.0.2.8", "false allow " + k.Ref(),
	}
	if !slices.Equal(got, wanted) {
		t.Errorf("got %q", got)
	}

	want(t, "reload", a.SetFixed([]Rule{rule(t, "allow 192.0.2.9")}), nil)
	if err := errors.Join(a.RemoveRule(t.Context(), rule(t, "deny 192.0.2.7").Subject),
		a.RemoveRule(t.Context(), rule(t, "deny 192.0.2.8").Subject)); err != nil {
		t.Error(err)
	}
	want(t, "the key", a.Visit(neighbour, k), nil)
	want(t, "the network", a.Network(stranger), nil)
	want(t, "removing a fixed rule", a.RemoveRule(t.Context(), rule(t, "allow 192.0.2.9").Subject), ErrNotFound)
	twice := []Rule{rule(t, "deny 192.0.2.8"), rule(t, "allow ::ffff:192.0.2.8")}
	want(t, "two rules about one subject", a.SetFixed(twice), ErrRule)
	want(t, "a rule about nobody", a.SetFixed([]Rule{{Effect: Deny}}), ErrRule)
	want(t, "nothing has changed", a.Network(neighbour), nil)
	if got := a.Rules(); len(got) != 2 {
		t.Errorf("got %v", got)
	}
}

func TestConfigurationsThatMakeNoSenseAreRefused(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"mode":          func(c *Config) { c.Mode = "opne" },
		"rate":          func(c *Config) { c.Limits.Key.Lookup = Rate{Every: time.Hour, Burst: 1e9} },
		"exempt":        func(c *Config) { c.Limits.Exempt = []netip.Prefix{netip.MustParsePrefix("10.1.2.3/8")} },
		"no network":    func(c *Config) { c.Limits.Exempt = []netip.Prefix{{}} },
		"rule":          func(c *Config) { c.Fixed = []Rule{{Effect: "forbid", Subject: rule(t, "deny 192.0.2.1").Subject}} },
		"repeated rule": func(c *Config) { c.Fixed = []Rule{rule(t, "deny 192.0.2.1"), rule(t, "deny 192.0.2.1")} },
	} {
		cfg := newWorld().config()
		change(&cfg)
		_, err := Open(t.Context(), cfg)
		want(t, name, err, ErrRule)
	}
	for _, forget := range []func(*Config){
		func(c *Config) { c.Rules = nil }, func(c *Config) { c.Invites = nil }, func(c *Config) { c.IDOf = nil },
	} {
		cfg := newWorld().config()
		forget(&cfg)
		if _, err := Open(t.Context(), cfg); err == nil {
			t.Error("it opens with something missing")
		}
	}
	a, _ := open(t, nil)
	want(t, "SetMode", a.SetMode("close"), ErrRule)
	want(t, "SetLimits", a.SetLimits(Limits{Address: Rates{Request: Rate{Burst: 5}}}), ErrRule)
	for _, r := range []Rule{
		{}, {Effect: Deny}, {Effect: "", Subject: IDSubject(mustID(t, "7y-6ro-3z"))},
		{Effect: Deny, Subject: IDSubject(mustID(t, "7y-6ro-3z")), Note: "two\nlines"},
		{Effect: Deny, Subject: IDSubject(mustID(t, "7y-6ro-3z")), Note: strings.Repeat("x", MaxNote+1)},
		{Effect: Deny, Subject: IDSubject(mustID(t, "7y-6ro-3z")), Expires: time.Now().Add(-time.Hour)},
		{Effect: Deny, Subject: IDSubject(mustID(t, "7y-6ro-3z")), Expires: time.Date(12000, 1, 1, 0, 0, 0, 0, time.UTC)},
	} {
		want(t, fmt.Sprintf("SetRule %+v", r), a.SetRule(t.Context(), r), ErrRule)
	}
	if a.Mode() != ModeOpen || len(a.Rules()) != 0 {
		t.Error("something has changed")
	}
}

func TestModesAsText(t *testing.T) {
	for s, wanted := range map[string]Mode{"": ModeOpen, "open": ModeOpen, "invite": ModeInvite, "closed": ModeClosed} {
		var m Mode
		if err := m.UnmarshalText([]byte(s)); err != nil || m != wanted {
			t.Errorf("%q is %q, %v", s, m, err)
		}
	}
	m := ModeClosed
	want(t, "another text", m.UnmarshalText([]byte("Open")), ErrRule)
	if m != ModeClosed {
		t.Errorf("it is %q then", m)
	}
}

func TestTheListsAreBounded(t *testing.T) {
	a, _ := open(t, func(c *Config) { c.MaxRules, c.MaxInvites = 2, 1 })
	set(t, a, "deny 192.0.2.1", "deny 192.0.2.2")
	want(t, "a third rule", a.SetRule(t.Context(), rule(t, "deny 192.0.2.3")), ErrListFull)
	set(t, a, "allow 192.0.2.2")
	invite(t, a, Invite{})
	_, _, err := a.CreateInvite(t.Context(), Invite{})
	want(t, "a second invite", err, ErrListFull)
}

// hears opens an Admission that tells a channel of each change.
func hears(t *testing.T) (*Admission, *atomic.Int64) {
	t.Helper()
	var heard atomic.Int64
	a, _ := open(t, func(c *Config) { c.OnChange = func() { heard.Add(1) } })
	return a, &heard
}

func TestChangesHoldAtOnceAndTheHubHearsOfThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, heard := hears(t)
		synctest.Wait()
		if n := heard.Load(); n != 0 {
			t.Errorf("it is told of the beginning %d times", n)
		}
		told := func(what string) {
			t.Helper()
			synctest.Wait()
			if heard.Swap(0) == 0 {
				t.Errorf("%s: the hub is not told", what)
			}
		}
		k := key(t, 1)
		set(t, a, "deny "+k.Ref())
		want(t, "a rule", a.Visit(stranger, k), ErrDenied)
		told("a rule")
		if err := a.RemoveRule(t.Context(), KeySubject(k)); err != nil {
			t.Fatal(err)
		}
		want(t, "no rule", a.Visit(stranger, k), nil)
		told("no rule")
		want(t, "SetMode", a.SetMode(ModeClosed), nil)
		want(t, "the mode", a.Visit(stranger, k), ErrDenied)
		told("the mode")
		want(t, "SetFixed", a.SetFixed([]Rule{rule(t, "allow "+k.Ref())}), nil)
		want(t, "the configuration", a.Visit(stranger, k), nil)
		told("the configuration")
		want(t, "the same mode", a.SetMode(ModeClosed), nil)
		synctest.Wait()
		if heard.Load() != 0 {
			t.Error("it is told of nothing")
		}
	})
}

// A live connection stays as long as the three questions say so. This is what a hub does with them.
func TestAHubThatAsksAgainClosesWhoIsNotWelcomeAnyMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type connection struct {
			addr netip.Addr
			key  keys.PublicKey
			id   secrez.ID
		}
		var mu sync.Mutex
		live := map[string]connection{
			"by key":     {stranger, key(t, 1), mustID(t, "7y-6ro-3a")},
			"by id":      {stranger, key(t, 2), mustID(t, "7y-6ro-3z")},
			"by network": {netip.MustParseAddr("198.51.100.1"), key(t, 3), mustID(t, "7y-6ro-3b")},
			"welcome":    {stranger, key(t, 4), mustID(t, "7y-6ro-3c")},
		}
		var a *Admission
		recheck := func() {
			mu.Lock()
			defer mu.Unlock()
			for name, c := range live {
				if a.Network(c.addr) != nil || a.Visit(c.addr, c.key) != nil || a.Reach(c.id, c.key) != nil {
					delete(live, name)
				}
			}
		}
		a, _ = open(t, func(c *Config) { c.OnChange = recheck })
		there := func() (names []string) {
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			for name := range live {
				names = append(names, name)
			}
			slices.Sort(names)
			return names
		}
		for _, step := range []struct{ rule, left string }{
			{"deny " + key(t, 9).Ref(), "[by id by key by network welcome]"},
			{"deny " + key(t, 1).Ref(), "[by id by network welcome]"},
			{"deny 7y-6ro-3z", "[by network welcome]"},
			{"deny 198.51.100.0/24", "[welcome]"},
		} {
			set(t, a, step.rule)
			if got := fmt.Sprint(there()); got != step.left {
				t.Errorf("after %q: %v", step.rule, got)
			}
		}
	})
}

func TestTheHubIsNeverToldTwiceAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var running, most, calls atomic.Int64
		release := make(chan struct{})
		a, _ := open(t, func(c *Config) {
			c.OnChange = func() {
				most.Store(max(most.Load(), running.Add(1)))
				calls.Add(1)
				<-release
				running.Add(-1)
			}
		})
		set(t, a, "deny 198.51.100.1")
		synctest.Wait()     // the hub is hearing of it
		for n := range 20 { // none of them waits for that
			set(t, a, fmt.Sprintf("deny 192.0.2.%d", n))
		}
		synctest.Wait()
		if calls.Load() != 1 {
			t.Errorf("%d calls", calls.Load())
		}
		close(release)
		synctest.Wait()
		if calls.Load() != 2 || most.Load() != 1 {
			t.Errorf("%d calls, %d at a time", calls.Load(), most.Load())
		}
	})
}

func TestOnChangeMayChangeThings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a *Admission
		failed := make(chan error, 1)
		var once sync.Once
		a, _ = open(t, func(c *Config) {
			c.OnChange = func() {
				once.Do(func() { failed <- a.SetRule(context.Background(), rule(t, "deny 192.0.2.9")) })
			}
		})
		set(t, a, "deny 192.0.2.7")
		if err := <-failed; err != nil {
			t.Error(err)
		}
	})
}

func TestRulesExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		heard := make(chan time.Time, 100)
		a, w := open(t, func(c *Config) {
			c.Mode = ModeClosed
			c.OnChange = func() { heard <- time.Now() }
		})
		drain := func() (times []time.Time) {
			synctest.Wait()
			for len(heard) > 0 {
				times = append(times, <-heard)
			}
			return times
		}
		start := time.Now()
		k := key(t, 1)
		for subject, after := range map[string]time.Duration{k.Ref(): time.Hour, "192.0.2.8": 2 * time.Hour} {
			r := rule(t, "allow "+subject)
			if strings.HasPrefix(subject, "192") {
				r.Effect = Deny
			}
			r.Expires = start.Add(after)
			if err := a.SetRule(t.Context(), r); err != nil {
				t.Fatal(err)
			}
		}
		set(t, a, "deny 192.0.2.9")
		drain()
		want(t, "the key", a.Visit(stranger, k), nil)
		want(t, "the network", a.Network(neighbour), ErrDenied)
		time.Sleep(time.Hour - time.Nanosecond)
		if times := drain(); len(times) != 0 {
			t.Errorf("the hub is told at %v", times)
		}
		want(t, "the key", a.Visit(stranger, k), nil)
		time.Sleep(time.Nanosecond)
		want(t, "the key, an hour later", a.Visit(stranger, k), ErrDenied)
		if times := drain(); len(times) != 1 || times[0].Sub(start) != time.Hour {
			t.Errorf("the hub is told at %v", times)
		}
		time.Sleep(time.Hour)
		want(t, "the network, two hours later", a.Network(neighbour), nil)
		if times := drain(); len(times) != 1 || times[0].Sub(start) != 2*time.Hour {
			t.Errorf("the hub is told at %v", times)
		}
		if n := len(a.Rules()); n != 3 {
			t.Errorf("%d rules are shown", n)
		}
		time.Sleep(expiredKept)
		synctest.Wait()
		if n := w.rules.size(); n != 1 || len(a.Rules()) != 1 {
			t.Errorf("%d rules are left", n)
		}
		want(t, "a rule that does not expire", a.Network(netip.MustParseAddr("192.0.2.9")), ErrDenied)
	})
}

func TestFixedRulesExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, heard := hears(t)
		r := rule(t, "deny 192.0.2.7")
		r.Expires = time.Now().Add(time.Hour)
		want(t, "SetFixed", a.SetFixed([]Rule{r}), nil)
		synctest.Wait()
		heard.Store(0)
		want(t, "before", a.Network(stranger), ErrDenied)
		time.Sleep(time.Hour)
		synctest.Wait()
		want(t, "after", a.Network(stranger), nil)
		if heard.Load() != 1 {
			t.Errorf("the hub is told %d times", heard.Load())
		}
	})
}

// An expiry that is put off while the removal is under way must not be lost.
func TestARenewedRuleIsNotSwept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, w := open(t, nil)
		r := rule(t, "deny 192.0.2.7")
		r.Expires = time.Now().Add(time.Hour)
		want(t, "SetRule", a.SetRule(t.Context(), r), nil)
		time.Sleep(2 * time.Hour)
		want(t, "expired", a.Network(stranger), nil)
		w.rules.beforeNextWrite(func() { // the sweep's: another node renews the rule
			r := r
			r.Expires = time.Now().Add(100 * time.Hour)
			value, err := encodeRule(r)
			if err != nil {
				t.Error(err)
			}
			if _, err := w.rules.Put(t.Context(), r.Subject.String(), value); err != nil {
				t.Error(err)
			}
		})
		time.Sleep(expiredKept)
		synctest.Wait()
		want(t, "renewed", a.Network(stranger), ErrDenied)
		time.Sleep(200 * time.Hour)
		synctest.Wait()
		if n := w.rules.size(); n != 0 {
			t.Errorf("%d rules are left", n)
		}
	})
}

func TestASweepThatFailsIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, w := open(t, nil)
		r := rule(t, "deny 192.0.2.7")
		r.Expires = time.Now().Add(time.Hour)
		want(t, "SetRule", a.SetRule(t.Context(), r), nil)
		w.rules.setFail(registry.ErrUnavailable)
		time.Sleep(time.Hour + expiredKept)
		synctest.Wait()
		w.rules.setFail(nil)
		time.Sleep(sweepPause)
		synctest.Wait()
		if n := w.rules.size(); n != 0 {
			t.Errorf("%d rules are left", n)
		}
	})
}

// A clock that is set wrong for a while is a clock that people see go wrong. Nothing may be lost by it.
func TestAClockThatIsSetForwardAndBackLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var shift atomic.Int64
		a, w := open(t, func(c *Config) { c.Now = func() time.Time { return time.Now().Add(time.Duration(shift.Load())) } })
		r := rule(t, "deny 192.0.2.7")
		r.Expires = time.Now().Add(10 * time.Hour)
		want(t, "SetRule", a.SetRule(t.Context(), r), nil)
		shift.Store(int64(20 * time.Hour))
		want(t, "set forward", a.Network(stranger), nil)
		time.Sleep(2 * sweepPause)
		shift.Store(0)
		time.Sleep(2 * sweepPause)
		want(t, "and back", a.Network(stranger), ErrDenied)
		shift.Store(int64(10 * time.Hour)) // and forward, after the timer has been set for ten hours
		time.Sleep(2 * sweepPause)
		want(t, "and forward", a.Network(stranger), nil)
		if n := w.rules.size(); n != 1 {
			t.Error("the rule is lost")
		}
	})
}

func TestTheLogTellsOfChangesAndNoSecrets(t *testing.T) {
	a, w := open(t, func(c *Config) { c.Mode = ModeInvite })
	set(t, a, "deny 192.0.2.9 # because of it")
	code, i := invite(t, a, Invite{Note: "for Bob"})
	want(t, "publish", a.Publish(t.Context(), stranger, key(t, 1), secrez.ID{}, code), nil)
	want(t, "publish", a.Publish(t.Context(), stranger, key(t, 2), secrez.ID{}, code), ErrInvite)
	log := w.log.String()
	for _, part := range []string{"192.0.2.9", i.ID, key(t, 1).Short()} {
		if !strings.Contains(log, part) {
			t.Errorf("the log does not name %s", part)
		}
	}
	w.invites.mu.Lock()
	defer w.invites.mu.Unlock()
	stored, err := json.Marshal(w.invites.log)
	if err != nil {
		t.Fatal(err)
	}
	for _, where := range []string{log, string(stored), fmt.Sprint(a.Invites())} {
		if strings.Contains(where, code) || strings.Contains(where, strings.ReplaceAll(code, "-", "")) {
			t.Error("the code of an invite can be read")
		}
	}
}

func TestStatsCountWhatWasDecided(t *testing.T) {
	a, _ := open(t, func(c *Config) {
		c.Mode = ModeInvite
		c.Limits.Address.Lookup = Rate{time.Hour, 1}
		c.Limits.ConnectionsPerAddress = 1
		c.Fixed = []Rule{rule(t, "allow 192.0.2.1")}
	})
	set(t, a, "deny 192.0.2.8")
	code, _ := invite(t, a, Invite{})
	ctx := t.Context()
	_ = a.Connect(neighbour)
	_ = a.Visit(neighbour, key(t, 1))
	_ = a.Publish(ctx, stranger, key(t, 1), secrez.ID{}, "")
	_ = a.Publish(ctx, stranger, key(t, 1), secrez.ID{}, code)
	_ = a.Publish(ctx, stranger, key(t, 2), secrez.ID{}, code)
	_ = a.Allow(Lookup, stranger)
	_ = a.Allow(Lookup, stranger)
	_ = a.Gate().Enter(stranger)
	_ = a.Gate().Enter(stranger)
	got := a.Stats()
	if got.Limited[Lookup] != 1 || got.Limited[Request] != 0 || len(got.Limited) != len(Kinds()) {
		t.Errorf("limited: %v", got.Limited)
	}
	got.Limited = nil
	wanted := Stats{Denied: 2, Uninvited: 2, Redeemed: 1, Crowded: 1, Connections: 1, Rules: 2, Invites: 1, Members: 1}
	if fmt.Sprint(got) != fmt.Sprint(wanted) {
		t.Errorf("got %+v", got)
	}
}
