package cert

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/mholt/acmez/v3/acme"
)

// store is the folder with the account and the certificates, each in one file, so that a key never lies beside another's
// certificate.
type store struct{ folder string }

func openStore(folder string) (store, error) {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return store{}, fmt.Errorf("cert: %w", err)
	}
	if err := os.Chmod(folder, 0o700); err != nil {
		return store{}, fmt.Errorf("cert: %w", err)
	}
	return store{folder}, nil
}

// newKey makes a private key.
func newKey() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

func keyPEM(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// account is what is kept of an account.
type account struct {
	Directory string `json:"directory"`
	Location  string `json:"location"`
	Key       string `json:"key"` // PKCS #8, PEM
}

// accountFile is one for each authority.
func accountFile(directory string) string {
	sum := sha256.Sum256([]byte(directory))
	return "account-" + hex.EncodeToString(sum[:6]) + ".json"
}

// account returns the account at an authority, fs.ErrNotExist when there is none.
func (s store) account(directory string) (acme.Account, error) {
	name := filepath.Join(s.folder, accountFile(directory))
	text, err := os.ReadFile(name)
	if err != nil {
		return acme.Account{}, err
	}
	var kept account
	if err := json.Unmarshal(text, &kept); err != nil {
		return acme.Account{}, fmt.Errorf("%s: %w", name, err)
	}
	block, _ := pem.Decode([]byte(kept.Key))
	if block == nil {
		return acme.Account{}, fmt.Errorf("%s: it has no key", name)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return acme.Account{}, fmt.Errorf("%s: %w", name, err)
	}
	key, ok := parsed.(crypto.Signer)
	if !ok || kept.Directory != directory || kept.Location == "" {
		return acme.Account{}, fmt.Errorf("%s: not an account at %s", name, directory)
	}
	return acme.Account{Status: acme.StatusValid, Location: kept.Location, PrivateKey: key}, nil
}

func (s store) saveAccount(directory string, a acme.Account) error {
	key, err := keyPEM(a.PrivateKey)
	if err != nil {
		return err
	}
	text, err := json.MarshalIndent(account{Directory: directory, Location: a.Location, Key: string(key)}, "", "  ")
	if err != nil {
		return err
	}
	return s.write(accountFile(directory), append(text, '\n'))
}

// forgetAccount keeps an account that the authority does not know out of the way.
func (s store) forgetAccount(directory string) error {
	name := filepath.Join(s.folder, accountFile(directory))
	return os.Rename(name, name+".unknown")
}

// certFile is the file of the certificate whose first name is given. No host's name begins with an underscore.
func certFile(name string) string {
	if below, wildcard := strings.CutPrefix(name, "*."); wildcard {
		return "_." + below + ".pem"
	}
	return name + ".pem"
}

// certificate returns a certificate, and when it was saved; nil when there is none.
func (s store) certificate(name string) (*tls.Certificate, time.Time, error) {
	file := filepath.Join(s.folder, certFile(name))
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, time.Time{}, nil
	}
	if err != nil {
		return nil, time.Time{}, err
	}
	info, err := os.Stat(file)
	if err != nil {
		return nil, time.Time{}, err
	}
	c, err := parse(text, text)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("%s: %w", file, err)
	}
	return c, info.ModTime(), nil
}

// saveCertificate saves a key and the chain of certificates for it.
func (s store) saveCertificate(name string, key crypto.Signer, chain []byte) error {
	text, err := keyPEM(key)
	if err != nil {
		return err
	}
	return s.write(certFile(name), append(text, chain...))
}

// writable returns an error when nothing could be saved.
func (s store) writable() error {
	const probe = ".probe"
	if err := s.write(probe, make([]byte, 16<<10)); err != nil {
		return err
	}
	return os.Remove(filepath.Join(s.folder, probe))
}

// write replaces a file as a whole, or not at all.
func (s store) write(name string, data []byte) error {
	f, err := os.CreateTemp(s.folder, ".new-*") // 0600
	if err != nil {
		return err
	}
	_, err = bytes.NewReader(data).WriteTo(f)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(s.folder, name))
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return syncFolder(s.folder)
}

// syncFolder makes a new name last. Windows knows no such thing.
func syncFolder(folder string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(folder)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
