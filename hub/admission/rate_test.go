package admission

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/secretstack/secretstack/secrez"
)

// passes counts how many of so many questions in a row pass.
func passes(n int, question func() error) (passed int) {
	for range n {
		if question() == nil {
			passed++
		}
	}
	return passed
}

func TestRatesAreTokenBuckets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := open(t, func(c *Config) { c.Limits.Address.Lookup = Rate{time.Second / 2, 10} })
		ask := func() error { return a.Allow(Lookup, stranger) }
		if n := passes(100, ask); n != 10 {
			t.Errorf("%d at once", n)
		}
		re, ok := errors.AsType[*RateError](ask())
		if !ok || re.Kind != Lookup || re.RetryAfter != time.Second/2 || !strings.Contains(re.Error(), "lookups, try again in 1 s") {
			t.Errorf("got %v", re)
		}
		time.Sleep(re.RetryAfter - time.Nanosecond)
		if n := passes(1, ask); n != 0 {
			t.Error("before the time that was told")
		}
		time.Sleep(time.Nanosecond)
		if n := passes(5, ask); n != 1 {
			t.Errorf("%d after the time that was told", n)
		}
		time.Sleep(3 * time.Second)
		if n := passes(100, ask); n != 6 {
			t.Errorf("%d after three seconds", n)
		}
		time.Sleep(time.Hour)
		if n := passes(100, ask); n != 10 {
			t.Errorf("%d after an hour", n)
		}
		if n := passes(5, func() error { return a.Allow(Lookup, neighbour) }); n != 5 {
			t.Errorf("%d for a neighbour", n)
		}
		if n := passes(5, func() error { return a.Allow(Circuit, stranger) }); n != 5 {
			t.Errorf("%d of another kind", n)
		}
	})
}

func TestARefusalIsNotCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := open(t, func(c *Config) { c.Limits.Address.Connection = Rate{time.Second, 1} })
		ask := func() error { return a.Connect(stranger) }
		for range 5 {
			if n := passes(1000, ask); n != 1 {
				t.Errorf("%d", n)
			}
			time.Sleep(time.Second)
		}
	})
}

func TestAddressesCountByWhatOneCustomerHas(t *testing.T) {
	a, _ := open(t, func(c *Config) { c.Limits.Address.Connection = Rate{time.Hour, 3} })
	connect := func(addrs ...string) (passed int) {
		for _, s := range addrs {
			passed += passes(1, func() error { return a.Connect(netip.MustParseAddr(s)) })
		}
		return passed
	}
	if n := connect("2001:db8::1", "2001:db8::ffff:1", "2001:db8:0:0:a:b:c:d", "2001:db8::2", "2001:db8::3%eth0"); n != 3 {
		t.Errorf("%d from one /64", n)
	}
	if n := connect("2001:db8:0:1::1"); n != 1 {
		t.Error("another /64 is not another customer")
	}
	if n := connect("192.0.2.1", "::ffff:192.0.2.1", "192.0.2.1", "::ffff:192.0.2.1"); n != 3 {
		t.Errorf("%d from one IPv4 address in two spellings", n)
	}
	if n := connect("192.0.2.2", "::ffff:192.0.2.3"); n != 2 {
		t.Error("another IPv4 address is not another customer")
	}
}

func TestLoopbackAndExemptNetworksHaveNoRates(t *testing.T) {
	one := Rate{time.Hour, 1}
	all := Rates{one, one, one, one, one, one, one}
	a, _ := open(t, func(c *Config) {
		c.Limits = Limits{Address: all, Key: all, ConnectionsPerAddress: 1, Exempt: []netip.Prefix{
			netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("::ffff:203.0.113.0/120"),
			netip.MustParsePrefix("2001:db8:1::/48"),
		}}
	})
	var none netip.Addr
	k := key(t, 1)
	for _, addr := range []netip.Addr{
		none, netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.8.9.1"), netip.MustParseAddr("::1"),
		netip.MustParseAddr("::ffff:127.0.0.1"), netip.MustParseAddr("198.51.100.9"), netip.MustParseAddr("::ffff:198.51.100.9"),
		netip.MustParseAddr("203.0.113.255"), netip.MustParseAddr("2001:db8:1:2::3"),
	} {
		for _, kind := range Kinds() {
			ask := func() error {
				return errors.Join(a.Allow(kind, addr), a.AllowKey(kind, addr, k), a.Connect(addr), a.Gate().Enter(addr))
			}
			if n := passes(50, ask); n != 50 {
				t.Errorf("%v has %d %ss", addr, n, kind)
			}
		}
		newID := func() error { return a.Publish(t.Context(), addr, k, secrez.ID{}, "") }
		if n := passes(50, newID); n != 50 {
			t.Errorf("%v has %d new ids", addr, n)
		}
	}
	for _, kind := range Kinds() {
		if n := passes(50, func() error { return a.Allow(kind, neighbour) }); n != 1 {
			t.Errorf("a stranger has %d %ss", n, kind)
		}
	}
}

