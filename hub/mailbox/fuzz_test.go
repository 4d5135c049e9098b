package mailbox

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/secretstack/secretstack/keys"
)

func FuzzStoredPolicy(f *testing.F) {
	m := &Mailboxes{limits: Limits{}.withDefaults()}
	k := key(f, "alice")
	for _, p := range []Policy{{}, {Strangers: true, Digest: []byte("x")}, friends(f, "a", "b", "c")} {
		stored, err := m.encode(p)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(stored)
	}
	f.Add([]byte{policyVersion, 0, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := parsePolicy(b)
		if err != nil {
			return
		}
		p.has(m.tag(keyTag, k.Bytes()))
		if len(p.digest) > 255 || len(p.tags)%len(tag{}) != 0 {
			t.Errorf("%+v", p)
		}
	})
}

func FuzzID(f *testing.F) {
	m := opened(f, Limits{})
	alice := key(f, "alice")
	allow(f, m, alice, friends(f, "bob"))
	deposit(f, m, key(f, "bob"), alice, 1, 1024)
	valid := waiting(f, m, alice)[0].ID
	f.Add(valid.String())
	f.Add("")
	f.Add("AAAAAAAAAAAAAAAAAAAAAA")
	f.Add("AAAAAAAAAAAAAAAAAAAAAB") // not the way to write it
	f.Add("0000000\n00000000000000A")
	f.Fuzz(func(t *testing.T, s string) {
		id, ok := ParseID(s)
		if !ok || id == valid {
			return
		}
		if id.String() != s {
			t.Errorf("%q becomes %q", s, id)
		}
		if err := m.Acknowledge(t.Context(), alice, id); err != nil {
			t.Error(err)
		}
		if len(waiting(t, m, alice)) != 1 {
			t.Errorf("%q has deleted something", s)
		}
	})
}

func FuzzStoredMessage(f *testing.F) {
	f.Add(seal(time.UnixMilli(1), []byte("x")))
	f.Add([]byte{messageVersion})
	f.Add([]byte{2, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		at, envelope, ok := unseal(b)
		if ok && !bytes.Equal(seal(at, envelope), b) {
			t.Errorf("%x becomes %x", b, seal(at, envelope))
		}
	})
}

func FuzzNews(f *testing.F) {
	m := &Mailboxes{cfg: Config{Arrived: func(keys.PublicKey) {}}, node: "here", books: newBooks()}
	for _, n := range []news{
		{Node: "there", Box: key(f, "alice"), Sender: make([]byte, 16), Size: 1024},
		{Node: "there", Box: key(f, "alice"), Sender: make([]byte, 16), Size: 1024, Request: true, Removed: true},
		{Node: "here", Box: key(f, "alice"), Sender: make([]byte, 15)},
	} {
		b, err := json.Marshal(n)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m.hear(&nats.Msg{Data: b})
		for k, total := range m.books.totals {
			if total.Count < 0 || total.Bytes < 0 || total.Count == 0 && total.Bytes != 0 {
				t.Errorf("of kind %d there are %+v", k, total)
			}
		}
	})
}
