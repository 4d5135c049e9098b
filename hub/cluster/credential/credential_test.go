package credential_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/secretstack/secretstack/hub/cluster/credential"
	"github.com/secretstack/secretstack/keys"
)

func identity(t testing.TB) *keys.Identity {
	t.Helper()
	id, err := keys.Generate()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func fresh(t testing.TB, name string) *credential.Credential {
	t.Helper()
	c, err := credential.New(name, identity(t))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func appKey(t testing.TB, c *credential.Credential) keys.AppKey {
	t.Helper()
	key, err := c.AppKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestTheFileSaysWhatTheClusterBeginsWith(t *testing.T) {
	c := fresh(t, "eu")
	if c.Origin() != nil {
		t.Error("a new cluster does not begin empty")
	}
	origin := sha256.Sum256([]byte("what a single hub had"))
	c.BeginsWith(origin)
	path := filepath.Join(t.TempDir(), "cluster")
	if err := c.Save(path); err != nil {
		t.Fatal(err)
	}
	if got, err := credential.Load(path); err != nil || !bytes.Equal(got.Origin(), origin[:]) {
		t.Errorf("it is read as %x, %v", got.Origin(), err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	short := bytes.Replace(text, []byte(base64.StdEncoding.EncodeToString(origin[:])), []byte("AAAA"), 1)
	if _, err := credential.Parse(short); !errors.Is(err, credential.ErrFile) {
		t.Errorf("a sum of three bytes: %v", err)
	}
}

// shake tries a handshake between two nodes.
func shake(t *testing.T, server, client *tls.Config) (serverErr, clientErr error) {
	t.Helper()
	a, b := net.Pipe()
	done := make(chan error, 1)
	go func() {
		s := tls.Server(a, server)
		err := s.HandshakeContext(t.Context())
		_ = a.Close()
		done <- err
	}()
	c := tls.Client(b, client)
	clientErr = c.HandshakeContext(t.Context())
	if clientErr == nil {
		_, clientErr = c.Read(make([]byte, 1)) // in TLS 1.3 a client learns here that it was refused
	}
	_ = b.Close()
	return <-done, clientErr
}

func config(t *testing.T, c *credential.Credential) *tls.Config {
	t.Helper()
	cfg, err := c.TLS(identity(t), "node")
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func TestNodesOfAClusterTrustEachOther(t *testing.T) {
	c := fresh(t, "eu")
	path := filepath.Join(t.TempDir(), "sub", "cluster")
	if err := c.Save(path); err != nil {
		t.Fatal(err)
	}
	other, err := credential.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if other.Name() != "eu" || !other.Identity().Public().Equal(c.Identity().Public()) || !appKey(t, other).Equal(appKey(t, c)) {
		t.Error("the file does not hold what was saved")
	}
	if err, _ := shake(t, config(t, c), config(t, other)); err != nil {
		t.Errorf("two nodes: %v", err)
	}
	if err := c.Save(path); !errors.Is(err, os.ErrExist) {
		t.Errorf("saving over a file: %v", err)
	}
}

func TestStrangersAreNoNodes(t *testing.T) {
	c := fresh(t, "eu")
	bare := config(t, c)
	bare.Certificates = nil
	for name, client := range map[string]*tls.Config{
		"another cluster's": config(t, fresh(t, "eu")),
		"none":              bare,
	} {
		if err, _ := shake(t, config(t, c), client); err == nil {
			t.Errorf("a certificate that is %s is taken", name)
		}
	}
	if _, err := shake(t, config(t, fresh(t, "eu")), config(t, c)); err == nil {
		t.Error("a node trusts another cluster's")
	}
	if appKey(t, c).Equal(appKey(t, fresh(t, "eu"))) {
		t.Error("two clusters share a network")
	}
}

func TestSecretsAreNotPrinted(t *testing.T) {
	c := fresh(t, "eu")
	for _, text := range []string{fmt.Sprint(c), fmt.Sprintf("%+v %#v %s", c, c, *c)} {
		if strings.TrimSpace(strings.ReplaceAll(text, "cluster eu", "")) != "" {
			t.Errorf("it prints as %q", text)
		}
	}
}

func TestDamagedFilesAreRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cluster")
	c := fresh(t, "eu")
	if err := c.Save(path); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for n := range len(whole) - 2 {
		if _, err := credential.Parse(whole[:n]); !errors.Is(err, credential.ErrFile) {
			t.Fatalf("%d bytes of it are read: %v", n, err)
		}
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := credential.Load(path); !errors.Is(err, credential.ErrFile) {
		t.Errorf("a file that others can read: %v", err)
	}
	for _, name := range []string{"", "EU", "a.b", strings.Repeat("x", 64)} {
		if _, err := credential.New(name, identity(t)); err == nil {
			t.Errorf("the name %q is taken", name)
		}
	}
}

func FuzzParse(f *testing.F) {
	path := filepath.Join(f.TempDir(), "cluster")
	if err := fresh(f, "eu").Save(path); err != nil {
		f.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add([]byte(`{"version":1,"cluster":"eu"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := credential.Parse(b); err == nil && c.Identity().IsZero() {
			t.Error("a credential without an identity")
		}
	})
}