func TestAKeyHasItsOwnRateWhereverItComesFrom(t *testing.T) {
	a, _ := open(t, func(c *Config) {
		c.Limits.Key.Deposit = Rate{time.Hour, 5}
		c.Limits.Address.Deposit = Rate{time.Hour, 8}
	})
	from, k := 0, key(t, 1)
	wandering := func() error {
		from++
		return a.AllowKey(Deposit, netip.AddrFrom4([4]byte{198, 51, 100, byte(from)}), k)
	}
	if n := passes(100, wandering); n != 5 {
		t.Errorf("%d by one key", n)
	}
	// A key that asks too often does not use up what its address has for others.
	if n := passes(100, func() error { return a.AllowKey(Deposit, stranger, k) }); n != 0 {
		t.Errorf("%d more", n)
	}
	others := uint64(1)
	if n := passes(100, func() error { others++; return a.AllowKey(Deposit, stranger, key(t, others)) }); n != 8 {
		t.Errorf("%d by many keys behind one address", n)
	}
}

func TestLimitsChangeAtRunTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := open(t, func(c *Config) { c.Limits.Address.Lookup = Rate{time.Hour, 100} })
		ask := func() error { return a.Allow(Lookup, stranger) }
		if n := passes(200, ask); n != 100 {
			t.Errorf("%d", n)
		}
		want(t, "SetLimits", a.SetLimits(Limits{Address: Rates{Lookup: Rate{time.Second, 10}}}), nil)
		if n := passes(200, ask); n != 0 { // an empty bucket stays empty
			t.Errorf("%d", n)
		}
		time.Sleep(5 * time.Second) // but fills as the new limits say, not in four days
		if n := passes(200, ask); n != 5 {
			t.Errorf("%d after five seconds", n)
		}
		want(t, "SetLimits", a.SetLimits(Limits{Address: Rates{Lookup: Rate{Every: -1}}}), nil)
		if n := passes(200, ask); n != 200 {
			t.Errorf("%d without a limit", n)
		}
	})
}

func TestADeniedAddressTakesNoTokens(t *testing.T) {
	a, _ := open(t, func(c *Config) { c.Limits.Address.Connection = Rate{time.Hour, 1} })
	set(t, a, "deny 192.0.2.7")
	for range 10 {
		want(t, "connect", a.Connect(stranger), ErrDenied)
	}
	if err := a.RemoveRule(t.Context(), rule(t, "deny 192.0.2.7").Subject); err != nil {
		t.Fatal(err)
	}
	want(t, "connect", a.Connect(stranger), nil)
}

func TestPublishCountsNewIDsOnly(t *testing.T) {
	a, w := open(t, func(c *Config) {
		c.Mode = ModeInvite
		c.Limits.Address.NewID = Rate{time.Hour, 2}
	})
	w.give(key(t, 1), mustID(t, "7y-6ro-3z"))
	if n := passes(50, func() error { return publish(t, a, key(t, 1), "") }); n != 50 {
		t.Errorf("%d by a courier that has an id", n)
	}
	code, i := invite(t, a, Invite{Uses: 9})
	others := uint64(1)
	if n := passes(50, func() error { others++; return publish(t, a, key(t, others), code) }); n != 2 {
		t.Errorf("%d new ids", n)
	}
	if got := a.invite(i.ID); len(got.Members) != 2 {
		t.Errorf("%d uses of the invite", len(got.Members))
	}
	if err := a.Publish(t.Context(), netip.Addr{}, key(t, 99), secrez.ID{}, code); err != nil {
		t.Errorf("from the hub's own machine: %v", err)
	}
}

func TestTheTableDoesNotGrow(t *testing.T) {
	a, _ := open(t, func(c *Config) { c.Tracked = 1024 })
	for n := range 20_000 {
		addr := netip.AddrFrom4([4]byte{100, byte(n >> 16), byte(n >> 8), byte(n)})
		_ = a.AllowKey(Connection, addr, key(t, uint64(n)))
	}
	if n := len(a.addresses.sets) * ways; n != 1024 {
		t.Errorf("there is room for %d addresses", n)
	}
	if n := len(a.proved.sets) * ways; n != 1024 {
		t.Errorf("there is room for %d keys", n)
	}
	if a.Stats().Evicted == 0 {
		t.Error("nothing was forgotten")
	}
	for _, tracked := range []int{1, 512, 513, 60_000, 65536} {
		if n := len(newTable[[16]byte](tracked).sets) * ways; n < tracked || n >= 2*max(tracked, stripes*ways/2+1) {
			t.Errorf("a table for %d has room for %d", tracked, n)
		}
	}
}

