// Package credential is what makes a machine a node of a hub's cluster: a file that the operator makes once and gives to every
// node. It holds the cluster's name, its secret and the hub's identity, which all nodes share; whoever has it is the hub.
//
//	c, err := credential.New("eu", identity)
//	err = c.Save("cluster")             // on the first node; the same file is given to the others
//	c, err = credential.Load("cluster") // on each
//	config, err := c.TLS(node, "hub-1") // for the connections of the storage engine
//	appKey, err := c.AppKey()           // for those of the nodes' own
//
// From the secret every node derives the same authority, which no machine stores, and signs a certificate for its own key
// with it. Two nodes trust that authority and nothing else, whatever the clock says. See docs/PROTOCOL.md §15.
package credential

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/secretstack/secretstack/keys"
)

const (
	version    = 1
	secretSize = 32
	maxName    = 63
	maxFile    = 16 << 10

	serverName     = "node.secretstack.internal" // of every node's certificate
	authorityLabel = "secretstack cluster authority v1"
	appKeyLabel    = "secretstack cluster links v1"
)

// ErrFile says that a file is no credential, or one that others can read.
var ErrFile = errors.New("credential: not a sound cluster file")

// Credential makes a node one of a cluster. It is never printed.
type Credential struct {
	name     string
	secret   [secretSize]byte
	identity *keys.Identity
	origin   []byte
}

// file is how a credential is stored.
type file struct {
	Version  int            `json:"version"`
	Cluster  string         `json:"cluster"`
	Secret   []byte         `json:"secret"`
	Seed     []byte         `json:"seed"` // of the hub's identity
	Identity keys.PublicKey `json:"identity"`
	Origin   []byte         `json:"origin,omitempty"`
}

// New makes the credential of a new cluster, which begins empty: the name has 1 to 63 of a to z, 0 to 9 and "-", the identity is
// the hub's.
func New(name string, hub *keys.Identity) (*Credential, error) {
	if len(name) == 0 || len(name) > maxName || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return nil, fmt.Errorf("credential: a cluster's name has 1 to %d of a to z, 0 to 9 and \"-\", not %q", maxName, name)
	}
	if hub.IsZero() {
		return nil, errors.New("credential: no identity given")
	}
	c := &Credential{name: name, identity: hub}
	_, _ = rand.Read(c.secret[:]) // it never fails
	return c, nil
}

// BeginsWith says what the cluster begins with: the SHA-256 of what a single hub had (registry.MakeOrigin).
func (c *Credential) BeginsWith(origin [sha256.Size]byte) { c.origin = origin[:] }

// Origin is what BeginsWith was told; nil if the cluster begins empty.
func (c *Credential) Origin() []byte { return bytes.Clone(c.origin) }

// Name is the cluster's.
func (c *Credential) Name() string { return c.name }

// Identity is the hub's.
func (c *Credential) Identity() *keys.Identity { return c.identity }

// String hides the secret, in all formats.
func (c Credential) String() string { return "cluster " + c.name }

// Format hides the secret.
func (c Credential) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, c.String()) }

// Save writes a file that only its owner can read. It never replaces one.
func (c *Credential) Save(path string) error {
	b, err := json.MarshalIndent(file{
		Version: version, Cluster: c.name, Secret: c.secret[:], Seed: c.identity.Seed(), Identity: c.identity.Public(),
		Origin: c.origin,
	}, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(b, '\n'))
	return errors.Join(err, f.Sync(), f.Close())
}

// Load reads what Save has written. Its error is [ErrFile], or why the file cannot be read.
func Load(path string) (*Credential, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 && !handedOver(info) {
		return nil, fmt.Errorf("%w: others can read %s: chmod 600 it", ErrFile, path)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil {
		return nil, err
	}
	c, err := Parse(b)
	if err != nil {
		return nil, fmt.Errorf("%w (%s)", err, path)
	}
	return c, nil
}

// Parse reads the contents of a file. Its error is [ErrFile].
func Parse(b []byte) (*Credential, error) {
	var f file
	if err := json.Unmarshal(b, &f); err != nil {
		return nil, fmt.Errorf("%w: it is not JSON of this kind", ErrFile)
	}
	if f.Version != version {
		return nil, fmt.Errorf("%w: it is of version %d, and this program knows %d", ErrFile, f.Version, version)
	}
	id, err := keys.FromSeed(f.Seed)
	if err != nil || !id.Public().Equal(f.Identity) || len(f.Secret) != secretSize || len(f.Origin) != 0 && len(f.Origin) != sha256.Size {
		return nil, fmt.Errorf("%w: its keys are damaged", ErrFile)
	}
	c, err := New(f.Cluster, id)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFile, err)
	}
	c.secret, c.origin = [secretSize]byte(f.Secret), f.Origin
	return c, nil
}

// derive makes a key from the secret for one purpose. The name takes part, so that two clusters never share one.
func (c *Credential) derive(label string) ([]byte, error) {
	key, err := hkdf.Key(sha256.New, c.secret[:], nil, label+"\x00"+c.name, sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("credential: derive a key: %w", err)
	}
	return key, nil
}

// AppKey is the network of the nodes' own connections. Whoever does not have the credential cannot say a word on it.
func (c *Credential) AppKey() (keys.AppKey, error) {
	key, err := c.derive(appKeyLabel)
	if err != nil {
		return keys.AppKey{}, err
	}
	return keys.NewAppKey(key)
}

// TLS says how a node with a key and a name proves itself to the others, and they to it. TLS 1.3 with certificates on both
// sides; the authority derived from the secret is the only one that counts.
func (c *Credential) TLS(node *keys.Identity, name string) (*tls.Config, error) {
	seed, err := c.derive(authorityLabel)
	if err != nil {
		return nil, err
	}
	authority := ed25519.NewKeyFromSeed(seed)
	root, err := c.authority(authority)
	if err != nil {
		return nil, err
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2),
		Subject:      pkix.Name{CommonName: name, Organization: []string{c.name}},
		DNSNames:     []string{serverName},
		NotBefore:    root.NotBefore, NotAfter: root.NotAfter,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	public := ed25519.PublicKey(node.Public().Bytes())
	der, err := x509.CreateCertificate(rand.Reader, leaf, root, public, authority)
	if err != nil {
		return nil, fmt.Errorf("credential: make a certificate: %w", err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(root)
	return &tls.Config{
		MinVersion: tls.VersionTLS13, ServerName: serverName,
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: signer{node, public}}},
		RootCAs:      pool, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert,
		SessionTicketsDisabled: true,
	}, nil
}

// authority makes the certificate that all nodes trust. Its dates are those of no clock: a machine whose clock is wrong is
// still a node.
func (c *Credential) authority(key ed25519.PrivateKey) (*x509.Certificate, error) {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "secretstack cluster", Organization: []string{c.name}},
		NotBefore:    time.Date(1970, 1, 2, 0, 0, 0, 0, time.UTC),
		NotAfter:     time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC),
		IsCA:         true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("credential: make the authority: %w", err)
	}
	return x509.ParseCertificate(der)
}

// signer is an identity as the key of a certificate.
type signer struct {
	id     *keys.Identity
	public ed25519.PublicKey
}

// Public gives the public key.
func (s signer) Public() crypto.PublicKey { return s.public }

// Sign signs a message that is not hashed.
func (s signer) Sign(_ io.Reader, message []byte, opts crypto.SignerOpts) ([]byte, error) {
	if opts.HashFunc() != 0 {
		return nil, errors.New("credential: ed25519 signs messages, not hashes")
	}
	return s.id.Sign(message), nil
}
