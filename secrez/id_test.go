package secrez

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

func TestNewIDsAreWellFormedAndDiffer(t *testing.T) {
	seen := map[ID]bool{}
	letters := map[rune]bool{}
	for range 500 {
		id := NewID()
		if parsed, err := ParseID(id.String()); err != nil || parsed != id || seen[id] {
			t.Fatalf("%v: %v, %v", id, parsed, err)
		}
		seen[id] = true
		for _, c := range id.String() {
			letters[c] = true
		}
	}
	if len(letters) != len(base32Alphabet)+1 {
		t.Errorf("%d characters in use, want 32 and the dash", len(letters))
	}
}

func TestIDsHaveOneForm(t *testing.T) {
	const id = "7y-6ro-3z"
	for _, s := range []string{
		"", "-", "--", "7y-6ro-3z-", "-7y-6ro-3z", "7y-6ro-3z-abc", "7y-6ro-3", "7y6ro3z", "7y-6ro3z-", "7-y6ro-3z", "7y_6ro_3z",
		"7Y-6RO-3Z", "7y-6ro-3Z", "7y-6r0-3z", "7y-6rl-3z", "7y-6r2-3z", "7y-6rv-3z", "7y-6ro-3z\n", " 7y-6ro-3z", "7y-6ro-3z.",
		"7y-6ro-3é", "7y-6r\x00-3z", "ch-rt2-9p", "..-...-..", "%37y-6ro-3z",
	} {
		if got, err := ParseID(s); !errors.Is(err, ErrID) || !got.IsZero() {
			t.Errorf("%q: %v, %v", s, got, err)
		}
	}
	for n := range len(id) {
		if _, err := ParseID(id[:n]); !errors.Is(err, ErrID) {
			t.Errorf("%q: %v", id[:n], err)
		}
	}
}

func TestIDsPassThroughJSON(t *testing.T) {
	type record struct{ ID, None ID }
	in := record{ID: NewID()}
	text, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	var out record
	if err := json.Unmarshal(text, &out); err != nil || out != in {
		t.Errorf("%s gives %v, %v", text, out, err)
	}
	if err := json.Unmarshal([]byte(`{"ID":"UZ-3MS-CM"}`), &out); !errors.Is(err, ErrID) {
		t.Errorf("bad id: %v", err)
	}
}

