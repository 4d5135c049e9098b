package admission

import (
	"context"
	"encoding/json"
	"errors"
	"iter"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/secretstack/secretstack/hub/registry"
)

func TestOpenReadsWhatIsStored(t *testing.T) {
	a, w := open(t, inviting)
	set(t, a, "deny 192.0.2.8 # why", "allow "+key(t, 1).Ref())
	code, _ := invite(t, a, Invite{Uses: 2})
	want(t, "redeem", publish(t, a, key(t, 2), code), nil)
	cfg := w.config()
	cfg.Mode = ModeInvite
	b := openAt(t, cfg)
	want(t, "a rule", b.Network(neighbour), ErrDenied)
	want(t, "SetFixed", b.SetFixed([]Rule{rule(t, "deny 192.0.2.9")}), nil)
	if !b.Member(key(t, 2)) || len(b.Rules()) != 3 || b.Stats().Members != 1 {
		t.Error("something is missing")
	}
}

// What cannot be read may be somebody's denial. So a hub does not start without it.
func TestOpenRefusesWhatItCannotRead(t *testing.T) {
	good, err := encodeRule(rule(t, "deny 192.0.2.7"))
	if err != nil {
		t.Fatal(err)
	}
	_, w := open(t, nil)
	a := openAt(t, w.config())
	_, i := invite(t, a, Invite{Uses: 3})
	goodInvite := w.invites.now[i.ID].Value
	for name, c := range map[string]struct{ bucket, key, value string }{
		"not JSON":              {"rules", "192.0.2.7", "deny"},
		"no rule":               {"rules", "192.0.2.7", "{}"},
		"another subject":       {"rules", "192.0.2.8", string(good)},
		"no subject":            {"rules", "somebody", string(good)},
		"another spelling":      {"rules", "192.0.2.7/32", string(good)},
		"a later version":       {"rules", "192.0.2.7", strings.Replace(string(good), `"v":1`, `"v":2`, 1)},
		"something new":         {"rules", "192.0.2.7", strings.Replace(string(good), `"v":1`, `"v":1,"only":"sundays"`, 1)},
		"more":                  {"rules", "192.0.2.7", string(good) + "{}"},
		"another effect":        {"rules", "192.0.2.7", strings.Replace(string(good), "deny", "Deny", 1)},
		"fixed":                 {"rules", "192.0.2.7", strings.Replace(string(good), `"v":1`, `"v":1,"fixed":true`, 1)},
		"an invite's version":   {"invites", i.ID, strings.Replace(string(goodInvite), `"v":1`, `"v":2`, 1)},
		"another invite":        {"invites", "0123456789ab", string(goodInvite)},
		"an invite's hash":      {"invites", i.ID, strings.Replace(string(goodInvite), `"hash":"`, `"hash":"00`, 1)},
		"a short hash":          {"invites", i.ID, strings.Replace(string(goodInvite), `"hash":"`+i.ID, `"hash":"`, 1)},
		"many uses":             {"invites", i.ID, strings.Replace(string(goodInvite), `"uses":3`, `"uses":1001`, 1)},
		"more members than may": {"invites", i.ID, strings.Replace(string(goodInvite), `"uses":3`, `"uses":0`, 1)},
		"a member without key": {"invites", i.ID, strings.Replace(string(goodInvite), `"uses":3`, `"uses":3,
			"members":[{"key":""}]`, 1)},
	} {
		w := newWorld()
		bucket := w.rules
		if c.bucket == "invites" {
			bucket = w.invites
		}
		if _, err := bucket.Put(t.Context(), c.key, []byte(c.value)); err != nil {
			t.Fatal(err)
		}
		_, err := Open(t.Context(), w.config())
		if err == nil || !strings.Contains(err.Error(), c.bucket) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// At run time what cannot be read comes from a node of a later version. What was known before still holds.
func TestWhatCannotBeReadAtRunTimeChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, w := open(t, nil)
		set(t, a, "deny 192.0.2.8")
		code, i := invite(t, a, Invite{})
		for key, bucket := range map[string]*memBucket{"192.0.2.8": w.rules, i.ID: w.invites} {
			if _, err := bucket.Put(t.Context(), key, []byte(`{"v":2}`)); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		want(t, "the rule", a.Network(neighbour), ErrDenied)
		if strings.Count(w.log.String(), "level=ERROR") != 2 {
			t.Errorf("the log says %s", w.log)
		}
		want(t, "SetMode", a.SetMode(ModeInvite), nil)
		want(t, "redeem", publish(t, a, key(t, 1), code), ErrStored) // it is read again, because it has changed
	})
}

func TestOpenWaitsForTheEngineAsLongAsTheContextLasts(t *testing.T) {
	cfg := newWorld().config()
	cfg.Invites = silentBucket{cfg.Invites}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("enough"))
	if _, err := Open(ctx, cfg); err == nil || !strings.Contains(err.Error(), "enough") {
		t.Errorf("got %v", err)
	}
	r, err := registry.Open(t.Context(), registryConfig(t, t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	a, err := onRegistry(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = Open(t.Context(), a.cfg)
	want(t, "after the registry", err, ErrUnavailable)
	closed(t, a)
	closed(t, a) // again
}

// silentBucket is one whose engine is down: it never tells what is in it.
type silentBucket struct{ Bucket }

func (silentBucket) Watch(ctx context.Context) iter.Seq2[registry.Change, error] {
	return func(yield func(registry.Change, error) bool) {
		<-ctx.Done()
		yield(registry.Change{}, ctx.Err())
	}
}

// The operator's interface shows them as they are.
func TestRulesAndInvitesHaveAJSONForm(t *testing.T) {
	a, _ := open(t, inviting)
	set(t, a, "deny 198.51.100.0/24 until 2999-01-31 # why")
	code, i := invite(t, a, Invite{Uses: 2})
	want(t, "redeem", publish(t, a, key(t, 1), code), nil)
	var rules []map[string]any
	roundTrip(t, a.Rules(), &rules)
	if r := rules[0]; r["effect"] != "deny" || r["subject"] != "198.51.100.0/24" || r["note"] != "why" ||
		r["expires"] != "2999-01-31T00:00:00Z" || r["created"] == nil || len(r) != 5 {
		t.Errorf("a rule is %v", r)
	}
	var again []Rule
	roundTrip(t, a.Rules(), &again)
	if len(again) != 1 || again[0] != a.Rules()[0] {
		t.Errorf("got %v", again)
	}
	var invites []map[string]any
	roundTrip(t, a.Invites(), &invites)
	if v := invites[0]; v["id"] != i.ID || v["uses"] != 2.0 || len(v["members"].([]any)) != 1 || v["expires"] != nil {
		t.Errorf("an invite is %v", v)
	}
}

func roundTrip(t *testing.T, from, to any) {
	t.Helper()
	b, err := json.Marshal(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, to); err != nil {
		t.Fatal(err)
	}
}