// A million addresses cost no more memory than the table has.
func TestAMillionAddressesTakeNoMemory(t *testing.T) {
	if raceDetector {
		t.Log("memory is not what it is with the race detector")
		return
	}
	a, _ := open(t, nil)
	heap := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	for n := range 1_000_000 {
		b := [16]byte{0x20, 0x01, 0x0d, 0xb8, 0, byte(n >> 16), byte(n >> 8), byte(n)}
		addr := netip.AddrFrom16(b)
		if a.Connect(addr) == nil && n%8 == 0 {
			_ = a.AllowKey(Connection, addr, key(t, uint64(n)))
		}
	}
	grown := heap() - before
	if most := int64(12 << 20); grown > most {
		t.Errorf("it has grown by %d bytes", grown)
	}
	t.Logf("%d bytes", grown)
	runtime.KeepAlive(a)
}

// Who has run into a limit does not get rid of it by coming from a million other addresses.
func TestAFloodDoesNotWashALimitAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := open(t, func(c *Config) { c.Tracked = 2048 })
		if n := passes(1000, func() error { return a.Allow(NewID, stranger) }); n != 100 {
			t.Errorf("%d", n)
		}
		for n := range 200_000 {
			_ = a.Allow(NewID, netip.AddrFrom4([4]byte{100, byte(n >> 16), byte(n >> 8), byte(n)}))
		}
		if n := passes(1000, func() error { return a.Allow(NewID, stranger) }); n != 0 {
			t.Errorf("%d after the flood", n)
		}
		time.Sleep(time.Minute)
		if n := passes(1000, func() error { return a.Allow(NewID, stranger) }); n != 6 {
			t.Errorf("%d after the flood and a minute", n)
		}
	})
}

// Nor does a flood lock anybody out: who is forgotten begins anew.
func TestAFloodLocksNobodyOut(t *testing.T) {
	a, _ := open(t, func(c *Config) { c.Tracked = 512 })
	for n := range 50_000 {
		_ = a.Connect(netip.AddrFrom4([4]byte{100, byte(n >> 16), byte(n >> 8), byte(n)}))
		if n%100 == 0 {
			want(t, "connect", a.Connect(stranger), nil)
		}
	}
}

func TestConcurrentQuestionsShareABucket(t *testing.T) {
	a, _ := open(t, func(c *Config) { c.Limits.Address.Lookup = Rate{time.Hour, 500} })
	var passed atomic.Int64
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for n := range 1000 {
				if a.Allow(Lookup, stranger) == nil {
					passed.Add(1)
				}
				_ = a.Allow(Lookup, netip.AddrFrom4([4]byte{100, byte(g), byte(n >> 8), byte(n)}))
				_ = a.Visit(stranger, key(t, uint64(n)))
			}
		})
	}
	wg.Go(func() {
		for n := range 50 {
			set(t, a, fmt.Sprintf("deny 198.51.100.%d", n))
			_ = a.SetMode([]Mode{ModeOpen, ModeInvite}[n%2])
			_, _ = a.Stats(), a.Rules()
		}
	})
	wg.Wait()
	if passed.Load() != 500 {
		t.Errorf("%d passed", passed.Load())
	}
}

