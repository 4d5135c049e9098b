package native

import (
	"errors"
	"net/url"
	"slices"
	"strings"

	"github.com/secretstack/secretstack/multiserver"
)

// Link is what a person is given to join a hub: where it is, and the code of an invitation, which may be empty.
type Link struct {
	Address string // one multiserver address, or several joined with ";"
	Invite  string
}

const (
	linkScheme  = "secretstack"
	linkHost    = "hub"
	longestLink = 4 << 10
)

// Ways shortens the addresses of a hub, joined with ";", for what people copy: it leaves out WebSockets without TLS on a
// port that is among them by itself, because a hub's port speaks both.
func Ways(addresses string) string {
	all := multiserver.ParseLoose(addresses)
	plain := map[string]bool{}
	for _, a := range all {
		plain[a.String()] = true
	}
	all = slices.DeleteFunc(all, func(a multiserver.Address) bool {
		host, isWS := strings.CutPrefix(a.String(), "ws://")
		return isWS && plain["net:"+strings.Replace(host, "/~", "~", 1)]
	})
	return multiserver.Join(all)
}

// ErrLink says that a text is no link to a hub.
var ErrLink = errors.New("not a link to a hub, as in secretstack://hub?address=…&invite=…")

// String writes the link: secretstack://hub?address=…&invite=….
func (l Link) String() string {
	q := url.Values{"address": {l.Address}}
	if l.Invite != "" {
		q.Set("invite", l.Invite)
	}
	return (&url.URL{Scheme: linkScheme, Host: linkHost, RawQuery: q.Encode()}).String()
}

// ParseLink reads what String writes. Its error is [ErrLink], or says what is wrong with the address.
func ParseLink(text string) (Link, error) {
	u, err := url.Parse(text)
	if err != nil || len(text) > longestLink || u.Scheme != linkScheme || u.Host != linkHost || u.User != nil || u.Path != "" && u.Path != "/" {
		return Link{}, ErrLink
	}
	q, err := url.ParseQuery(u.RawQuery)
	if err != nil || len(q["address"]) != 1 || len(q["invite"]) > 1 {
		return Link{}, ErrLink
	}
	if _, err := multiserver.Parse(q.Get("address")); err != nil {
		return Link{}, err
	}
	return Link{Address: q.Get("address"), Invite: q.Get("invite")}, nil
}
