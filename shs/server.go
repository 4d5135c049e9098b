package shs

import (
	"crypto/ecdh"
	"crypto/sha256"
	"io"

	"github.com/secretstack/secretstack/keys"
)

// ServerState is the server's side of a handshake on bytes. The steps are
// ReadChallenge, Challenge, ReadHello and Accept, in this order; after a failure
// nothing more may be sent. It is for one goroutine and one handshake.
type ServerState struct {
	state
	client          keys.PublicKey
	clientEphemeral *ecdh.PublicKey
	hello           [helloPlain]byte
}

// NewServerState begins a handshake with a client yet unknown. It fails only if
// cfg lacks something or cfg.Rand fails.
func NewServerState(cfg Config) (*ServerState, error) {
	s := &ServerState{}
	if err := s.init(cfg); err != nil {
		return nil, err
	}
	return s, nil
}

// ReadChallenge checks message 1. See docs/PROTOCOL.md §1.
func (s *ServerState) ReadChallenge(msg []byte) error {
	if s.step != stepStart {
		return errStep
	}
	ephemeral, ok := s.readChallenge(msg)
	if !ok || !agree(&s.ab, s.ephemeral, ephemeral) {
		return s.fail(textServerBadChallenge, ErrAppKey)
	}
	private, err := s.identity.X25519()
	if err != nil || !agree(&s.aB, private, ephemeral) {
		return s.fail(textServerBadChallenge, ErrAppKey)
	}
	s.clientEphemeral = ephemeral
	s.abHash = sha256.Sum256(s.ab[:])
	s.step = stepAnswer
	return nil
}

// Challenge returns message 2, of [ChallengeSize] bytes.
func (s *ServerState) Challenge() ([]byte, error) {
	if s.step != stepAnswer {
		return nil, errStep
	}
	s.step = stepChallenge
	return append([]byte(nil), s.local[:]...), nil
}

// ReadHello checks message 3 and returns the client's key, which is proven then.
func (s *ServerState) ReadHello(msg []byte) (keys.PublicKey, error) {
	if s.step != stepChallenge {
		return keys.PublicKey{}, errStep
	}
	if !s.openHello(msg) {
		s.forget(stepFailed)
		return keys.PublicKey{}, fail(textServerBadHello, ErrServerKey)
	}
	s.step = stepHello
	return s.client, nil
}

// openHello opens message 3 and checks the client's proof.
func (s *ServerState) openHello(msg []byte) bool {
	key := s.helloKey()
	defer clear(key[:])
	if len(msg) != HelloSize || !openBox(s.hello[:], msg, &key) {
		return false
	}
	client, err := keys.NewPublicKey(s.hello[signatureSize:])
	if err != nil {
		return false
	}
	signed := s.clientSigned(s.identity.Public())
	if !client.Verify(signed[:], s.hello[:signatureSize]) {
		return false
	}
	clientKey, err := client.X25519()
	if err != nil || !agree(&s.Ab, s.ephemeral, clientKey) {
		return false
	}
	s.client = client
	return true
}

// Accept returns message 4, of [AcceptSize] bytes, and the session. Call it only
// if the client is welcome.
func (s *ServerState) Accept() ([]byte, *Session, error) {
	if s.step != stepHello {
		return nil, nil, errStep
	}
	signed := s.serverSigned(&s.hello)
	key := s.acceptKey()
	defer clear(key[:])
	msg := make([]byte, AcceptSize)
	sealBox(msg, s.identity.Sign(signed[:]), &key)
	session := s.session(s.client)
	s.forget(stepDone)
	return msg, session, nil
}

// fail ends the handshake.
func (s *ServerState) fail(text string, reason error) error {
	s.forget(stepFailed)
	return fail(text, reason)
}

// Server runs the server's side of a handshake over rw. When the client has
// proved its key, authorize decides: it may take its time, and if it returns an
// error the client is refused and Server returns that error as it is.
// [ErrNotAuthorized] gives the protocol's own text. If authorize is nil, every
// client is welcome.
//
// Other errors are those of docs/PROTOCOL.md §1, as [*Error]. After an error close
// rw: nothing is said to the other side.
func Server(rw io.ReadWriter, cfg Config, authorize func(keys.PublicKey) error) (*Session, error) {
	s, err := NewServerState(cfg)
	if err != nil {
		return nil, err
	}
	defer s.forget(stepDone)
	var buf [HelloSize]byte
	if n, err := io.ReadFull(rw, buf[:ChallengeSize]); err != nil {
		return nil, failIO(textServerRead(1, n, ChallengeSize, err), nil, err)
	}
	if err := s.ReadChallenge(buf[:ChallengeSize]); err != nil {
		return nil, err
	}
	challenge, err := s.Challenge()
	if err != nil {
		return nil, err
	}
	if err := send(rw, challenge, textServerWrite(2)); err != nil {
		return nil, err
	}
	if n, err := io.ReadFull(rw, buf[:]); err != nil {
		return nil, failIO(textServerRead(3, n, HelloSize, err), nil, err)
	}
	client, err := s.ReadHello(buf[:])
	if err != nil {
		return nil, err
	}
	if err := ask(authorize, client); err != nil {
		return nil, err
	}
	accept, session, err := s.Accept()
	if err != nil {
		return nil, err
	}
	if err := send(rw, accept, textServerWrite(4)); err != nil {
		return nil, err
	}
	return session, nil
}

// ask calls the authorize function.
func ask(authorize func(keys.PublicKey) error, client keys.PublicKey) error {
	if authorize == nil {
		return nil
	}
	err := authorize(client)
	if err == ErrNotAuthorized { //nolint:errorlint // an error that wraps it has a text of its own
		return fail(textServerNotAuthorized, ErrNotAuthorized)
	}
	return err
}