func TestRatesAsText(t *testing.T) {
	for s, wanted := range map[string]struct {
		rate Rate
		text string
	}{
		"50/s":            {Rate{20 * time.Millisecond, 0}, "50/s"},
		"7/s":             {Rate{time.Second / 7, 0}, "7/s"},
		"60/m":            {Rate{time.Second, 0}, "1/s"},
		"6/m burst 100":   {Rate{10 * time.Second, 100}, "6/m burst 100"},
		"100/h":           {Rate{36 * time.Second, 0}, "100/h"},
		"1/90s":           {Rate{90 * time.Second, 0}, "40/h"},
		"1/7m0s":          {Rate{7 * time.Minute, 0}, "1/7m0s"},
		"2/1h30m burst 1": {Rate{45 * time.Minute, 1}, "32/d burst 1"},
		"1/d":             {Rate{24 * time.Hour, 0}, "1/d"},
		"1000000000/s":    {Rate{1, 0}, "1000000000/s"},
		"none":            {Rate{-1, 0}, "none"},
	} {
		got, err := ParseRate(s)
		if err != nil || got != wanted.rate || got.String() != wanted.text {
			t.Errorf("%q is %+v (%q), %v", s, got, got, err)
		}
		again, err := ParseRate(got.String())
		if err != nil || again != got {
			t.Errorf("%q is %+v, %v", got, again, err)
		}
	}
	for _, s := range []string{
		"", "5", "/s", "5/", "5/w", "0/s", "-1/s", "+1/s", "1.5/s", "5 / s", "5/s burst", "5/s burst 0", "5/s burst -1", "5/s burst x",
		"5/s  burst 5", "2000000000/s", "9999999999999/s", "5/25h", "5/-1s", "5/0s", "10/1ns", "1/d burst 366", "None",
		"none burst 5", " 5/s",
	} {
		if got, err := ParseRate(s); !errors.Is(err, ErrRule) {
			t.Errorf("%q is %+v, %v", s, got, err)
		}
	}
	var r Rate
	if err := r.UnmarshalText([]byte("5/s")); err != nil || r.Every != time.Second/5 {
		t.Errorf("got %+v, %v", r, err)
	}
	if err := r.UnmarshalText([]byte("x")); err == nil || r.Every != time.Second/5 {
		t.Errorf("got %+v, %v", r, err)
	}
	if text, err := r.MarshalText(); err != nil || string(text) != "5/s" {
		t.Errorf("got %s, %v", text, err)
	}
	if err := r.UnmarshalText(nil); err != nil || r != (Rate{}) {
		t.Errorf("got %+v, %v", r, err)
	}
}

func TestABurstThatIsNotToldIsTenSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for text, wanted := range map[string]int{"20/s": 200, "6/m": 1, "1/h": 1} {
			rate, err := ParseRate(text)
			if err != nil {
				t.Fatal(err)
			}
			a, _ := open(t, func(c *Config) { c.Limits.Address.Lookup = rate })
			if n := passes(1000, func() error { return a.Allow(Lookup, stranger) }); n != wanted {
				t.Errorf("%s: %d at once", text, n)
			}
		}
	})
}

// The table in the documentation of Limits is what holds.
func TestDefaultRatesAreAsDocumented(t *testing.T) {
	document := func(rates Rates) (lines []string) {
		for kind, rate := range rates.byKind() {
			lines = append(lines, fmt.Sprint(Kind(kind), " ", rate))
		}
		return lines
	}
	address := []string{
		"connection 50/s burst 1000", "registration 5/s burst 200", "new id 6/m burst 100", "lookup 20/s burst 200",
		"request 500/s burst 5000", "circuit 20/s burst 500", "deposit 20/s burst 500",
	}
	key := []string{
		"connection 1/s burst 60", "registration 1/s burst 60", "new id 1/h burst 10", "lookup 10/s burst 200", "request none",
		"circuit 10/s burst 200", "deposit 5/s burst 200",
	}
	if got := document(defaultAddressRates()); fmt.Sprint(got) != fmt.Sprint(address) {
		t.Errorf("addresses have %q", got)
	}
	if got := document(defaultKeyRates()); fmt.Sprint(got) != fmt.Sprint(key) {
		t.Errorf("keys have %q", got)
	}
	for _, rates := range []Rates{defaultAddressRates(), defaultKeyRates()} {
		if _, err := rates.buckets(Rates{}); err != nil {
			t.Error(err)
		}
	}
	if s := Kind(200).String(); s != "kind 200" {
		t.Errorf("an unknown kind is %q", s)
	}
}

func TestLimitsWithDefaultsAreThoseInForce(t *testing.T) {
	given := Limits{Key: Rates{Lookup: Rate{Every: time.Minute, Burst: 3}}, Connections: -1}
	full := given.WithDefaults()
	want, err := given.inForce()
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range Kinds() {
		address, key := full.Address.Of(kind), full.Key.Of(kind)
		if address.Every == 0 || key.Every == 0 {
			t.Errorf("the rate of %ss is not told: %q, %q", kind, address, key)
		}
		if address.bucket(Rate{}) != want.address[kind] || key.bucket(Rate{}) != want.key[kind] {
			t.Errorf("the rate of %ss is told as %q and %q", kind, address, key)
		}
	}
	if full.Connections != -1 || full.ConnectionsPerAddress != defaultPerAddress || full.Key.Of(Lookup).Burst != 3 {
		t.Errorf("%+v", full)
	}
	if r := full.Key.Of(kinds); r != (Rate{}) {
		t.Errorf("a kind that does not exist has the rate %v", r)
	}
}
