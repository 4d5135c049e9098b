package cert

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"strings"
	"sync"

	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"
)

// Challenge is a way in which an authority checks that a domain is ours.
type Challenge string

// The challenges.
const (
	TLSALPN01 Challenge = acme.ChallengeTypeTLSALPN01 // a handshake on port 443 of the domain, whose TLS is ours
	HTTP01    Challenge = acme.ChallengeTypeHTTP01    // a request to port 80 of the domain, see [Automatic.HTTPHandler]
	DNS01     Challenge = acme.ChallengeTypeDNS01     // a question to the [Responder]
)

// challenges are those that wait for the authority to come. They solve TLS-ALPN-01 and HTTP-01.
type challenges struct {
	mu     sync.Mutex
	certs  map[string]*tls.Certificate // by domain
	tokens map[string]string           // what to answer, by domain and path
}

// alpnSolver and httpSolver are the two sides of challenges that acmez sees.
type (
	alpnSolver struct{ *challenges }
	httpSolver struct{ *challenges }
)

var _, _ acmez.Solver = alpnSolver{}, httpSolver{}

func (s alpnSolver) Present(_ context.Context, c acme.Challenge) error {
	made, err := acmez.TLSALPN01ChallengeCert(c)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.certs == nil {
		s.certs = map[string]*tls.Certificate{}
	}
	s.certs[c.Identifier.Value] = made
	return nil
}

func (s alpnSolver) CleanUp(_ context.Context, c acme.Challenge) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.certs, c.Identifier.Value)
	return nil
}

func (s httpSolver) Present(_ context.Context, c acme.Challenge) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tokens == nil {
		s.tokens = map[string]string{}
	}
	s.tokens[c.Identifier.Value+c.HTTP01ResourcePath()] = c.KeyAuthorization
	return nil
}

func (s httpSolver) CleanUp(_ context.Context, c acme.Challenge) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.tokens, c.Identifier.Value+c.HTTP01ResourcePath())
	return nil
}

// asks reports whether it is an authority that says hello, to see the certificate of a challenge.
func asks(hello *tls.ClientHelloInfo) bool {
	return len(hello.SupportedProtos) == 1 && hello.SupportedProtos[0] == acmez.ACMETLS1Protocol
}

// certificate returns the one for a challenge, nil when there is none.
func (s *challenges) certificate(name string) *tls.Certificate {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.certs[strings.ToLower(name)]
}

// answer returns what an authority wants to read.
func (s *challenges) answer(r *http.Request) (string, bool) {
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	answer, ok := s.tokens[strings.ToLower(host)+r.URL.Path]
	return answer, ok
}
