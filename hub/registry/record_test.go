package registry

import (
	"bytes"
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/secretstack/secretstack/hub/registry/claim"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/secrez"
)

func deeds(tb testing.TB) []deed {
	tb.Helper()
	owner := identity(tb, 1)
	nativeReg := native(tb, owner)
	payload := v1(tb, accountOf(tb, owner), nil).Payload.Signed()
	receipt := claim.Receipt{Key: owner.Public(), ID: secrez.NewID(), Sequence: 2, Time: time.UnixMilli(5).UTC()}.Sign(hubIdentity(tb))
	box := [boxSize]byte(accountOf(tb, owner).Public().Box())
	key := owner.Public().Array()
	return []deed{
		{key: key, id: secrez.NewID(), sequence: 1, since: 1, evidence: Evidence{Statement: nativeReg.Statement}},
		{key: key, id: receipt.ID, sequence: 2, since: 5, box: &box, evidence: Evidence{Payload: &payload, Receipt: &receipt}},
		{key: key, id: secrez.NewID(), sequence: 1 << 63, since: -1, evidence: Evidence{}},
		{key: key, id: secrez.NewID(), sequence: 2, evidence: Evidence{Rotation: rotated(tb, identity(tb, 2), owner)}},
	}
}

func TestGroupsSurviveTheLog(t *testing.T) {
	want := deeds(t)
	group := newGroup(300)
	for i := range want {
		group = appendDeed(group, &want[i])
	}
	previous, got, err := parseGroup(group)
	if err != nil || previous != 300 || !reflect.DeepEqual(got, want) {
		t.Fatalf("got %+v, %v\nwant %+v", got, err, want)
	}
	ends := map[int]bool{len(group): true}
	for i := range want {
		b := newGroup(300)
		for j := range i {
			b = appendDeed(b, &want[j])
		}
		ends[len(b)] = true
	}
	for n := range group {
		if _, _, err := parseGroup(group[:n]); err == nil && !ends[n] {
			t.Errorf("%d bytes of it are a group", n)
		}
	}
	group[0]++
	if _, _, err := parseGroup(group); err == nil {
		t.Error("a later version is read")
	}
}

func FuzzParseGroup(f *testing.F) {
	group := newGroup(7)
	for _, d := range deeds(f) {
		group = appendDeed(group, &d)
	}
	f.Add(group)
	f.Fuzz(func(t *testing.T, b []byte) {
		previous, got, err := parseGroup(b)
		if err != nil {
			return
		}
		again := newGroup(previous)
		for i := range got {
			again = appendDeed(again, &got[i])
		}
		_, back, err := parseGroup(again)
		if err != nil || !reflect.DeepEqual(back, got) {
			t.Errorf("got %+v, %v, want %+v", back, err, got)
		}
	})
}

func TestAlteredRecordsDoNotVerify(t *testing.T) {
	hub, owner := hubIdentity(t).Public(), identity(t, 1)
	account := importedAccount(t, owner)
	id := secrez.NewID()
	box := [boxSize]byte(account.Public().Box())
	payload := v1(t, account, nil).Payload.Signed()
	register := statement(t, owner, claim.Statement{Action: claim.Register, ID: id, Sequence: 2, Box: box[:]}).Statement
	reset := statement(t, owner, claim.Statement{Action: claim.Reset, ID: secrez.NewID(), Sequence: 2}).Statement
	receipt := claim.Receipt{Key: owner.Public(), ID: id, Sequence: 2}.Sign(hubIdentity(t))
	sound := map[string]deed{
		"statement": {evidence: Evidence{Statement: register}},
		"reset":     {evidence: Evidence{Statement: reset}},
		"payload":   {evidence: Evidence{Payload: &payload}},
		"healed":    {evidence: Evidence{Payload: &payload, Receipt: &receipt}},
		"rotated":   {evidence: Evidence{Statement: register, Rotation: rotated(t, identity(t, 9), owner)}},
	}
	otherBox := [boxSize]byte(accountOf(t, owner).Public().Box())
	alterations := map[string]func(*deed){
		"key":      func(d *deed) { d.key = identity(t, 2).Public().Array() },
		"id":       func(d *deed) { d.id = secrez.NewID() },
		"sequence": func(d *deed) { d.sequence++ },
		"box":      func(d *deed) { d.box = &otherBox },
		"evidence": func(d *deed) { d.evidence.Statement, d.evidence.Payload = nil, nil },
		"heir":     func(d *deed) { d.evidence.Rotation = rotated(t, owner, identity(t, 9)) },
		"hub":      nil,
	}
	// What each kind of evidence cannot tell, because its owner did not know it when he signed.
	blind := map[string]bool{
		"statement sequence": true, "rotated sequence": true, "reset id": true, "reset box": true, "payload id": true, "payload sequence": true, "payload hub": true,
	}
	for kind, base := range sound {
		base.key, base.id, base.sequence, base.box = owner.Public().Array(), id, 2, &box
		if err := base.verify(hub); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
		for what, alter := range alterations {
			d, by := base, hub
			if alter == nil {
				by = identity(t, 3).Public()
			} else {
				alter(&d)
			}
			if err := d.verify(by); !blind[kind+" "+what] && !errors.Is(err, ErrEvidence) {
				t.Errorf("%s with another %s: got %v", kind, what, err)
			}
		}
	}
}

