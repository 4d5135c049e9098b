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
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/secretstack/secretstack/secrez"
)

// maxAnswer bounds what is read of an answer, in bytes.
const maxAnswer = 64 << 10

// ClientOptions bound a [Client]. The zero value delivers over the open internet only.
type ClientOptions struct {
	// Hubs are host names of hubs that may be in a private network, or on this machine: those that the owner has chosen.
	// Names such as localhost always may be.
	Hubs []string
	// Timeout bounds one delivery. Zero: 20 seconds.
	Timeout time.Duration
	// Dial opens connections to an address and a port. Nil: a net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Lookup finds the addresses of a host. Nil: net.DefaultResolver.
	Lookup func(ctx context.Context, host string) ([]netip.Addr, error)
}

// Client speaks with couriers and hubs of Secrez over HTTP. It follows no redirects, waits for nobody for long, and does
// not connect to private networks because a contact's address says so.
type Client struct {
	o    ClientOptions
	http *http.Client
}

// NewClient makes a client.
func NewClient(o ClientOptions) *Client {
	if o.Timeout <= 0 {
		o.Timeout = 20 * time.Second
	}
	if o.Dial == nil {
		o.Dial = (&net.Dialer{Timeout: 10 * time.Second}).DialContext
	}
	if o.Lookup == nil {
		o.Lookup = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	c := &Client{o: o}
	c.http = &http.Client{
		Timeout:       o.Timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext: c.dial, TLSHandshakeTimeout: 10 * time.Second, MaxResponseHeaderBytes: maxAnswer, IdleConnTimeout: 30 * time.Second,
			MaxIdleConnsPerHost: 2,
		},
	}
	return c
}

// dial connects to a host that may be connected to.
func (c *Client) dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	found, err := c.resolve(ctx, host)
	if err != nil {
		return nil, err
	}
	failure := fmt.Errorf("%s has no address that may be connected to", host)
	for _, addr := range found {
		if !c.allowed(host, addr.Unmap()) {
			continue
		}
		conn, err := c.o.Dial(ctx, network, net.JoinHostPort(addr.String(), port))
		if err == nil {
			return conn, nil
		}
		failure = err
	}
	return nil, failure
}

// resolve finds the addresses of a host. Names below localhost are this machine, whatever resolvers say.
func (c *Client) resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	if addr, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{addr}, nil
	}
	if isLocalhost(host) {
		return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}, nil
	}
	return c.o.Lookup(ctx, host)
}

func isLocalhost(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	return host == "localhost" || strings.HasSuffix(host, ".localhost")
}

// allowed reports whether a host may be at an address.
func (c *Client) allowed(host string, addr netip.Addr) bool {
	if addr.IsMulticast() || addr.IsUnspecified() || addr.IsLinkLocalUnicast() {
		return false
	}
	if !addr.IsPrivate() && !addr.IsLoopback() {
		return true
	}
	if isLocalhost(host) {
		return addr.IsLoopback()
	}
	return slices.ContainsFunc(c.o.Hubs, func(hub string) bool {
		return strings.EqualFold(host, hub) || strings.HasSuffix(strings.ToLower(host), "."+strings.ToLower(hub))
	})
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
// is [ErrOffline] when nobody is there, or a [*RefusedError] when it was not taken.
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

// do makes a request and reads a JSON answer. A hub's way to say that a courier is away is [ErrOffline].
func (c *Client) do(r *http.Request, into any) (status int, err error) {
	r.Header.Set("Accept", "application/json")
	response, err := c.http.Do(r)
	if err != nil {
		if r.Context().Err() != nil && !errors.Is(r.Context().Err(), context.DeadlineExceeded) {
			return 0, r.Context().Err()
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
