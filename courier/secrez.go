package courier

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/secretstack/secretstack/courier/card"
	"github.com/secretstack/secretstack/courier/envelope"
	"github.com/secretstack/secretstack/courier/secrezapi"
	"github.com/secretstack/secretstack/courier/store"
	"github.com/secretstack/secretstack/internal/pause"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/multiserver"
	"github.com/secretstack/secretstack/secrez"
)

// SecrezConfig says what a courier does for programs of Secrez. The zero value does nothing for them but to exchange
// messages with the couriers of contacts.
type SecrezConfig struct {
	// Hub is a hub of Secrez, such as "https://example.com:8433", at which the owner's account can be reached by programs of
	// Secrez, and that of their own owner once they ask for it. Empty: none.
	Hub string
	// Port is where Secrez's command line finds the courier, by HTTPS, on this machine only. Zero: nowhere.
	Port uint16
	// Owner is the account of that command line. Zero: whoever calls first, from then on.
	Owner secrez.PublicKey
}

// secrezSide is everything that a courier does for Secrez's programs.
type secrezSide struct {
	c       *Courier
	account *secrez.Account // the owner's
	client  *secrezapi.Client
	public  http.Handler // takes messages for the owner

	own    *secrezapi.Tunnel // for the owner's account; nil: no hub
	cli    *secrezapi.Tunnel // for the account of the command line; nil: no hub, or no command line
	server *http.Server      // for the command line; nil: none
	work   sync.WaitGroup
	life   context.Context
	stop   context.CancelFunc
}

func newSecrezSide(c *Courier) (*secrezSide, error) {
	account, err := secrez.FromIdentity(c.cfg.Identity)
	if err != nil {
		return nil, err
	}
	s := &secrezSide{c: c, account: account}
	s.life, s.stop = context.WithCancel(context.Background())
	s.client = secrezapi.NewClient(secrezapi.ClientOptions{Hubs: chosenHubs(c.cfg)})
	s.public = secrezapi.New(secrezapi.Options{Backend: ownBackend{s}, Client: s.client, Now: c.cfg.Store.Now, Logger: c.cfg.Logger}).Public()
	if c.cfg.Secrez.Hub != "" {
		s.own = s.tunnel(s.public)
	}
	return s, nil
}

// chosenHubs are where the owner's hubs speak HTTP, as host and port.
func chosenHubs(cfg Config) (chosen []string) {
	if u, err := url.Parse(cfg.Secrez.Hub); err == nil {
		chosen = append(chosen, hostPort(u))
	}
	for _, h := range cfg.Hubs {
		for _, a := range multiserver.ParseLoose(h.Resolved().Address) {
			t := a.Transport()
			switch u, err := url.Parse(t.Text()); {
			case t.Name == "net" && len(t.Data) > 1:
				last := len(t.Data) - 1
				chosen = append(chosen, net.JoinHostPort(strings.Trim(strings.Join(t.Data[:last], ":"), "[]"), t.Data[last]))
			case err == nil && (t.Name == "ws" || t.Name == "wss"):
				chosen = append(chosen, hostPort(u))
			}
		}
	}
	return chosen
}

// hostPort is where a web address leads.
func hostPort(u *url.URL) string {
	port := "80"
	if u.Scheme == "https" || u.Scheme == "wss" {
		port = "443"
	}
	return net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), port))
}

func (s *secrezSide) tunnel(h http.Handler) *secrezapi.Tunnel {
	return secrezapi.NewTunnel(secrezapi.TunnelOptions{Client: s.client, Hub: s.c.cfg.Secrez.Hub, Handler: h, Retry: s.c.cfg.RetryMin, Logger: s.c.cfg.Logger})
}

// start opens what the configuration asks for.
func (s *secrezSide) start(ctx context.Context) error {
	if s.own != nil {
		s.work.Go(s.stayPublished)
	}
	if s.c.cfg.Secrez.Port == 0 {
		return nil
	}
	certs, err := secrezapi.LoadCertificates(filepath.Join(s.c.cfg.Dir, "certs"), s.c.cfg.Store.Now())
	if err != nil {
		return err
	}
	backend := &cliBackend{s: s}
	api := secrezapi.New(secrezapi.Options{Backend: backend, Client: s.client, CA: certs.CA, Now: s.c.cfg.Store.Now, Logger: s.c.cfg.Logger})
	if s.c.cfg.Secrez.Hub != "" {
		s.cli = s.tunnel(api.Public())
	}
	backend.tunnel = s.cli
	if !s.c.cfg.Secrez.Owner.IsZero() {
		if err := backend.SetOwner(ctx, s.c.cfg.Secrez.Owner); err != nil {
			return err
		}
	}
	return s.serve(ctx, api.Local(), certs.Leaf)
}

