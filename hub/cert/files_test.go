package cert

import (
	"bytes"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"
)

func TestHandshakesNoticeThatFilesHaveChanged(t *testing.T) {
	p := pairIn(t.TempDir())
	current(t, 1, "hub.example.org").save(t, p)
	f, err := LoadFiles(FilesOptions{Every: time.Nanosecond}, p)
	if err != nil {
		t.Fatal(err)
	}
	wantSerial(t, f, "hub.example.org", 1)
	current(t, 2, "hub.example.org").save(t, p)
	wantSerial(t, f, "hub.example.org", 2)
	if s := f.Status(); len(s) != 1 || s[0].Err != nil || s[0].Names[0] != "hub.example.org" || time.Until(s[0].NotAfter) < time.Minute {
		t.Errorf("%+v", s)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}

func TestHandshakesLookAtFilesNowAndThenOnly(t *testing.T) {
	p := pairIn(t.TempDir())
	current(t, 1, "hub.example.org").save(t, p)
	f, err := LoadFiles(FilesOptions{}, p)
	if err != nil {
		t.Fatal(err)
	}
	current(t, 2, "hub.example.org").save(t, p)
	f.refresh(f.start.Add(10*time.Second - 1))
	wantSerial(t, f, "", 1)
	f.refresh(f.start.Add(10 * time.Second))
	wantSerial(t, f, "", 2)
	current(t, 3, "hub.example.org").save(t, p)
	f.refresh(f.start.Add(20*time.Second - 1))
	wantSerial(t, f, "", 2)
	if err := f.Reload(); err != nil {
		t.Error(err)
	}
	wantSerial(t, f, "", 3)
}

func TestABadPairLeavesTheOldOneInPlaceAndIsReported(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, p Pair){
		"no certificate": func(t *testing.T, p Pair) {
			if err := os.Remove(p.Cert); err != nil {
				t.Fatal(err)
			}
		},
		"half a file": func(t *testing.T, p Pair) {
			if err := os.WriteFile(p.Cert, []byte("-----BEGIN CERTIFICATE-----\nMIIB"), 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"another's key": func(t *testing.T, p Pair) {
			if err := os.WriteFile(p.Key, current(t, 9, "x.org").key, 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"expired":   func(t *testing.T, p Pair) { makeCert(t, 2, -2*time.Hour, -time.Hour, "x.org").save(t, p) },
		"not valid": func(t *testing.T, p Pair) { makeCert(t, 2, time.Hour, 2*time.Hour, "x.org").save(t, p) },
	} {
		t.Run(name, func(t *testing.T) {
			p := pairIn(t.TempDir())
			current(t, 1, "hub.example.org").save(t, p)
			var out bytes.Buffer
			f, err := LoadFiles(FilesOptions{Every: time.Nanosecond, Logger: slog.New(slog.NewTextHandler(&out, nil))}, p)
			if err != nil {
				t.Fatal(err)
			}
			spoil(t, p)
			wantSerial(t, f, "hub.example.org", 1)
			wantSerial(t, f, "hub.example.org", 1)
			if f.Status()[0].Err == nil || f.Reload() == nil {
				t.Error("not reported")
			}
			if n := strings.Count(out.String(), "level=ERROR"); n != 1 {
				t.Errorf("logged %d times: %s", n, &out)
			}
			current(t, 3, "hub.example.org").save(t, p)
			wantSerial(t, f, "hub.example.org", 3)
			if err := f.Status()[0].Err; err != nil {
				t.Error(err)
			}
		})
	}
}

func TestAnExpiredCertificateIsBetterThanNone(t *testing.T) {
	p := pairIn(t.TempDir())
	makeCert(t, 1, -2*time.Hour, -time.Hour, "hub.example.org").save(t, p)
	f, err := LoadFiles(FilesOptions{Every: time.Nanosecond}, p)
	if err != nil {
		t.Fatal(err)
	}
	wantSerial(t, f, "hub.example.org", 1)
	makeCert(t, 2, -2*time.Hour, -time.Minute, "hub.example.org").save(t, p)
	wantSerial(t, f, "hub.example.org", 2)
	if _, err := LoadFiles(FilesOptions{}, pairIn(t.TempDir())); err == nil {
		t.Error("loaded what is not there")
	}
}

func TestAClientGetsTheCertificateThatSuitsItOrElseTheFirst(t *testing.T) {
	one, two := pairIn(t.TempDir()), pairIn(t.TempDir())
	current(t, 1, "hub.example.org").save(t, one)
	current(t, 2, "*.hub.example.org").save(t, two)
	f, err := LoadFiles(FilesOptions{}, one, two)
	if err != nil {
		t.Fatal(err)
	}
	wantSerial(t, f, "hub.example.org", 1)
	wantSerial(t, f, "a.hub.example.org", 2)
	wantSerial(t, f, "", 1)
	wantSerial(t, f, "elsewhere.org", 1)
}
