package secrez

import (
	"errors"
	"strings"
	"testing"

	"github.com/secretstack/secretstack/keys"
)

func testLink(tb testing.TB) ContactLink {
	tb.Helper()
	id, err := ParseID("7y-6ro-3z")
	if err != nil {
		tb.Fatal(err)
	}
	return ContactLink{ID: id, Hub: "https://example.com:8433", Key: derived(tb, 1).Public()}
}

func sameLink(a, b ContactLink) bool {
	return a.ID == b.ID && a.Hub == b.Hub && a.Key.Equal(b.Key) && a.HubKey.Equal(b.HubKey)
}

func TestContactLinksCarryTheKey(t *testing.T) {
	hub := derived(t, 2).Identity().Public()
	with := func(change func(*ContactLink)) ContactLink {
		l := testLink(t)
		change(&l)
		return l
	}
	for _, c := range []struct {
		what string
		link ContactLink
		text string
	}{
		{"a derived key is its sign half", testLink(t),
			"https://example.com:8433/s/7y-6ro-3z#key=TLWr9q15-_WrvMr8wmnYXNJlHtS4hbWGnyQa7fCluik"},
		{"an imported key is both halves", with(func(l *ContactLink) { l.Key = account(t, "alice").Public() }),
			"https://example.com:8433/s/7y-6ro-3z#key=PG5_2SgKm6FxZeKw6EzL8_52uk_kuKVmBQwqAYawT1M&box=J2jSdtFzoij369LecYaKRetrhYzm7GEacJugZHrVCDQ"},
		{"the hub's key", with(func(l *ContactLink) { l.HubKey = hub }), ""},
		{"no key", with(func(l *ContactLink) { l.Key = PublicKey{} }), "https://example.com:8433/s/7y-6ro-3z"},
		{"the hub's key alone", with(func(l *ContactLink) { l.Key, l.HubKey = PublicKey{}, hub }), ""},
	} {
		text := c.link.String()
		if c.text != "" && text != c.text {
			t.Errorf("%s: %q, want %q", c.what, text, c.text)
		}
		got, err := ParseContactLink(text)
		if err != nil || !sameLink(got, c.link) {
			t.Errorf("%s: %q gives %+v, %v", c.what, text, got, err)
		}
	}
	if got := testLink(t).URL().String(); got != "https://7y-6ro-3z.example.com:8433" {
		t.Errorf("the courier is at %q", got)
	}
	if got := (ContactLink{}).String(); got != "" {
		t.Errorf("the zero link is %q", got)
	}
}

func TestContactLinksAreReadAsPeoplePasteThem(t *testing.T) {
	want := testLink(t)
	_, fragment, _ := strings.Cut(want.String(), "#")
	for _, s := range []string{
		"https://example.com:8433/s/7y-6ro-3z/#" + fragment,
		"HTTPS://EXAMPLE.COM:8433/s/7y-6ro-3z#" + fragment,
		"https://example.com:8433/s/7y-6ro-3z?utm_source=x#" + fragment,
		"https://example.com:8433/s/7y-6ro-3z#name=Bob&" + fragment + "&new=thing",
	} {
		if got, err := ParseContactLink(s); err != nil || !sameLink(got, want) {
			t.Errorf("%q: %+v, %v", s, got, err)
		}
	}
}

func TestContactLinksThatAreWrongAreRefused(t *testing.T) {
	good := testLink(t).String()
	base, fragment, _ := strings.Cut(good, "#")
	key := strings.TrimPrefix(fragment, "key=")
	for s, want := range map[string]error{
		"":                                                       ErrID,
		"7y-6ro-3z":                                              ErrID,
		"ftp://example.com/s/7y-6ro-3z":                          ErrID,
		"https:///s/7y-6ro-3z":                                   ErrID,
		"https://u:p@example.com/s/7y-6ro-3z":                    ErrID,
		"https://exa mple.com/s/7y-6ro-3z":                       ErrID,
		"https://exämple.com/s/7y-6ro-3z":                        ErrID,
		"https://example.com/7y-6ro-3z":                          ErrID,
		"https://example.com/s/":                                 ErrID,
		"https://example.com/s/7y-6ro-3z/x":                      ErrID,
		"https://example.com/s/%37y-6ro-3z":                      ErrID,
		"https://example.com/s/7Y-6RO-3Z":                        ErrID,
		base + "#key=":                                           ErrPublicKey,
		base + "#key=" + key[:42]:                                ErrPublicKey,
		base + "#key=" + key + "A":                               ErrPublicKey,
		base + "#key=" + key + "%0A":                             ErrPublicKey,
		base + "#key=" + key[:42] + "R":                          ErrPublicKey, // spare bits
		base + "#key=" + key + "&key=" + key:                     ErrPublicKey,
		base + "#box=" + key:                                     ErrPublicKey,
		base + "#key=" + strings.Repeat("A", 43):                 ErrPublicKey,
		base + "#hub=" + strings.Repeat("A", 43):                 ErrPublicKey,
		base + "#key=" + key + "&box=" + strings.Repeat("A", 43): ErrPublicKey,
		base + "#key=%zz":                                        ErrID, // no link at all
	} {
		if l, err := ParseContactLink(s); !errors.Is(err, want) || !sameLink(l, ContactLink{}) {
			t.Errorf("%q: %+v, %v; want %v", s, l, err, want)
		}
	}
}

func FuzzParseContactLink(f *testing.F) {
	l := testLink(f)
	f.Add(l.String())
	l.HubKey, l.Key = l.Key.Identity(), account(f, "alice").Public()
	f.Add(l.String())
	f.Add("http://h/s/7y-6ro-3z/?q#key=&box&hub=1")
	f.Fuzz(func(t *testing.T, s string) {
		l, err := ParseContactLink(s)
		if err != nil {
			if !errors.Is(err, ErrID) && !errors.Is(err, ErrPublicKey) {
				t.Errorf("%q: %v", s, err)
			}
			return
		}
		again, err := ParseContactLink(l.String())
		if err != nil || !sameLink(l, again) {
			t.Errorf("%q is %+v, and %q is %+v, %v", s, l, l.String(), again, err)
		}
		if _, err := keys.NewPublicKey(l.HubKey.Bytes()); !l.HubKey.IsZero() && err != nil {
			t.Errorf("%q: %v", s, err)
		}
	})
}
