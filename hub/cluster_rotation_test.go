package hub_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/hub"
	"github.com/secretstack/secretstack/hub/admission"
	"github.com/secretstack/secretstack/hub/native"
	"github.com/secretstack/secretstack/hub/registry/claim"
	"github.com/secretstack/secretstack/plugins/hubclient"
)

// TestWhatHappensToAnIDIsTrueAtEveryNode: what is asked for at one node ends what is connected to the others.
func TestWhatHappensToAnIDIsTrueAtEveryNode(t *testing.T) {
	nodes := startNodes(t, 3, func(cfg *hub.Config) {
		cfg.Limits.ReplacedGrace, cfg.Limits.NoticeTimeout = 50*time.Millisecond, 10*time.Second
	})
	a, b, c := nodes[0], nodes[1], nodes[2]
	guests := func(want int) {
		t.Helper()
		eventually(t, "the tunnel port", func() bool { return c.Status().Pools == want })
	}
	old := newCourier(t, "old", b, hubclient.Config{Handler: says("old")})
	before := old.online(t)
	eventually(t, "a node knows the courier of another as one of Secrez", func() bool {
		status, g := register(t, c, "old", nil)
		return status == http.StatusOK && g.ID == before.ID
	})
	guests(1)

	after := newCourier(t, "new", a, changed(t, "old", "new")).online(t)
	if after.ID != before.ID {
		t.Fatalf("it was %s and is %s", before.ID, after.ID)
	}
	s := old.await(t, "put out", func(s hubclient.Status) bool { return native.CodeOf(s.Err) == native.GivenUp })
	if s.Online {
		t.Error("the old key is still there")
	}
	guests(0)
	asks := map[*running]*secretstack.Peer{}
	for _, n := range nodes {
		asks[n] = connect(t, peer(t, "asks "+n.addr), n.address())
		eventually(t, "whoever asks for the old key is told so, and the id leads to the new one", func() bool {
			_, err := call[native.Connected](t, asks[n], native.MethodConnect, native.ConnectRequest{Key: old.key()})
			if native.CodeOf(err) != native.GivenUp {
				return false
			}
			who, err := call[native.Who](t, asks[n], native.MethodWhois, native.WhoisRequest{ID: before.ID})
			return err == nil && who.Online && who.Key.Equal(identity(t, "new").Public())
		})
	}

	// A courier that takes another id has it at every node.
	if status, g := register(t, c, "new", nil); status != http.StatusOK || g.ID != before.ID {
		t.Fatalf("%d, %v", status, g.ID)
	}
	guests(1)
	again := connect(t, peer(t, "new"), a.address())
	reset := signed(t, identity(t, "new"), claim.Statement{Hub: a.About().Key, Action: claim.Reset, ID: after.ID, Sequence: after.Sequence + 1})
	if answer, err := call[native.Published](t, again, native.MethodReset, native.ResetRequest{Signed: reset}); err != nil || answer.ID == after.ID {
		t.Fatalf("%v, %v", answer.ID, err)
	}
	guests(0)
	eventually(t, "the id is nobody's", func() bool {
		_, err := call[native.Who](t, asks[c], native.MethodWhois, native.WhoisRequest{ID: after.ID})
		return native.CodeOf(err) == native.Unknown
	})

	// A key may be at two nodes. It is at none once it is denied at one.
	here, there := newCourier(t, "twice", b, hubclient.Config{}), newCourier(t, "twice", c, hubclient.Config{})
	if one, other := here.online(t), there.online(t); one.ID != other.ID {
		t.Fatalf("it is %v here and %v there", one.ID, other.ID)
	}
	deny := admission.Rule{Subject: admission.KeySubject(here.key()), Effect: admission.Deny}
	if err := a.Admission().SetRule(t.Context(), deny); err != nil {
		t.Fatal(err)
	}
	for _, one := range []*courier{here, there} {
		one.await(t, "turned away", func(s hubclient.Status) bool { return !s.Online && s.Err != nil })
	}
}
