package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/secretstack/secretstack/hub"
	"github.com/secretstack/secretstack/hub/native"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/multiserver"
	"github.com/secretstack/secretstack/plugins/hubclient"
)

// hubForms is the way out when --hub names no hub.
const hubForms = "--hub takes the address that the hub has printed, the link of an invitation, its web address, HOST or HOST:PORT"

// namedHubs are the hubs that were named with --hub.
type namedHubs struct {
	texts     []string              // an address with a key, or the link of an invitation, for each
	addresses []multiserver.Address // the same, without invitations
	secrez    string                // web address of a hub of Secrez, which has no key; empty: none
}

// hubs are the same for the plugin that stays at them.
func (n namedHubs) hubs() []hubclient.Hub {
	all := make([]hubclient.Hub, len(n.texts))
	for i, text := range n.texts {
		all[i].Address = text
	}
	return all
}

// findHubs finds hubs by what was given with --hub. One that is given by its web address, or by host and port, is asked for
// its key, and believed.
func findHubs(ctx context.Context, given []string) (found namedHubs, err error) {
	for _, text := range given {
		if u, ok := webAddress(text); ok {
			address, err := askHub(ctx, u)
			switch {
			case err != nil:
				return found, err
			case address != "":
				text = address
			case found.secrez != "":
				return found, usagef("--hub: one hub of Secrez is enough")
			default:
				found.secrez = u.Scheme + "://" + u.Host
				continue
			}
		}
		found.texts = append(found.texts, text)
	}
	found.addresses, err = parseHubs(found.texts)
	return found, err
}

// findOurHubs does the same where a hub of Secrez is of no use.
func findOurHubs(ctx context.Context, given []string) (namedHubs, error) {
	found, err := findHubs(ctx, given)
	if err == nil && found.secrez != "" {
		err = usagef("--hub: what is at %s tells no key: it is no hub, or one of Secrez, which leads only couriers to each other; %s", found.secrez, hubForms)
	}
	return found, err
}

// webAddress reads a URL, a host, or a host and a port. Nothing else looks like one.
func webAddress(text string) (*url.URL, bool) {
	if u, err := url.Parse(text); err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" {
		return u, true
	}
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		host, port = text, strconv.Itoa(hub.DefaultPort)
	}
	if n, bad := strconv.ParseUint(port, 10, 16); !isHost(host) || bad != nil || n == 0 {
		return nil, false
	}
	scheme := "http"
	if port == "443" {
		scheme = "https"
	}
	return &url.URL{Scheme: scheme, Host: net.JoinHostPort(host, port)}, true
}

func isHost(text string) bool {
	const allowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-"
	outside := func(r rune) bool { return !strings.ContainsRune(allowed, r) }
	return text != "" && !strings.ContainsFunc(text, outside) || net.ParseIP(text) != nil
}

// askTimeout is how long a hub has to say who it is.
const askTimeout = 10 * time.Second

// askHub asks a hub at a web address for its key, which is believed from then on, and gives its address; nothing for a hub
// of Secrez.
func askHub(ctx context.Context, u *url.URL) (string, error) {
	ctx, stop := context.WithTimeout(ctx, askTimeout)
	defer stop()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, u.Scheme+"://"+u.Host+"/", nil)
	if err != nil {
		return "", usagef("--hub: %w; %s", err, hubForms)
	}
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	defer client.CloseIdleConnections()
	response, err := client.Do(r)
	if err != nil {
		return "", fmt.Errorf("there is no answer from the hub %s: %w; %s", u.Host, errors.Unwrap(err), hubForms)
	}
	defer func() { _ = response.Body.Close() }()
	var about struct {
		Key keys.PublicKey `json:"key"`
	}
	err = json.NewDecoder(io.LimitReader(response.Body, 64<<10)).Decode(&about)
	if err != nil || about.Key.IsZero() {
		return "", nil
	}
	return hubAddress(u, about.Key)
}

// hubAddress is where a hub of ours is that has a web address: its port speaks everything, but behind https there may be a
// proxy that knows nothing but the web.
func hubAddress(u *url.URL, key keys.PublicKey) (string, error) {
	shs := multiserver.NewPart("shs", key.Base64())
	if u.Scheme == "https" {
		return "wss://" + u.Host + "~" + shs.String(), nil
	}
	port := u.Port()
	if port == "" {
		port = "80"
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return "", usagef("--hub: %s has no port; %s", u.Host, hubForms)
	}
	return multiserver.Address{multiserver.HostPortPart("net", u.Hostname(), uint16(n)), shs}.String(), nil
}

// withoutInvite is the address in the link of an invitation. What is no link stays as it is.
func withoutInvite(text string) string {
	if link, err := native.ParseLink(text); err == nil {
		return link.Address
	}
	return text
}

// parseHubs reads the addresses of hubs, and those in the links of invitations.
func parseHubs(texts []string) ([]multiserver.Address, error) {
	var hubs []multiserver.Address
	for _, text := range texts {
		if strings.HasPrefix(text, "secretstack:") {
			link, err := native.ParseLink(text)
			if err != nil {
				return nil, usagef("--hub: %s; %s", plain(err), hubForms)
			}
			text = link.Address
		}
		parsed, err := multiserver.Parse(text)
		if err != nil {
			return nil, usagef("--hub: %s; %s", plain(err), hubForms)
		}
		if name := parsed[0].Transport().Name; name == "tunnel" || name == "circuit" {
			return nil, usagef("--hub: a %s: address is that of a peer behind a hub; %s", name, hubForms)
		}
		if _, ok := parsed[0].Key(); !ok {
			return nil, usagef("--hub: the address does not say which key the hub has: add ~shs: and the key; %s", hubForms)
		}
		hubs = append(hubs, parsed[0])
	}
	return hubs, nil
}
