package main

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/big"
	"time"
)

// newTLSPair returns the settings of two ends that know each other's key, which is what the secret handshake gives:
// TLS 1.3, a certificate each, pinned, no authorities. Without curves, Go chooses the key agreement.
func newTLSPair(curves ...tls.CurveID) (client, server *tls.Config, err error) {
	clientCert, errClient := selfSigned()
	serverCert, errServer := selfSigned()
	if err := errors.Join(errClient, errServer); err != nil {
		return nil, nil, err
	}
	client, server = pinned(clientCert, serverCert, curves), pinned(serverCert, clientCert, curves)
	server.ClientAuth = tls.RequireAnyClientCert
	return client, server, nil
}

func pinned(own, remote tls.Certificate, curves []tls.CurveID) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		Certificates:           []tls.Certificate{own},
		CurvePreferences:       curves,
		SessionTicketsDisabled: true,
		InsecureSkipVerify:     true, // the key is compared instead of the chain
		VerifyConnection: func(state tls.ConnectionState) error {
			if len(state.PeerCertificates) != 1 || !bytes.Equal(state.PeerCertificates[0].Raw, remote.Certificate[0]) {
				return errors.New("not the certificate that was expected")
			}
			return nil
		},
	}
}

func selfSigned() (tls.Certificate, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, public, crypto.Signer(private))
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: private}, nil
}
