package secrezapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/secretstack/secretstack/secrez"
)

// maxAnswer bounds what is read of an answer, in bytes.
const maxAnswer = 64 << 10

// ClientOptions bound a [Client]. The zero value delivers over the open internet only.
type ClientOptions struct {
	// Hubs are the hubs that may be in a private network, or on this machine, as host and port: those that the owner has
	// chosen. Couriers at them may be there as well.
	Hubs []string
	// Timeout bounds one delivery. Zero: 20 seconds.
	Timeout time.Duration
	// Resolver finds the addresses of names. Nil: net.DefaultResolver.
	Resolver *net.Resolver
}

// Client speaks with couriers and hubs of Secrez over HTTP. It follows no redirects, waits for nobody for long, and does
// not connect to private networks because a contact's address says so.
type Client struct {
	dialer dialer
	http   *http.Client
}

// NewClient makes a client.
func NewClient(o ClientOptions) *Client {
	if o.Timeout <= 0 {
		o.Timeout = 20 * time.Second
	}
	c := &Client{dialer: dialer{hubs: o.Hubs, resolver: o.Resolver}}
	c.http = &http.Client{
		Timeout:       o.Timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{ // without a proxy, which would dial for us
			DialContext: c.dialer.dial, TLSHandshakeTimeout: 10 * time.Second, MaxResponseHeaderBytes: maxAnswer, IdleConnTimeout: 30 * time.Second,
			MaxIdleConnsPerHost: 2,
		},
	}
	return c
}

// RefusedError says that a courier or a hub has answered that it does not take something.
type RefusedError struct {
	Status  int    // of HTTP
	Message string // of a hub, for the owner; may be empty
}

func (e *RefusedError) Error() string {
	if e.Message == "" {
		return fmt.Sprintf("secrezapi: refused with status %d", e.Status)
	}
	return fmt.Sprintf("secrezapi: refused with status %d: %s", e.Status, e.Message)
}

// Deliver gives a signed message to the courier at a contact's address, such as "https://7y-6ro-3z.example.com". Its error
// is [ErrOffline] when nobody is there, with [ErrPrivate] when nobody asked, or a [*RefusedError] when it was not taken.
func (c *Client) Deliver(ctx context.Context, address string, s secrez.Signed) error {
	at, err := secrez.ParseContactURL(address)
	if err != nil {
		return fmt.Errorf("%w: the address is none", ErrOffline)
	}
	body, err := json.Marshal(s)
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, at.String()+"/", bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("%w: the address is none", ErrOffline)
	}
	r.Header.Set("Content-Type", "application/json")
	var answer struct {
		Success bool `json:"success"`
	}
	status, err := c.do(r, &answer)
	if err != nil {
		return err
	}
	if status != http.StatusOK || !answer.Success {
		return &RefusedError{Status: status}
	}
	return nil
}

// PublicKey asks a hub, such as "https://example.com", whose an id is. Its error is [ErrUnknown] when the hub knows nobody
// with it, [ErrOffline], or a [*RefusedError].
func (c *Client) PublicKey(ctx context.Context, hub string, id secrez.ID) (secrez.PublicKey, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, hub+"/api/v1/publickey/"+id.String(), nil)
	if err != nil {
		return secrez.PublicKey{}, fmt.Errorf("%w: the hub's address is none", ErrOffline)
	}
	var answer struct {
		PublicKey secrez.PublicKey `json:"publickey"`
	}
	status, err := c.do(r, &answer)
	switch {
	case status == http.StatusNotFound:
		return secrez.PublicKey{}, ErrUnknown
	case err != nil:
		return secrez.PublicKey{}, err
	case status != http.StatusOK:
		return secrez.PublicKey{}, &RefusedError{Status: status}
	case answer.PublicKey.IsZero():
		return secrez.PublicKey{}, fmt.Errorf("%w: the hub answers with no key", ErrOffline)
	}
	return answer.PublicKey, nil
}

// do makes a request and reads a JSON answer. A hub's way to say that a courier is away is [ErrOffline].
func (c *Client) do(r *http.Request, into any) (status int, err error) {
	r.Header.Set("Accept", "application/json")
	response, err := c.http.Do(r)
	if err != nil {
		if r.Context().Err() != nil && !errors.Is(r.Context().Err(), context.DeadlineExceeded) {
			return 0, r.Context().Err()
		}
		if errors.Is(err, ErrPrivate) {
			return 0, fmt.Errorf("%w: %w", ErrOffline, ErrPrivate)
		}
		return 0, ErrOffline // the error's text holds the payload
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return 0, ErrOffline
	}
	switch response.StatusCode {
	case http.StatusNotFound, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return response.StatusCode, fmt.Errorf("%w: status %d", ErrOffline, response.StatusCode)
	}
	if err := json.Unmarshal(text, into); err != nil && response.StatusCode == http.StatusOK {
		return response.StatusCode, fmt.Errorf("%w: no answer of a courier or a hub", ErrOffline)
	}
	return response.StatusCode, nil
}

// registration is a hub's answer.
type registration struct {
	ID      secrez.ID `json:"id"`
	Port    uint16    `json:"port"`
	Sockets int       `json:"max_conn_count"`
	URL     string    `json:"url"`
	IP      string    `json:"ip"`      // where the port is, if not at the hub's own name
	Message string    `json:"message"` // when it refuses
}

// register registers an account at a hub, with a payload that it has just signed.
func (c *Client) register(ctx context.Context, hub string, s secrez.Signed) (registration, error) {
	var got registration
	query := url.Values{"payload": {s.Payload}, "signature": {s.Signature}}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(hub, "/")+"/api/v1/tunnel/new?"+query.Encode(), nil)
	if err != nil {
		return got, fmt.Errorf("%w: the hub's address is none", ErrOffline)
	}
	status, err := c.do(r, &got)
	switch {
	case err != nil:
		return got, err
	case status != http.StatusOK:
		return got, &RefusedError{status, got.Message}
	case got.ID.IsZero() || got.Port == 0:
		return got, fmt.Errorf("%w: the hub has no port to give", ErrOffline)
	}
	return got, nil
}
