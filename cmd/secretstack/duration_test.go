package main

import (
	"testing"
	"time"
)

func TestDurationsAreThoseThatPeopleWrite(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"0": 0, "90m": 90 * time.Minute, "12h": 12 * time.Hour, "7d": 7 * day, "1d12h": 36 * time.Hour, "1d0.5h": 24*time.Hour + 30*time.Minute,
		"250ms": 250 * time.Millisecond, "65535d": 65535 * day, "1h0m10s": time.Hour + 10*time.Second,
	} {
		var d duration
		if err := d.Set(text); err != nil || time.Duration(d) != want {
			t.Errorf("%q is %v, %v", text, time.Duration(d), err)
		}
		again := d
		if err := again.Set(d.String()); err != nil || again != d {
			t.Errorf("%q is written %q, which is %v, %v", text, d.String(), time.Duration(again), err)
		}
	}
	for _, text := range []string{"", "d", "7", "-1d", "-5m", "1d-5m", "1.5d", "99999d", "7d7", "7days", "1h2d", "+5m", "9999999999999h"} {
		var d duration
		if err := d.Set(text); err == nil {
			t.Errorf("%q is %v", text, time.Duration(d))
		}
	}
	for d, want := range map[time.Duration]string{0: "0", 10 * time.Second: "10s", 2 * time.Minute: "2m", 48 * time.Hour: "48h", time.Second / 2: "500ms", 90 * time.Second: "1m30s"} {
		shown := duration(d)
		if got := shown.String(); got != want {
			t.Errorf("%v is written %q", d, got)
		}
	}
}
