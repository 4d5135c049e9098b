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
	"strings"
	"time"

	"github.com/secretstack/secretstack/hub/native"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/multiserver"
)

// reach asks whatever answers at a hub's address over HTTP for its key and its time, and reports whether the right one
// answers. If nobody does, that is so bad as the caller says.
func (d *doctor) reach(ctx context.Context, about, address, away string) bool {
	if link, err := native.ParseLink(address); err == nil {
		address = link.Address
	}
	web, key := webOf(address)
	if web == "" {
		return true // it speaks no HTTP: nothing is known
	}
	ctx, stop := context.WithTimeout(ctx, doctorTimeout)
	defer stop()
	before := d.now()
	answer, err := probeWeb(ctx, web)
	if err != nil {
		d.add(about, away, "it cannot be reached: "+err.Error(), "see whether this machine is online, and ask who runs the hub")
		return false
	}
	if !key.IsZero() && !answer.key.IsZero() && !answer.key.Equal(key) {
		d.add(about, broken, "another key answers there: "+answer.key.String(), "ask who runs the hub for its address; if the key has not changed, somebody is in between")
		return false
	}
	if skew := answer.time.Sub(before.Add(d.now().Sub(before) / 2)); !answer.time.IsZero() && skew.Abs() > mostClockSkew {
		d.add(about, odd, fmt.Sprintf("its clock differs from ours by %s", skew.Abs().Round(time.Second)), "set the clock of this machine, if it is the wrong one")
	}
	return true
}

// webOf gives where the hub of an address serves HTTP, and the key that it must have. The URL is empty when that is not
// known, as for onion addresses.
func webOf(address string) (web string, key keys.PublicKey) {
	if u, err := url.Parse(address); err == nil && (u.Scheme == "http" || u.Scheme == "https") {
		return u.Scheme + "://" + u.Host + "/", key
	}
	for _, a := range multiserver.ParseLoose(address) {
		key, _ = a.Key()
		data := a.Transport().Data
		switch name := a.Transport().Name; {
		case name == "net" && len(data) >= 2:
			host, port := strings.Join(data[:len(data)-1], ":"), data[len(data)-1]
			return "http://" + net.JoinHostPort(strings.Trim(host, "[]"), port) + "/", key
		case name == "ws" || name == "wss":
			u, err := url.Parse(name + ":" + strings.Join(data, ":"))
			if err == nil && u.Host != "" {
				return "http" + strings.TrimPrefix(name, "ws") + "://" + u.Host + "/", key
			}
		}
	}
	return "", key
}

type webAnswer struct {
	key  keys.PublicKey // zero: it does not say
	time time.Time      // zero: it does not say
}

func probeWeb(ctx context.Context, web string) (webAnswer, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, web, nil)
	if err != nil {
		return webAnswer{}, err
	}
	client := &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	response, err := client.Do(request)
	if err != nil {
		if cause, ok := errors.AsType[*url.Error](err); ok {
			err = cause.Err
		}
		return webAnswer{}, err
	}
	defer func() { _ = response.Body.Close() }()
	var said struct {
		Key keys.PublicKey `json:"key"`
	}
	_ = json.NewDecoder(io.LimitReader(response.Body, maxHealth)).Decode(&said) // a landing page says nothing
	when, _ := http.ParseTime(response.Header.Get("Date"))
	return webAnswer{said.Key, when}, nil
}