// serve answers the command line on loopback.
func (s *secrezSide) serve(ctx context.Context, h http.Handler, cert tls.Certificate) error {
	port := strconv.Itoa(int(s.c.cfg.Secrez.Port))
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", port))
	if err != nil {
		return fmt.Errorf("courier: the port for Secrez: %w", err)
	}
	s.server = &http.Server{
		Handler: h, TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}, ReadHeaderTimeout: 30 * time.Second,
		IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 1 << 20, ErrorLog: slog.NewLogLogger(s.c.cfg.Logger.Handler(), slog.LevelDebug),
	}
	s.work.Go(func() { _ = s.server.ServeTLS(ln, "", "") })                           // ends with close
	if six, err := lc.Listen(ctx, "tcp", net.JoinHostPort("::1", port)); err == nil { // not every machine has it
		s.work.Go(func() { _ = s.server.ServeTLS(six, "", "") })
	}
	return nil
}

// stayPublished keeps the owner's account reachable at the hub of Secrez.
func (s *secrezSide) stayPublished() {
	wait := s.c.cfg.RetryMin
	for s.life.Err() == nil {
		signed, err := s.account.SignPayload(nil, s.c.cfg.Store.Now())
		if err == nil {
			_, err = s.own.Publish(s.life, signed)
		}
		if err == nil {
			wait = s.c.cfg.RetryMin
			select {
			case <-s.own.Lost():
			case <-s.life.Done():
			}
			continue
		}
		s.c.cfg.Logger.Debug("courier: not at the hub of Secrez", "error", err)
		pause.Sleep(s.life, pause.Jitter(wait))
		wait = min(2*wait, s.c.cfg.RetryMax)
	}
}

// published tells where programs of Secrez reach the owner.
func (s *secrezSide) published() secrezapi.Published {
	if s.own == nil {
		return secrezapi.Published{}
	}
	return s.own.Published()
}

func (s *secrezSide) close() error {
	s.stop()
	var errs []error
	if s.server != nil {
		errs = append(errs, s.server.Close())
	}
	for _, t := range []*secrezapi.Tunnel{s.own, s.cli} {
		if t != nil {
			errs = append(errs, t.Close())
		}
	}
	s.work.Wait()
	return errors.Join(errs...)
}

// secrezKeyOf is the key of a contact in the form of Secrez.
func secrezKeyOf(c store.Contact) (secrez.PublicKey, error) {
	if c.Box != nil {
		return secrez.NewPublicKey(c.Box, c.Key.Bytes())
	}
	return secrez.DerivePublicKey(c.Key)
}

// ownBackend takes messages of contacts for the owner of the courier. Nobody controls the courier by it.
type ownBackend struct{ *secrezSide }

var errNotControlled = errors.New("courier: not controlled this way")

func (b ownBackend) Owner(context.Context) (secrez.PublicKey, error) { return b.account.Public(), nil }

func (b ownBackend) SetOwner(context.Context, secrez.PublicKey) error { return errNotControlled }

func (b ownBackend) Trust(context.Context, secrezapi.Contact) (added, changed bool, err error) {
	return false, false, errNotControlled
}

func (b ownBackend) Trusted(ctx context.Context, key keys.PublicKey) (secrezapi.Contact, error) {
	c, err := b.c.store.ContactByKey(ctx, key)
	if errors.Is(err, store.ErrNotFound) || err == nil && !c.Key.Equal(key) {
		return secrezapi.Contact{}, secrezapi.ErrUnknown
	}
	if err != nil {
		return secrezapi.Contact{}, err
	}
	public, err := secrezKeyOf(c)
	return secrezapi.Contact{PublicKey: public}, err
}

func (b ownBackend) Keep(context.Context, secrezapi.Message) error { return errNotControlled }

