package interop

import (
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/secretstack/secretstack/keys"
)

// ssbKeys is the object that ssb-keys gives.
type ssbKeys struct {
	Curve   string `json:"curve"`
	Public  string `json:"public"`
	Private string `json:"private"`
	ID      string `json:"id"`
}

// identity is the fixed identity of a name: its seed is sha256(name), as in js/lib/seeds.js.
func identity(t testing.TB, name string) *keys.Identity {
	t.Helper()
	seed := sha256.Sum256([]byte(name))
	id, err := keys.FromSeed(seed[:])
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func appKey(t testing.TB, name string) keys.AppKey {
	t.Helper()
	b := sha256.Sum256([]byte(name))
	k, err := keys.NewAppKey(b[:])
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// checkSameIdentity makes each side sign what the other verifies.
func checkSameIdentity(t *testing.T, n *node, id *keys.Identity, js ssbKeys) {
	t.Helper()
	if id.Public().String() != js.ID {
		t.Fatalf("Go reads %v, ssb-keys %s", id.Public(), js.ID)
	}
	message := []byte("signed by the two sides")
	var signature string
	n.do(t, "sign", map[string]any{"keys": js, "message": encode64(message)}, &signature)
	own := encode64(id.Sign(message)) + ".sig.ed25519"
	if signature != own {
		t.Errorf("signatures differ: ssb-keys %s, Go %s", signature, own)
	}
	var ok bool
	n.do(t, "verify", map[string]any{"id": id.Public().Ref(), "signature": own, "message": encode64(message)}, &ok)
	if !ok {
		t.Error("ssb-keys does not verify what Go signed")
	}
}

func TestGoLoadsTheSecretFileOfSSBKeys(t *testing.T) {
	n := startNode(t, "keys.js")
	file := filepath.Join(t.TempDir(), "of-js", "secret")
	var js ssbKeys
	n.do(t, "create", map[string]any{"file": file}, &js)
	id, err := keys.Load(file, keys.FileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	checkSameIdentity(t, n, id, js)
}

func TestSSBKeysLoadsTheSecretFileOfGo(t *testing.T) {
	n := startNode(t, "keys.js")
	file := filepath.Join(t.TempDir(), "of-go", "secret")
	id, err := keys.LoadOrCreate(file, keys.FileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, op := range []string{"load", "loadOrCreate"} {
		var js ssbKeys
		n.do(t, op, map[string]any{"file": file}, &js)
		checkSameIdentity(t, n, id, js)
	}
	again, err := keys.Load(file, keys.FileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if !again.Public().Equal(id.Public()) {
		t.Error("the file changed while ssb-keys used it")
	}
}

func TestSeedsGiveTheSameIdentityOnBothSides(t *testing.T) {
	n := startNode(t, "keys.js")
	for _, name := range []string{"alice", "bob", "carol"} {
		var js ssbKeys
		n.do(t, "generate", map[string]any{"name": name}, &js)
		checkSameIdentity(t, n, identity(t, name), js)
	}
}

// ssb-keys writes what it is asked to write wherever; Go must refuse the file
// once others can read it, although ssb-keys would not.
func TestGoRefusesASecretFileOfSSBKeysThatOthersCanRead(t *testing.T) {
	n := startNode(t, "keys.js")
	file := filepath.Join(t.TempDir(), "secret")
	n.do(t, "create", map[string]any{"file": file}, nil)
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := keys.Load(file, keys.FileOptions{}); !errors.Is(err, keys.ErrInsecureFile) {
		t.Fatalf("got %v, want ErrInsecureFile", err)
	}
}

func TestAPassphraseFileIsNotReadByAccident(t *testing.T) {
	n := startNode(t, "keys.js")
	file := filepath.Join(t.TempDir(), "secret")
	passphrase := keys.FileOptions{Passphrase: func() ([]byte, error) { return []byte("correct horse"), nil }}
	id, err := keys.LoadOrCreate(file, passphrase)
	if err != nil {
		t.Fatal(err)
	}
	var js ssbKeys
	err = n.try(t.Context(), "load", map[string]any{"file": file}, &js)
	if err == nil && decodesToSeed(js, id) {
		t.Error("ssb-keys got the secret out of a protected file")
	}
}

// decodesToSeed reports whether the private key starts with the seed.
func decodesToSeed(js ssbKeys, id *keys.Identity) bool {
	return strings.HasPrefix(js.Private, encode64(id.Seed())[:40])
}
