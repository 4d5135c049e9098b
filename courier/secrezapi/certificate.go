package secrezapi

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

const (
	caLife   = 30 * 365 * 24 * time.Hour
	leafLife = 820 * 24 * time.Hour // the longest that all clients take
	renewAt  = 60 * 24 * time.Hour  // before its end
)

// Certificates are what the local server shows: one for this machine's names, signed by an authority of its own, whose
// certificate Secrez's command line pins.
type Certificates struct {
	// Leaf is for localhost, 127.0.0.1 and ::1.
	Leaf tls.Certificate
	// CA is the authority's certificate, in PEM.
	CA string
}

// LoadCertificates reads the certificates in a folder, and makes them where there are none or the leaf ends soon. The
// authority stays the same.
func LoadCertificates(dir string, now time.Time) (Certificates, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return Certificates{}, err
	}
	ca, caKey, err := loadPair(dir, "ca")
	if errors.Is(err, fs.ErrNotExist) {
		ca, caKey, err = makeCA(dir, now)
	}
	if err != nil {
		return Certificates{}, fmt.Errorf("secrezapi: %w", err)
	}
	leaf, leafKey, err := loadPair(dir, "localhost")
	if errors.Is(err, fs.ErrNotExist) || err == nil && (now.After(leaf.NotAfter.Add(-renewAt)) || leaf.CheckSignatureFrom(ca) != nil) {
		leaf, leafKey, err = makeLeaf(dir, ca, caKey, now)
	}
	if err != nil {
		return Certificates{}, fmt.Errorf("secrezapi: %w", err)
	}
	return Certificates{
		Leaf: tls.Certificate{Certificate: [][]byte{leaf.Raw, ca.Raw}, PrivateKey: leafKey, Leaf: leaf},
		CA:   string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Raw})),
	}, nil
}

func makeCA(dir string, now time.Time) (*x509.Certificate, crypto.Signer, error) {
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "secretstack courier"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(caLife),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
		PermittedDNSDomainsCritical: true, PermittedDNSDomains: []string{"localhost"},
	}
	return makePair(dir, "ca", template, nil, nil)
}

func makeLeaf(dir string, ca *x509.Certificate, caKey crypto.Signer, now time.Time) (*x509.Certificate, crypto.Signer, error) {
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "localhost"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(leafLife),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}, BasicConstraintsValid: true,
	}
	return makePair(dir, "localhost", template, ca, caKey)
}

// makePair makes a certificate with a new key, signed by its parent or by itself, and writes both.
func makePair(dir, name string, template, parent *x509.Certificate, signer crypto.Signer) (*x509.Certificate, crypto.Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	if parent == nil {
		parent, signer = template, key
	}
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)); err != nil {
		return nil, nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		return nil, nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	// One file, so that a certificate never stands beside another one's key.
	text := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})...)
	temp := filepath.Join(dir, name+".tmp")
	if err := os.WriteFile(temp, text, 0o600); err != nil {
		return nil, nil, err
	}
	if err := os.Rename(temp, filepath.Join(dir, name+".pem")); err != nil {
		return nil, nil, err
	}
	return loadPair(dir, name)
}

func loadPair(dir, name string) (*x509.Certificate, crypto.Signer, error) {
	path := filepath.Join(dir, name+".pem")
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, err
	}
	pair, err := tls.X509KeyPair(text, text)
	if err != nil {
		return nil, nil, fmt.Errorf("%s is damaged; remove it and set the courier up in Secrez again: %w", path, err)
	}
	signer, ok := pair.PrivateKey.(crypto.Signer)
	if !ok {
		return nil, nil, fmt.Errorf("%s holds no key that can sign", path)
	}
	return pair.Leaf, signer, nil
}