// Receive opens a message, which proves that it was sealed for the owner, and shows it.
func (b ownBackend) Receive(ctx context.Context, m secrezapi.Message, p *secrez.Payload) error {
	var sealed string
	if found, err := p.Field("message", &sealed); err != nil || !found {
		return secrezapi.ErrNotForUs
	}
	text, err := b.account.Open(m.Peer, sealed)
	if err != nil || len(text) == 0 || !utf8.Valid(text) {
		return secrezapi.ErrNotForUs
	}
	from, err := b.c.store.ContactByKey(ctx, m.Peer.Identity())
	if err != nil || from.Blocked {
		return err // what somebody who is blocked sends is thrown away, and he is not told
	}
	_, err = b.c.store.ReceiveSecrez(ctx, from.ID, storeMessage(m), string(text), p.When())
	return err
}

func (b ownBackend) Messages(context.Context, secrezapi.Query) ([]secrezapi.Message, error) {
	return nil, errNotControlled
}

func (b ownBackend) Published() secrezapi.Published { return b.published() }

func (b ownBackend) Publish(context.Context, secrez.Signed) (secrezapi.Published, error) {
	return secrezapi.Published{}, errNotControlled
}

func (b ownBackend) Hub() string { return b.c.cfg.Secrez.Hub }

func storeMessage(m secrezapi.Message) store.SecrezMessage {
	return store.SecrezMessage{Direction: store.Direction(m.Direction), Peer: m.Peer, Signed: m.Signed, Digest: m.Digest}
}

// ownerSetting is where the account of Secrez's command line is kept.
const ownerSetting = "secrez-owner"

// cliBackend keeps what Secrez's command line wants kept. It cannot read the messages.
type cliBackend struct {
	s      *secrezSide
	tunnel *secrezapi.Tunnel // nil: there is no hub
}

func (b *cliBackend) Owner(ctx context.Context) (secrez.PublicKey, error) {
	text, err := b.s.c.store.Setting(ctx, ownerSetting)
	if err != nil || text == nil {
		return secrez.PublicKey{}, err
	}
	return secrez.ParsePublicKey(string(text))
}

func (b *cliBackend) SetOwner(ctx context.Context, key secrez.PublicKey) error {
	return b.s.c.store.SetSetting(ctx, ownerSetting, []byte(key.String()))
}

func (b *cliBackend) Trust(ctx context.Context, c secrezapi.Contact) (added, changed bool, err error) {
	added, changed, err = b.s.c.store.TrustSecrez(ctx, store.SecrezContact{PublicKey: c.PublicKey, URL: c.URL})
	switch {
	case errors.Is(err, store.ErrName):
		err = secrezapi.ErrURLTaken
	case errors.Is(err, store.ErrKeyChanged):
		err = secrezapi.ErrKeyChanged
	}
	return added, changed, err
}

func (b *cliBackend) Trusted(ctx context.Context, key keys.PublicKey) (secrezapi.Contact, error) {
	c, err := b.s.c.store.TrustedSecrez(ctx, key)
	if errors.Is(err, store.ErrNotFound) {
		err = secrezapi.ErrUnknown
	}
	return secrezapi.Contact{PublicKey: c.PublicKey, URL: c.URL}, err
}

func (b *cliBackend) Keep(ctx context.Context, m secrezapi.Message) error {
	_, err := b.s.c.store.AddSecrez(ctx, storeMessage(m))
	return err
}

func (b *cliBackend) Receive(ctx context.Context, m secrezapi.Message, _ *secrez.Payload) error {
	return b.Keep(ctx, m)
}

func (b *cliBackend) Messages(ctx context.Context, q secrezapi.Query) ([]secrezapi.Message, error) {
	found, err := b.s.c.store.SecrezMessages(ctx, store.SecrezQuery{
		Min: q.Min, Max: q.Max, Direction: store.Direction(q.Direction), Peer: q.Peer, Limit: q.Limit,
	})
	out := make([]secrezapi.Message, len(found))
	for i, m := range found {
		out[i] = secrezapi.Message{Time: m.Stored, Direction: int(m.Direction), Peer: m.Peer, Signed: m.Signed, Digest: m.Digest}
	}
	return out, err
}

func (b *cliBackend) Published() secrezapi.Published {
	if b.tunnel == nil {
		return secrezapi.Published{}
	}
	return b.tunnel.Published()
}

