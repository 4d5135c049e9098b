package registry

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"log/slog"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// logged is what has been logged.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// count tells how many lines have all these words.
func (l *logged) count(words ...string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.text.String()) {
		all := true
		for _, w := range words {
			all = all && strings.Contains(line, w)
		}
		if all {
			n++
		}
	}
	return n
}

// forged makes a chain of certificates in which the issuer has a name of the stranger's choice, and the signature is wrong: then
// that name is in the error of who verifies it.
func forged(t *testing.T, name string) tls.Certificate {
	t.Helper()
	sign := func(ca bool, signer ed25519.PrivateKey) ([]byte, ed25519.PrivateKey) {
		public, private, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if signer == nil {
			signer = private
		}
		template := &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour), IsCA: ca,
			BasicConstraintsValid: true, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		}
		parent := &x509.Certificate{Subject: pkix.Name{CommonName: name}}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, public, signer)
		if err != nil {
			t.Fatal(err)
		}
		return der, private
	}
	issuer, _ := sign(true, nil)
	_, somebody := sign(true, nil)
	leaf, key := sign(false, somebody)
	return tls.Certificate{Certificate: [][]byte{leaf, issuer}, PrivateKey: key}
}

// TestAStrangerAtTheEnginesPortHarmsNobody: what he says is not taken for the engine's own words, and does not fill the log.
func TestAStrangerAtTheEnginesPortHarmsNobody(t *testing.T) {
	ns := clusterOf(t, 3)
	var out logged
	ns.cfgs[0].Logger = slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
	ns.start(0, 1, 2)
	r, before := ns.all[0], out.count("level=ERROR")
	at := ns.cfgs[0].Cluster.Listen

	const words, each = "disabling JetStream", 20
	chain := forged(t, words)
	for range each {
		conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", at, &tls.Config{
			InsecureSkipVerify:   true,
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &chain, nil },
		})
		if err == nil { // with TLS 1.3 the server refuses it later
			_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
			_, _ = io.ReadAll(conn)
			_ = conn.Close()
		}
		raw, err := net.Dial("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(raw, "CONNECT {}\r\n")
		_ = raw.Close()
	}
	eventually(t, "all strangers are refused", func() bool { return out.count("handshake error") >= 2*each })
	if out.count("handshake error", words) == 0 {
		t.Error("the stranger's words are not in the log: this shows nothing")
	}
	persist(t, r, native(t, identity(t, 1)))
	if n, err := r.engine(); err != nil || n.alarm.rung() || out.count("the engine is restarted") > 0 {
		t.Errorf("a stranger has stopped the engine (%v)", err)
	}
	if n := out.count("level=ERROR") - before; n > 3 { // one of each kind, and what the former means
		t.Errorf("%d lines in the log for %d connections", n, 2*each)
	}
}