// Defect: any label of any Host could be an id, so names under other domains, deeper names and a hub's own name were
// taken for couriers.
func TestAttackIDsStandDirectlyBelowTheHubsDomain(t *testing.T) {
	for _, c := range []struct{ host, domain, want string }{
		{"uz-3ms-cm.example.com", "example.com", "uz-3ms-cm"},
		{"uz-3ms-cm.example.com:8433", "example.com", "uz-3ms-cm"},
		{"uz-3ms-cm.example.com:", "example.com", "uz-3ms-cm"},
		{"uz-3ms-cm.example.com.", "example.com", "uz-3ms-cm"},
		{"uz-3ms-cm.example.com.:443", "example.com", "uz-3ms-cm"},
		{"UZ-3ms-cm.EXAMPLE.com", "Example.Com", "uz-3ms-cm"},
		{"uz-3ms-cm.example.com", "example.com.", "uz-3ms-cm"},
		{"uz-3ms-cm.example.com", "example.com:8433", "uz-3ms-cm"},
		{"uz-3ms-cm.hub.example.com", "hub.example.com", "uz-3ms-cm"},
		{"uz-3ms-cm.my-hub-eu.example.com", "my-hub-eu.example.com", "uz-3ms-cm"},
		{"uz-3ms-cm.localhost:8433", "localhost", "uz-3ms-cm"},

		{"my-hub-eu.example.com", "my-hub-eu.example.com", ""},
		{"example.com", "example.com", ""},
		{"www.example.com", "example.com", ""},
		{"uz-3ms-cm.example.com.evil.net", "example.com", ""},
		{"uz-3ms-cm.evil.net", "example.com", ""},
		{"uz-3ms-cm.notexample.com", "example.com", ""},
		{"uz-3ms-cm.com", "example.com", ""},
		{"uz-3ms-cm-example.com", "example.com", ""},
		{"x.uz-3ms-cm.example.com", "example.com", ""},
		{"uz-3ms-cm.x.example.com", "example.com", ""},
		{"uz-3ms-cm..example.com", "example.com", ""},
		{".uz-3ms-cm.example.com", "example.com", ""},
		{"uz-3ms-cm.example.com..", "example.com", ""},
		{"uz-3ms-cm.example.com:80:80", "example.com", ""},
		{"uz-3ms-cm.example.com:http", "example.com", ""},
		{"uz-3ms-cm.example.com:123456", "example.com", ""},
		{"uz-3ms-cm.example.com/", "example.com", ""},
		{"uz-3ms-cm.example.com\x00", "example.com", ""},
		{"user@uz-3ms-cm.example.com", "example.com", ""},
		{"uz-3ms-cm.example.com, example.com", "example.com", ""},
		{"uz-3ms-c\u212a.example.com", "example.com", ""}, // the Kelvin sign, whose lower case is a k
		{"uz-3ms-cm", "example.com", ""},
		{"uz-3ms-cm:8433", "example.com", ""},
		{"uz-3ms-cm.", "example.com", ""},
		{"uz-3ms-cm.example.com", "", ""},
		{"uz-3ms-cm.", "", ""},
		{"uz-3ms-cm..", ".", ""},
		{"uz-3ms-cm", "", ""},
		{"", "example.com", ""},
		{"", "", ""},
		{"[::1]:8433", "example.com", ""},
		{"127.0.0.1:8433", "example.com", ""},
	} {
		id, ok := IDFromHost(c.host, c.domain)
		if id.String() != c.want || ok != (c.want != "") {
			t.Errorf("%q below %q: %q, %v; want %q", c.host, c.domain, id, ok, c.want)
		}
	}
}

func TestContactURLs(t *testing.T) {
	id := ID{[len(idPattern)]byte([]byte("uz-3ms-cm"))}
	for s, want := range map[string]ContactURL{
		"https://uz-3ms-cm.example.com":           {id, "https://example.com"},
		"http://uz-3ms-cm.example.com:8433":       {id, "http://example.com:8433"},
		"http://UZ-3ms-cm.Localhost:8433/":        {id, "http://localhost:8433"},
		"HTTPS://uz-3ms-cm.hub.example.com/a?b#c": {id, "https://hub.example.com"},
	} {
		got, err := ParseContactURL(s)
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v", s, got, err)
		}
		if back, err := ParseContactURL(got.String()); err != nil || back != want {
			t.Errorf("%s is written %q: %v", s, got, err)
		}
	}
	for _, s := range []string{
		"", "uz-3ms-cm.example.com", "//uz-3ms-cm.example.com", "ftp://uz-3ms-cm.example.com", "https://uz-3ms-cm",
		"https://uz-3ms-cm.", "https://uz-3ms-cm.:80", "https://example.com", "https://x.uz-3ms-cm.example.com", "https://",
		"https://uz-3ms-cm-x.example.com", "https://a:b@uz-3ms-cm.example.com", "https://uz-3ms-cm.example.com:x", "https:uz-3ms-cm.example.com",
		"https://uz-3ms-cm.\"<x>", "https://uz-3ms-cm.exämple.com", "https://uz-3ms-cm.example.com\n", "javascript://uz-3ms-cm.example.com",
	} {
		if got, err := ParseContactURL(s); !errors.Is(err, ErrID) || got != (ContactURL{}) || got.String() != "" {
			t.Errorf("%q: %+v, %v", s, got, err)
		}
	}
}