func (b *cliBackend) Publish(ctx context.Context, signed secrez.Signed) (secrezapi.Published, error) {
	if b.tunnel == nil {
		return secrezapi.Published{}, secrezapi.ErrOffline
	}
	at, err := b.tunnel.Publish(ctx, signed)
	if refused, ok := errors.AsType[*secrezapi.RefusedError](err); ok {
		b.s.c.cfg.Logger.Warn("courier: the hub refuses the account of Secrez's command line", "status", refused.Status, "message", refused.Message)
		err = secrezapi.ErrOffline
	}
	return at, err
}

func (b *cliBackend) Hub() string { return b.s.c.cfg.Secrez.Hub }

// secrezRoute delivers to couriers of Secrez: to contacts of whom nothing but a web address is known.
type secrezRoute struct{ s *secrezSide }

func (r secrezRoute) Name() string { return "the web address of a courier of Secrez" }
func (r secrezRoute) Keeps() bool  { return true } // they do not know what they have seen

// urlOf is the address at which a contact is reached as Secrez's programs are, if that is the only way.
func urlOf(c store.Contact) (address string) {
	for _, p := range c.Places {
		if p.Kind != card.URL {
			return ""
		}
		address = p.Address
	}
	return address
}

func (r secrezRoute) Deliver(ctx context.Context, to store.Contact, batch []store.Outgoing) ([]Outcome, error) {
	address := urlOf(to)
	if address == "" {
		return nil, ErrNoWay
	}
	var outcomes []Outcome
	for _, o := range batch {
		outcome, err := r.deliver(ctx, to, address, o)
		if err != nil {
			return outcomes, err
		}
		outcomes = append(outcomes, outcome)
	}
	return outcomes, nil
}

func (r secrezRoute) deliver(ctx context.Context, to store.Contact, address string, o store.Outgoing) (Outcome, error) {
	if o.Kind != envelope.Text {
		return Outcome{State: store.Failed, Note: "couriers of Secrez take texts only"}, nil
	}
	signed, err := r.form(ctx, to, o)
	if err != nil {
		return Outcome{}, err
	}
	err = r.s.client.Deliver(ctx, address, signed)
	refused, isRefused := errors.AsType[*secrezapi.RefusedError](err)
	switch {
	case errors.Is(err, secrezapi.ErrPrivate):
		return Outcome{}, fmt.Errorf("%s is in a private network, where no hub of yours is", address)
	case errors.Is(err, secrezapi.ErrOffline):
		return Outcome{}, fmt.Errorf("nobody answers at %s", address)
	case isRefused:
		return Outcome{State: store.Queued, Note: fmt.Sprintf("%s refuses it (%d): are you a contact there?", address, refused.Status)}, nil
	case err != nil:
		return Outcome{}, err
	}
	return Outcome{State: store.Delivered}, nil
}

// form is a message as Secrez's programs write it. It is made once, so that whoever gets it twice can tell.
func (r secrezRoute) form(ctx context.Context, to store.Contact, o store.Outgoing) (secrez.Signed, error) {
	if o.Wire == nil {
		m, err := envelope.Parse(o.Signed)
		if err != nil {
			return secrez.Signed{}, err
		}
		key, err := secrezKeyOf(to)
		if err != nil {
			return secrez.Signed{}, err
		}
		sealed, err := r.s.account.Seal(key, m.Body)
		if err != nil {
			return secrez.Signed{}, err
		}
		signed, err := r.s.account.SignPayload(map[string]string{"message": sealed}, m.Time)
		if err != nil {
			return secrez.Signed{}, err
		}
		if o.Wire, err = r.s.c.store.SetWire(ctx, o.ID, []byte(signed.Signature+"\n"+signed.Payload)); err != nil {
			return secrez.Signed{}, err
		}
	}
	return splitWire(o.Wire)
}

// splitWire reads a kept form: the signature, a line break, the payload.
func splitWire(wire []byte) (secrez.Signed, error) {
	for i, b := range wire {
		if b == '\n' {
			return secrez.Signed{Signature: string(wire[:i]), Payload: string(wire[i+1:])}, nil
		}
	}
	return secrez.Signed{}, errors.New("courier: a kept form is damaged")
}
