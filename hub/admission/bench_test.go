package admission

import (
	"fmt"
	"net/netip"
	"testing"
)

// busy is an Admission with long lists, as questions meet it.
func busy(tb testing.TB) *Admission {
	tb.Helper()
	a, _ := open(tb, func(c *Config) {
		for n := range 5000 {
			c.Fixed = append(c.Fixed,
				rule(tb, fmt.Sprintf("deny 10.%d.%d.0/24", n>>8, n&255)),
				rule(tb, fmt.Sprintf("deny 2001:db8:%x::/48", n)),
				Rule{Effect: Deny, Subject: KeySubject(key(tb, uint64(n)))})
		}
		c.Fixed = append(c.Fixed, rule(tb, "deny 172.16.0.0/12"), rule(tb, "allow 172.16.5.1"), rule(tb, "deny 2001:db9::/32"),
			rule(tb, "deny 7y-6ro-3z"))
		c.Limits.Address.Connection = Rate{1, 1e9} // counted, and never too much
		c.Limits.Address.Request = Rate{1, 1e9}
		c.Limits.Key.Connection = Rate{1, 1e9}
	})
	return a
}

func benchmark(b *testing.B, question func() error) {
	b.Helper()
	b.ReportAllocs()
	b.ResetTimer() // the lists are long
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := question(); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

func questions(tb testing.TB) map[string]func() error {
	a := busy(tb)
	v6 := netip.MustParseAddr("2001:dbf::5")
	k := key(tb, 1<<32) // not one of those who are denied
	id := mustID(tb, "uz-3ms-cm")
	return map[string]func() error{
		"Connect":   func() error { return a.Connect(stranger) },
		"ConnectV6": func() error { return a.Connect(v6) },
		"Network":   func() error { return a.Network(stranger) },
		"Visit":     func() error { return a.Visit(stranger, k) },
		"Reach":     func() error { return a.Reach(id, k) },
		"Allow":     func() error { return a.Allow(Request, stranger) },
		"AllowKey":  func() error { return a.AllowKey(Connection, stranger, k) },
		"Publish":   func() error { return a.Publish(tb.Context(), stranger, k, id, "") },
		"Gate": func() error {
			err := a.Gate().Enter(stranger)
			a.Gate().Leave(stranger)
			return err
		},
	}
}

func BenchmarkConnect(b *testing.B)   { benchmark(b, questions(b)["Connect"]) }
func BenchmarkConnectV6(b *testing.B) { benchmark(b, questions(b)["ConnectV6"]) }
func BenchmarkVisit(b *testing.B)     { benchmark(b, questions(b)["Visit"]) }
func BenchmarkReach(b *testing.B)     { benchmark(b, questions(b)["Reach"]) }
func BenchmarkAllow(b *testing.B)     { benchmark(b, questions(b)["Allow"]) }
func BenchmarkAllowKey(b *testing.B)  { benchmark(b, questions(b)["AllowKey"]) }
func BenchmarkPublish(b *testing.B)   { benchmark(b, questions(b)["Publish"]) }
func BenchmarkGate(b *testing.B)      { benchmark(b, questions(b)["Gate"]) }

// A flood of addresses, each of which connects once.
func BenchmarkConnectFromEverywhere(b *testing.B) {
	a := busy(b)
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		_ = a.Connect(netip.AddrFrom4([4]byte{100, byte(n >> 16), byte(n >> 8), byte(n)}))
	}
}

func TestQuestionsAllocateNothing(t *testing.T) {
	for name, question := range questions(t) {
		allocs := testing.AllocsPerRun(100, func() {
			if err := question(); err != nil {
				t.Error(err)
			}
		})
		if allocs != 0 && !raceDetector {
			t.Errorf("%s allocates %v times", name, allocs)
		}
	}
}