func TestLegacyIDsBelongToTheirOwner(t *testing.T) {
	alice, bob := account(t, "alice").Public(), account(t, "bob").Public()
	id, err := NewLegacyID(alice)
	if err != nil {
		t.Fatal(err)
	}
	if err := CheckLegacyID(id, alice); err != nil {
		t.Errorf("%s: %v", id, err)
	}
	if err := CheckLegacyID(id, bob); !errors.Is(err, ErrID) {
		t.Errorf("bob's: %v", err)
	}
	if other, err := NewLegacyID(alice); err != nil || other == id {
		t.Errorf("%s twice, %v", other, err)
	}
	for _, bad := range []string{
		"", "0", id + "y", id[:len(id)-1], id + "0yyyyyyyy", strings.ToUpper(id), strings.Replace(id, "0", "1", 1), id[:len(id)-1] + "l",
		id[:len(id)-1] + "0", "y" + id, " " + id, id + "\n", strings.Replace(id, "0", "00", 1), account(t, "alice").Public().Legacy(),
	} {
		if err := CheckLegacyID(bad, alice); !errors.Is(err, ErrID) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	for n := range len(id) {
		if err := CheckLegacyID(id[:n], alice); !errors.Is(err, ErrID) {
			t.Errorf("%q: %v", id[:n], err)
		}
	}
}

func TestLegacyIDsNeedAnOwner(t *testing.T) {
	if _, err := NewLegacyID(PublicKey{}); !errors.Is(err, ErrPublicKey) {
		t.Errorf("new: %v", err)
	}
	if err := CheckLegacyID("0yyyyyyyy", PublicKey{}); !errors.Is(err, ErrPublicKey) {
		t.Errorf("check: %v", err)
	}
}

func FuzzParseID(f *testing.F) {
	for _, c := range readVectors(f).IDs {
		var s string
		if json.Unmarshal(c.In, &s) == nil {
			f.Add(s)
		}
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, err := ParseID(s)
		if err != nil {
			if !errors.Is(err, ErrID) || !id.IsZero() {
				t.Fatalf("%v with %v", id, err)
			}
			return
		}
		if id.String() != s || len(s) != 9 {
			t.Fatalf("%q is written %q", s, id)
		}
		if got, ok := IDFromHost(s+".example.com", "example.com"); !ok || got != id {
			t.Fatalf("%q is not found in a host", s)
		}
	})
}

func FuzzIDFromHost(f *testing.F) {
	for _, c := range readVectors(f).Hosts {
		var s string
		if json.Unmarshal(c.In, &s) == nil {
			f.Add(s, "example.com")
		}
	}
	f.Add("uz-3ms-cm.", "")
	f.Add("uz-3ms-cm..:1", ".")
	f.Fuzz(func(t *testing.T, host, domain string) {
		id, ok := IDFromHost(host, domain)
		if ok == id.IsZero() {
			t.Fatalf("%v, %v", id, ok)
		}
		if !ok {
			return
		}
		if hostName(domain) == "" || hostName(host) != id.String()+"."+hostName(domain) {
			t.Fatalf("%q below %q gives %v", host, domain, id)
		}
	})
}

func FuzzParseContactURL(f *testing.F) {
	for _, c := range readVectors(f).Hosts {
		var s string
		if json.Unmarshal(c.In, &s) == nil {
			f.Add(s)
		}
	}
	f.Add("http://uz-3ms-cm.localhost:8433/x?y#z")
	f.Fuzz(func(t *testing.T, s string) {
		u, err := ParseContactURL(s)
		if err != nil {
			if !errors.Is(err, ErrID) || u != (ContactURL{}) {
				t.Fatalf("%+v with %v", u, err)
			}
			return
		}
		if back, err := ParseContactURL(u.String()); err != nil || back != u {
			t.Fatalf("%q gives %+v, which is written %q: %+v, %v", s, u, u, back, err)
		}
	})
}

func FuzzCheckLegacyID(f *testing.F) {
	owner := account(f, "alice").Public()
	f.Add(readVectors(f).LegacyIDs.Example)
	f.Add("0")
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		err := CheckLegacyID(s, owner)
		if err != nil && !errors.Is(err, ErrID) {
			t.Fatalf("untyped error %v", err)
		}
		if err == nil && len(s) != 52+1+8 {
			t.Fatalf("%q accepted", s)
		}
	})
}
