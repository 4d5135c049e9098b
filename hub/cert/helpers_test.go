package cert

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// made is a certificate of our own making.
type made struct {
	serial    int64
	cert, key []byte // PEM
}

func makeCert(t *testing.T, serial int64, from, to time.Duration, names ...string) made {
	t.Helper()
	key, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: names[0]}, DNSNames: names,
		NotBefore: time.Now().Add(from), NotAfter: time.Now().Add(to),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	text, err := keyPEM(key)
	if err != nil {
		t.Fatal(err)
	}
	return made{serial, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), text}
}

// current makes a certificate that is valid now.
func current(t *testing.T, serial int64, names ...string) made {
	t.Helper()
	return makeCert(t, serial, -time.Hour, time.Hour, names...)
}

// pairIn names two files in a folder.
func pairIn(folder string) Pair {
	return Pair{Cert: filepath.Join(folder, "cert.pem"), Key: filepath.Join(folder, "key.pem")}
}

// save writes both files, so that they have certainly changed.
func (m made) save(t *testing.T, p Pair) {
	t.Helper()
	for name, text := range map[string][]byte{p.Cert: m.cert, p.Key: m.key} {
		if err := os.WriteFile(name, text, 0o600); err != nil {
			t.Fatal(err)
		}
		at := time.Unix(m.serial, 0)
		if err := os.Chtimes(name, at, at); err != nil {
			t.Fatal(err)
		}
	}
}

// hello is what a client says that wants to see a host's certificate.
func hello(host string, protocols ...string) *tls.ClientHelloInfo {
	return &tls.ClientHelloInfo{
		ServerName: host, SupportedProtos: protocols, SupportedVersions: []uint16{tls.VersionTLS13},
		SignatureSchemes: []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256}, SupportedCurves: []tls.CurveID{tls.CurveP256},
	}
}

type getter interface {
	GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error)
}

func wantSerial(t *testing.T, g getter, host string, want int64) {
	t.Helper()
	c, err := g.GetCertificate(hello(host))
	switch {
	case err != nil:
		t.Errorf("%q: %v", host, err)
	case c == nil && want != 0:
		t.Errorf("%q: no certificate", host)
	case c != nil && c.Leaf.SerialNumber.Int64() != want:
		t.Errorf("%q: certificate %d, want %d", host, c.Leaf.SerialNumber, want)
	}
}
