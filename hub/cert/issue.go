package cert

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"

	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"
)

// issue gets a certificate from the authority, and saves it. replaces is the one that it follows, which the authority
// knows, or nil. With a certificate, an error says that it could not be saved.
func (a *Automatic) issue(ctx context.Context, s *subject, replaces *x509.Certificate) (*tls.Certificate, error) {
	c, err := a.order(ctx, s, replaces)
	problem, ok := errors.AsType[acme.Problem](err)
	if ok && problem.Type == acme.ProblemTypeAccountDoesNotExist {
		if err := a.store.forgetAccount(a.opts.Directory); err != nil {
			return nil, err
		}
		return a.order(ctx, s, replaces)
	}
	return c, err
}

func (a *Automatic) order(ctx context.Context, s *subject, replaces *x509.Certificate) (*tls.Certificate, error) {
	if err := a.store.writable(); err != nil {
		return nil, err // authorities count what they issue
	}
	account, err := a.account(ctx)
	if err != nil {
		return nil, err
	}
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	request, err := acmez.NewCSR(key, []string{s.name})
	if err != nil {
		return nil, err
	}
	order, err := acmez.OrderParametersFromCSR(account, request)
	if err != nil {
		return nil, err
	}
	order.Replaces = replaces
	client := acmez.Client{Client: a.client(), ChallengeSolvers: s.solvers}
	chains, err := client.ObtainCertificate(ctx, order)
	if err != nil {
		return nil, err
	}
	if len(chains) == 0 {
		return nil, errors.New("the authority sent no certificate")
	}
	text, err := keyPEM(key)
	if err != nil {
		return nil, err
	}
	c, err := parse(chains[0].ChainPEM, text)
	if err != nil {
		return nil, fmt.Errorf("what the authority sent: %w", err)
	}
	if err := covers(c, []string{s.example()}); err != nil {
		return nil, fmt.Errorf("what the authority sent: %w", err)
	}
	return c, a.store.saveCertificate(s.name, key, chains[0].ChainPEM)
}

// client returns a client, which is made anew each time because it keeps what it once heard of the authority.
func (a *Automatic) client() *acme.Client {
	return &acme.Client{Directory: a.opts.Directory, HTTPClient: a.http, UserAgent: "secretstack-hub", PollTimeout: issueTimeout}
}

// account returns our account at the authority. The first time it makes one.
func (a *Automatic) account(ctx context.Context) (acme.Account, error) {
	known, err := a.store.account(a.opts.Directory)
	if !errors.Is(err, fs.ErrNotExist) {
		return known, err
	}
	key, err := newKey()
	if err != nil {
		return acme.Account{}, err
	}
	wanted := acme.Account{TermsOfServiceAgreed: true, PrivateKey: key}
	if a.opts.Email != "" {
		wanted.Contact = []string{"mailto:" + a.opts.Email}
	}
	client := a.client()
	if a.opts.KeyID != "" {
		binding := acme.EAB{KeyID: a.opts.KeyID, MACKey: a.opts.MACKey}
		if err := wanted.SetExternalAccountBinding(ctx, client, binding); err != nil {
			return acme.Account{}, fmt.Errorf("the external account: %w", err)
		}
	}
	made, err := client.NewAccount(ctx, wanted)
	if err != nil {
		return acme.Account{}, fmt.Errorf("making an account: %w", err)
	}
	a.opts.Logger.Info("account made at the certificate authority", "directory", a.opts.Directory)
	return made, a.store.saveAccount(a.opts.Directory, made)
}