func TestTheDirectoryKeepsItsRulesWhateverTheLogSays(t *testing.T) {
	a, b := identity(t, 1).Public().Array(), identity(t, 2).Public().Array()
	x, y, z := secrez.NewID(), secrez.NewID(), secrez.NewID()
	d := newDirectory()
	steps := []struct {
		say     string
		deed    deed
		refused int
		lost    int
	}{
		{"a gets x", deed{key: a, id: x, sequence: 1}, 0, 0},
		{"b wants x", deed{key: b, id: x, sequence: 1}, 1, 0},
		{"a wants another with the same sequence", deed{key: a, id: y, sequence: 1}, 1, 0},
		{"a gets y", deed{key: a, id: y, sequence: 2}, 0, 1},
		{"a goes back", deed{key: a, id: x, sequence: 1}, 1, 0},
		{"b wants the retired x", deed{key: b, id: x, sequence: 1}, 1, 0},
		{"b gets z", deed{key: b, id: z, sequence: 7}, 0, 0},
		{"a says it again", deed{key: a, id: y, sequence: 2, since: 9}, 0, 0},
	}
	for i, s := range steps {
		lost, got, err := d.apply(uint64(i+1), uint64(i), []deed{s.deed})
		if got != s.refused || len(lost) != s.lost || err != nil {
			t.Errorf("%s: %d refused, %d lost, %v, want %d and %d", s.say, got, len(lost), err, s.refused, s.lost)
		}
	}
	if _, got, err := d.apply(3, 2, []deed{{key: b, id: secrez.NewID(), sequence: 99}}); got != 0 || err != nil || d.keyed(b).id != z {
		t.Error("a message is applied twice")
	}
	if _, _, err := d.apply(100, 50, []deed{{key: b, id: secrez.NewID(), sequence: 99}}); !errors.Is(err, errGap) || d.keyed(b).id != z {
		t.Errorf("after a missing message: %v", err)
	}
	if e := d.keyed(a); e.id != y || e.since != 9 || !d.identified(x).retired {
		t.Errorf("a has %+v", e)
	}
	live, ids, applied := d.counts()
	if live != 2 || ids != 3 || applied != uint64(len(steps)) {
		t.Errorf("%d live, %d ids, %d applied", live, ids, applied)
	}
}

func TestTheDirectoryFollowsAChangeOfKeysOnce(t *testing.T) {
	a, b, c := identity(t, 1), identity(t, 2), identity(t, 3)
	x, y := secrez.NewID(), secrez.NewID()
	d := newDirectory()
	by := func(id secrez.ID, sequence uint64, from, to *keys.Identity) deed {
		return deed{key: to.Public().Array(), id: id, sequence: sequence, evidence: Evidence{Rotation: rotated(t, from, to)}}
	}
	steps := []struct {
		say     string
		deed    deed
		refused int
		lost    *keys.Identity // whose record holds no more
	}{
		{"a gets x", deed{key: a.Public().Array(), id: x, sequence: 3}, 0, nil},
		{"b takes it over with no higher sequence", by(x, 3, a, b), 1, nil},
		{"b takes another's id over", by(x, 4, c, b), 1, nil},
		{"b takes it over", by(x, 4, a, b), 0, a},
		{"b says it again", by(x, 4, a, b), 0, nil},
		{"a wants it back", deed{key: a.Public().Array(), id: x, sequence: 5}, 1, nil},
		{"a wants another", deed{key: a.Public().Array(), id: y, sequence: 5}, 1, nil},
		{"c takes it over from a", by(x, 5, a, c), 1, nil},
		{"b goes back to a", by(x, 6, b, a), 1, nil},
		{"c takes it over from b", by(x, 5, b, c), 0, b},
	}
	for i, s := range steps {
		lost, got, err := d.apply(uint64(i+1), uint64(i), []deed{s.deed})
		if got != s.refused || err != nil {
			t.Errorf("%s: %d refused, %v, want %d", s.say, got, err, s.refused)
		}
		if (len(lost) == 0) != (s.lost == nil) || len(lost) > 0 && (len(lost) > 1 || lost[0].id != x || lost[0].key != s.lost.Public().Array()) {
			t.Errorf("%s: lost %+v", s.say, lost)
		}
	}
	if e := d.identified(x); e.key != c.Public().Array() || d.keyed(a.Public().Array()) != nil || d.keyed(b.Public().Array()) != nil {
		t.Errorf("x is %+v", e)
	}
	if e := d.heir(a.Public().Array()); e == nil || e.key != c.Public().Array() {
		t.Errorf("the heir is %+v", e)
	}
}

func TestKeysOfBucketsSurviveTheirEncoding(t *testing.T) {
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	for _, key := range []string{"plain", "10.0.0.0/8", "fe80::/10", "@abc+/=.ed25519", "ü", ".", " ", string(all)} {
		encoded := encodeKey(key)
		if back, ok := decodeKey(encoded); !ok || back != key {
			t.Errorf("%q is %q is %q", key, encoded, back)
		}
		if bytes.ContainsAny([]byte(encoded), ". *>/") {
			t.Errorf("%q is no key for the engine", encoded)
		}
	}
	for _, bad := range []string{"=", "=1", "=zz", "a=4"} {
		if key, ok := decodeKey(bad); ok {
			t.Errorf("%q is %q", bad, key)
		}
	}
}
