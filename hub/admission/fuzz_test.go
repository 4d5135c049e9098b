package admission

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

func FuzzParseSubject(f *testing.F) {
	for _, s := range []string{
		"7y-6ro-3z", "192.0.2.0/24", "192.0.2.1", "2001:db8::/32", "::ffff:192.0.2.0/120", "::ffff:0:0/95", "10.1.2.3/8", "0.0.0.0/0",
		"::/0", "fe80::1%eth0", "fe80::%eth0/64", "@AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=.ed25519", "", "1.2.3.4/33", "01.2.3.4",
		key(f, 1).Ref(), key(f, 1).Base64(), key(f, 2).Base64() + "$" + key(f, 1).Base64(),
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		subject, err := ParseSubject(s)
		if err != nil {
			if !errors.Is(err, ErrRule) {
				t.Errorf("got %v", err)
			}
			return
		}
		again, err := ParseSubject(subject.String())
		if err != nil || again != subject || subject.IsZero() {
			t.Fatalf("%q is %q is %v, %v", s, subject, again, err)
		}
		_, isKey := subject.Key()
		_, isID := subject.ID()
		network, isNetwork := subject.Network()
		if n := len(slices.DeleteFunc([]bool{isKey, isID, isNetwork}, func(is bool) bool { return !is })); n != 1 {
			t.Errorf("%q is %d things", s, n)
		}
		if isNetwork && (network.Addr().Is4In6() || network.Masked() != network) {
			t.Errorf("%q is %v", s, network)
		}
		lists := newLists() // it can be put in and taken out again
		lists.set(fromBucket, subject, opinion{verdict: denied})
		if isNetwork && lists.network(network.Addr(), time.Now) != denied {
			t.Errorf("%v is not in %v", network.Addr(), network)
		}
		lists.set(fromBucket, subject, opinion{})
		if len(lists.keys)+len(lists.ids)+len(lists.networks)+len(lists.lengths[0].present)+len(lists.lengths[1].present) != 0 {
			t.Errorf("%v leaves something", subject)
		}
	})
}

func FuzzParseRule(f *testing.F) {
	for _, s := range []string{
		"deny 192.0.2.0/24", "allow 7y-6ro-3z # a note # and more", "deny 2001:db8::1 until 2030-01-31",
		"deny 10.0.0.0/8 until 2030-01-31T12:00:00+02:00#x",
		"deny  192.0.2.1\tuntil 2030-01-31   #  ", "deny", "deny 192.0.2.1 until", "forbid 192.0.2.1",
		"deny 192.0.2.1 until 2030-13-01", "# deny",
		"deny 192.0.2.1 until 0001-01-01T00:00:00Z", "deny 192.0.2.1 until 9999-12-31T23:59:59-12:00", "allow " + key(f, 1).Ref(),
		"deny 192.0.2.1 # \u2028", "deny 192.0.2.1 # \x00", "deny 192.0.2.1 until 2030-01-31T12:00:00.999Z",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseRule(s)
		if err != nil {
			if !errors.Is(err, ErrRule) {
				t.Errorf("got %v", err)
			}
			return
		}
		text := r.String()
		again, err := ParseRule(text)
		if err != nil || again != r || strings.ContainsAny(text, "\r\n") {
			t.Fatalf("%q is %q is %v, %v", s, text, again, err)
		}
		value, err := encodeRule(r)
		if err != nil {
			t.Fatal(err)
		}
		stored, err := decodeRule(r.Subject.String(), value)
		if err != nil || stored != r {
			t.Errorf("%v is stored as %s and read as %v, %v", r, value, stored, err)
		}
	})
}

func FuzzParseCode(f *testing.F) {
	for _, s := range []string{
		"ybndr-fg8ej-kmcpq-xot1u", "YBNDRFG8EJKMCPQXOT1U", " ybndr fg8ej kmcpq xot1u ", "ybndr-fg8ej-kmcpq-xot1",
		"ybndr-fg8ej-kmcpq-xot10", "", "--------------------", "ybndrfg8ejkmcpqxot1\u212a",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		code, err := ParseCode(s)
		if err != nil {
			if !errors.Is(err, ErrInvite) {
				t.Errorf("got %v", err)
			}
			return
		}
		again, err := ParseCode(code)
		if err != nil || again != code || len(code) != codeLength+3 {
			t.Fatalf("%q is %q is %q, %v", s, code, again, err)
		}
	})
}

func FuzzParseRate(f *testing.F) {
	for _, s := range []string{
		"50/s", "7/s", "100/h burst 500", "1/90s", "2/1h30m", "none", "0/s", "1/d burst 365", "1000000000/s burst 1000000000", "3/7ns",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseRate(s)
		if err != nil {
			if !errors.Is(err, ErrRule) {
				t.Errorf("got %v", err)
			}
			return
		}
		if again, err := ParseRate(r.String()); err != nil || again != r {
			t.Fatalf("%q is %q is %+v, %v", s, r, again, err)
		}
		b := r.bucket(Rate{})
		if b.every < 0 || b.window < b.every || b.every == 0 && r.Every > 0 || b.window > int64(maxWindow) {
			t.Fatalf("%q comes to %+v", s, b)
		}
		if b.every == 0 {
			return
		}
		table := newTable[[16]byte](1)
		if wait := table.take([16]byte{1}, Lookup, b, 1); wait != 0 {
			t.Errorf("%q: the first has to wait %v", s, wait)
		}
	})
}

func FuzzStored(f *testing.F) {
	rule, err := encodeRule(rule(f, "deny 192.0.2.7 until 2030-01-31 # why"))
	if err != nil {
		f.Fatal(err)
	}
	held := &heldInvite{Invite: Invite{Uses: 3, Members: []Member{{Key: key(f, 1)}}}, hash: hashCode("x")}
	held.ID = held.hash.id()
	invite, err := held.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add("192.0.2.7", rule)
	f.Add(held.ID, invite)
	f.Add("192.0.2.7", []byte(`{"v":1}`))
	f.Add("", []byte(`null`))
	f.Fuzz(func(t *testing.T, key string, value []byte) {
		if r, err := decodeRule(key, value); err == nil {
			again, err := encodeRule(r)
			if err != nil {
				t.Fatal(err)
			}
			if back, err := decodeRule(key, again); err != nil || back != r {
				t.Errorf("%v comes back as %v, %v", r, back, err)
			}
		} else if !errors.Is(err, ErrStored) {
			t.Errorf("got %v", err)
		}
		if i, err := decodeInvite(key, value, 1); err == nil {
			again, err := i.encode()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := decodeInvite(key, again, 1); err != nil {
				t.Errorf("%s does not come back: %v", value, err)
			}
		} else if !errors.Is(err, ErrStored) {
			t.Errorf("got %v", err)
		}
	})
}
