package native

import (
	"bytes"
	"encoding/json"
	"slices"
	"testing"

	"github.com/secretstack/secretstack/keys"
)

func TestTheDigestOfAListDependsOnWhatItSaysAlone(t *testing.T) {
	var ks []keys.PublicKey
	for i := range 3 {
		k, err := keys.NewPublicKey(bytes.Repeat([]byte{byte(i + 1)}, keys.PublicKeySize))
		if err != nil {
			t.Fatal(err)
		}
		ks = append(ks, k)
	}
	hash := bytes.Repeat([]byte{9}, tokenHashSize)
	base := AllowRequest{Keys: ks, Tokens: [][]byte{hash}}
	same := AllowRequest{Keys: []keys.PublicKey{ks[2], ks[0], ks[1], ks[0]}, Tokens: [][]byte{hash, hash}}
	if !bytes.Equal(base.Digest(), same.Digest()) {
		t.Error("the order counts")
	}
	seen := [][]byte{base.Digest()}
	for what, other := range map[string]AllowRequest{
		"strangers": {Keys: ks, Tokens: [][]byte{hash}, Strangers: true},
		"fewer":     {Keys: ks[:2], Tokens: [][]byte{hash}},
		"none":      {},
		"a token":   {Keys: ks},
		"exchanged": {Tokens: [][]byte{ks[0].Bytes(), ks[1].Bytes(), ks[2].Bytes()}, Keys: []keys.PublicKey{mustKey(t, hash)}},
	} {
		d := other.Digest()
		if slices.ContainsFunc(seen, func(s []byte) bool { return bytes.Equal(s, d) }) {
			t.Errorf("%s: the digest is another list's", what)
		}
		seen = append(seen, d)
	}
}

func mustKey(t *testing.T, b []byte) keys.PublicKey {
	t.Helper()
	k, err := keys.NewPublicKey(b)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// What a peer sends as the argument of a method of mailboxes.
func FuzzMailboxRequests(f *testing.F) {
	key := "@" + "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=" + ".ed25519"
	f.Add([]byte(`{"recipient":"` + key + `","envelope":"AAAA","token":"AAAA"}`))
	f.Add([]byte(`{"keys":["` + key + `","` + key + `"],"tokens":["AAAA",null],"strangers":true}`))
	f.Add([]byte(`{"ids":["","AAAAAAAAAAAAAAAAAAAAAA"]}`))
	f.Add([]byte(`{"live":true}`))
	f.Add([]byte(`{"keys":[null],"close":1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var d DepositRequest
		_ = json.Unmarshal(b, &d)
		var m MailboxRequest
		_ = json.Unmarshal(b, &m)
		var k AcknowledgeRequest
		_ = json.Unmarshal(b, &k)
		var a AllowRequest
		if json.Unmarshal(b, &a) != nil {
			return
		}
		again, err := json.Marshal(a)
		if err != nil {
			t.Fatal(err)
		}
		var other AllowRequest
		if err := json.Unmarshal(again, &other); err != nil || !bytes.Equal(other.Digest(), a.Digest()) {
			t.Errorf("%s becomes %s: %v", b, again, err)
		}
	})
}
