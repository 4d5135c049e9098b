package admin

import (
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/secretstack/secretstack/internal/netaddr"
)

func TestAThrottleForgetsAfterItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var th throttle
		from := netip.MustParseAddr("192.0.2.1")
		for range maxFailures {
			if wait := th.wait(from); wait != 0 {
				t.Fatalf("has to wait %v too early", wait)
			}
			th.failed(from)
		}
		time.Sleep(20 * time.Second)
		if wait := th.wait(from); wait != throttleSpan-20*time.Second {
			t.Errorf("has to wait %v", wait)
		}
		if wait := th.wait(netip.MustParseAddr("::ffff:192.0.2.1")); wait == 0 {
			t.Error("IPv4 written as IPv6 is somebody else")
		}
		if wait := th.wait(netip.MustParseAddr("192.0.2.2")); wait != 0 {
			t.Error("a neighbour has to wait")
		}
		time.Sleep(throttleSpan - 20*time.Second)
		if wait := th.wait(from); wait != 0 {
			t.Errorf("has to wait %v too late", wait)
		}
		th.failed(from)
		if f := th.failures[netaddr.Customer(from)]; f.count != 1 {
			t.Errorf("counts go on from %d", f.count)
		}
	})
}

func TestAThrottleIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var th throttle
		first := netip.MustParseAddr("192.0.2.1")
		th.failed(first)
		for i := range 2 * maxThrottled {
			time.Sleep(time.Microsecond)
			th.failed(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}))
		}
		if n := len(th.failures); n > maxThrottled {
			t.Errorf("remembers %d", n)
		}
		if _, there := th.failures[netaddr.Customer(first)]; there {
			t.Error("the oldest is still there")
		}
		time.Sleep(throttleSpan)
		th.failed(first)
		if n := len(th.failures); n != 1 {
			t.Errorf("remembers %d of which nothing counts", n)
		}
	})
}

func TestASessionEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s sessions
		cookie := s.begin()
		s.keep(cookie, "invite", "link")
		time.Sleep(sessionTime - time.Second)
		if !s.has(cookie) || s.links(cookie)["invite"] != "link" {
			t.Error("ended too early")
		}
		time.Sleep(time.Second)
		if s.has(cookie) || s.links(cookie) != nil {
			t.Error("did not end")
		}
		s.keep(cookie, "other", "link")
		s.end(cookie)
	})
}

func TestSessionsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s sessions
		first := s.begin()
		var last string
		for range maxSessions {
			time.Sleep(time.Second)
			last = s.begin()
		}
		if len(s.all) != maxSessions || s.has(first) || !s.has(last) {
			t.Errorf("%d sessions, the first is there: %v, the last: %v", len(s.all), s.has(first), s.has(last))
		}
		for i := range maxLinks + 5 {
			s.keep(last, fmt.Sprint(i), "link")
		}
		if n := len(s.links(last)); n != maxLinks {
			t.Errorf("remembers %d links", n)
		}
		time.Sleep(sessionTime)
		s.begin()
		if len(s.all) != 1 {
			t.Errorf("%d sessions, of which one is not over", len(s.all))
		}
	})
}

func TestFiguresAreWrittenForPeople(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 999: "999 B", 1000: "1.0 kB", 9949: "9.9 kB", 9950: "10 kB", 999_499: "999 kB", 999_500: "1.0 MB",
		1_234_567: "1.2 MB", 25_000_000_000: "25 GB", 3_000_000_000_000: "3.0 TB", 9_000_000_000_000_000_000: "9000 PB",
	} {
		if got := byteCount(n); got != want {
			t.Errorf("%d bytes are %q, want %q", n, got, want)
		}
	}
	for n, want := range map[int]string{0: "0", 999: "999", 1000: "1,000", 1_234_567: "1,234,567"} {
		if got := thousands(n); got != want {
			t.Errorf("%d is %q, want %q", n, got, want)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		for d, want := range map[time.Duration]string{
			0: "now", -500 * time.Millisecond: "now", time.Second: "in 1 s", -2 * time.Second: "2 s ago",
			-59600 * time.Millisecond: "1 min ago", -90 * time.Minute: "2 h ago", 47 * time.Hour: "in 47 h",
			7*24*time.Hour - time.Second: "in 7 days", -72 * time.Hour: "3 days ago",
		} {
			if got := when(time.Now().Add(d)); got != want {
				t.Errorf("%v from now is %q, want %q", d, got, want)
			}
		}
	})
}
