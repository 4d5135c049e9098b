package cert

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"
)

// Status says how one certificate is doing.
type Status struct {
	Names    []string  // for which it is
	NotAfter time.Time // when it expires; zero while there is none
	Err      error     // why the latest attempt to get or to load a newer one failed; nil when it did not
}

// parse makes a certificate of PEM text and checks that the key belongs to it.
func parse(certPEM, keyPEM []byte) (*tls.Certificate, error) {
	c, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, err
	}
	if c.Leaf == nil {
		if c.Leaf, err = x509.ParseCertificate(c.Certificate[0]); err != nil {
			return nil, err
		}
	}
	return &c, nil
}

// valid reports whether the certificate is valid at a time.
func valid(c *tls.Certificate, at time.Time) bool {
	return !at.Before(c.Leaf.NotBefore) && !at.After(c.Leaf.NotAfter)
}

// covers returns an error unless the certificate is for all the names.
func covers(c *tls.Certificate, names []string) error {
	for _, name := range names {
		if err := c.Leaf.VerifyHostname(name); err != nil {
			return err
		}
	}
	return nil
}

// errNone is what [Status] says before the first certificate has come.
var errNone = errors.New("cert: there is no certificate yet")

// timeLeft describes how long a certificate is valid.
func timeLeft(c *tls.Certificate, now time.Time) string {
	left := c.Leaf.NotAfter.Sub(now).Round(time.Minute)
	if left < 0 {
		return fmt.Sprintf("expired %s ago", -left)
	}
	return fmt.Sprintf("valid for %s", left)
}
