package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	gonet "net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strconv"
	"time"

	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/plugins/hubclient"
	"github.com/secretstack/secretstack/secrez"
)

// The parts of the rows about HTTP.
const (
	roleOrigin  = "origin"
	rolePlain   = "plain-proxy"
	roleCourier = "courier"
	roleTunnel  = "tunnel"
	roleTunnels = "tunnels"
)

const hubDomain = "hub.test"

func answerBody(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain")
	_, _ = io.WriteString(w, httpBody)
}

// startRole starts a role that belongs to the site, and returns the line that it says.
func (s *site) startRole(ctx context.Context, args ...string) (said string, err error) {
	r, err := startRole(ctx, args...)
	if err != nil {
		return "", err
	}
	s.parts = append(s.parts, r)
	return r.line()
}

// Close ends the process.
func (r *role) Close() error {
	r.stop()
	return nil
}

// made returns a site, or closes what there is of it.
func (s *site) made(err error) (*site, error) {
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func startPlainSite(ctx context.Context) (*site, error) {
	s := &site{host: "127.0.0.1"}
	origin, err := s.startRole(ctx, roleOrigin)
	if err == nil {
		s.address, err = s.startRole(ctx, rolePlain, origin)
	}
	return s.made(err)
}

func startNativeSite(ctx context.Context) (*site, error) {
	s := new(site)
	at, err := s.startHub(ctx)
	if err == nil {
		s.host, err = s.startRole(ctx, roleCourier, at.Peers)
	}
	return s.made(err)
}

func startRawSite(ctx context.Context) (*site, error) {
	s := new(site)
	at, err := s.startHub(ctx)
	if err == nil {
		s.host, err = s.startRole(ctx, roleTunnel, at.Port)
	}
	return s.made(err)
}

// startHub starts our hub, where requests are sent to.
func (s *site) startHub(ctx context.Context) (hubAt, error) {
	said, err := s.startRole(ctx, roleHub, "")
	if err != nil {
		return hubAt{}, err
	}
	at, err := parseHubAt(said)
	s.address = at.Port
	return at, err
}

func serveHTTP(ctx context.Context, handler http.Handler) error {
	ln, err := new(gonet.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go func() { _ = (&http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}).Serve(ln) }()
	fmt.Println(ln.Addr())
	return untilTold()
}

// untilTold waits for the end of the standard input.
func untilTold() error {
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

func serveOrigin(ctx context.Context, _ []string) error {
	return serveHTTP(ctx, http.HandlerFunc(answerBody))
}

// servePlainProxy serves the standard library's proxy in front of the address in its argument.
func servePlainProxy(ctx context.Context, args []string) error {
	transport := &http.Transport{MaxIdleConnsPerHost: 256}
	target := &url.URL{Scheme: "http", Host: args[0]}
	proxy := &httputil.ReverseProxy{Transport: transport, Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		r.SetXForwarded()
	}}
	return serveHTTP(ctx, proxy)
}

// serveCourier publishes an app with a handler at the hub whose address is in its argument, and says its host.
func serveCourier(ctx context.Context, args []string) error {
	app, client, err := startEnd(ctx, hubclient.Config{
		Hubs: []hubclient.Hub{{Address: args[0]}}, Handler: http.HandlerFunc(answerBody),
	})
	if err != nil {
		return err
	}
	if err := online(ctx, client); err != nil {
		return errors.Join(err, app.Close(ctx))
	}
	u, err := url.Parse(client.Hubs()[0].URL)
	if err != nil {
		return err
	}
	fmt.Println(u.Host)
	return errors.Join(untilTold(), app.Close(ctx))
}

// online waits until a courier can be reached.
func online(ctx context.Context, client *hubclient.Client) error {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	for all := range client.Watch(ctx) {
		if all[0].Online {
			return nil
		}
	}
	return fmt.Errorf("the courier did not come online: %w", client.Hubs()[0].Err)
}

// serveTunnel registers a new account at the hub in its argument and does what Secrez's tunnel client does. It says its
// host.
func serveTunnel(ctx context.Context, args []string) error {
	account, err := newAccount()
	if err != nil {
		return err
	}
	info, err := register(ctx, http.DefaultClient, args[0], account)
	if err != nil {
		return err
	}
	ln, err := new(gonet.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go func() {
		_ = (&http.Server{Handler: http.HandlerFunc(answerBody), ReadHeaderTimeout: time.Minute}).Serve(ln)
	}()
	for range info.Count {
		go func() {
			for tunnelSocket(ctx, gonet.JoinHostPort("127.0.0.1", strconv.Itoa(info.Port)), ln.Addr().String()) == nil {
			}
		}()
	}
	u, err := url.Parse(info.URL)
	if err != nil {
		return err
	}
	fmt.Println(u.Host)
	return untilTold()
}

// serveTunnels registers as many accounts as its second argument says, and opens a tunnel socket for each.
var serveTunnels = peersOf(func(ctx context.Context, hub string) (io.Closer, error) {
	account, err := newAccount()
	if err != nil {
		return nil, err
	}
	info, err := register(ctx, http.DefaultClient, portOf(hub), account)
	if err != nil {
		return nil, err
	}
	return new(gonet.Dialer).DialContext(ctx, "tcp", gonet.JoinHostPort("127.0.0.1", strconv.Itoa(info.Port)))
})

// tunnelSocket is one socket of a tunnel client: it passes bytes to a local server until either closes. An error is
// that of the hub, which is not there any more.
func tunnelSocket(ctx context.Context, hub, local string) error {
	remote, err := new(gonet.Dialer).DialContext(ctx, "tcp", hub)
	if err != nil {
		return err
	}
	defer drop(remote)
	server, err := new(gonet.Dialer).DialContext(ctx, "tcp", local)
	if err != nil {
		return err
	}
	defer drop(server)
	pass(remote, server)
	return nil
}

// pass copies both ways until either ends, and closes both.
func pass(a, b gonet.Conn) {
	copyAll := func(to, from gonet.Conn) error {
		_, err := io.Copy(to, from)
		return errors.Join(err, io.EOF) // the end of one is the end of both
	}
	_ = together(func() { drop(a, b) },
		func() error { return copyAll(a, b) },
		func() error { return copyAll(b, a) },
	)
}

// newAccount makes an account of Secrez.
func newAccount() (*secrez.Account, error) {
	identity, err := keys.Generate()
	if err != nil {
		return nil, err
	}
	return secrez.FromIdentity(identity)
}

// registered is what the v1 API answers.
type registered struct {
	ID    string `json:"id"`
	Port  int    `json:"port"`
	Count int    `json:"max_conn_count"`
	URL   string `json:"url"`
}

// register asks for an id with the v1 API.
func register(ctx context.Context, client *http.Client, hub string, account *secrez.Account) (registered, error) {
	var info registered
	signed, err := account.SignPayload(map[string]any{}, time.Now())
	if err != nil {
		return info, err
	}
	query := url.Values{"payload": {signed.Payload}, "signature": {signed.Signature}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+hub+"/api/v1/tunnel/new?"+query.Encode(), nil)
	if err != nil {
		return info, err
	}
	res, err := client.Do(req)
	if err != nil {
		return info, err
	}
	defer drop(res.Body)
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return info, err
	}
	if res.StatusCode != http.StatusOK {
		return info, fmt.Errorf("the hub answers %d: %s", res.StatusCode, body)
	}
	if err := json.Unmarshal(body, &info); err != nil {
		return info, err
	}
	if info.ID == "" || info.Port == 0 || info.Count == 0 {
		return info, fmt.Errorf("the hub answers %s", body)
	}
	return info, nil
}
