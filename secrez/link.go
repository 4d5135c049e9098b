package secrez

import (
	"encoding/base64"
	"fmt"
	"net/url"
	"strings"

	"github.com/secretstack/secretstack/keys"
)

const (
	linkPath = "/s/"

	// The members of a link's fragment.
	linkKey = "key"
	linkBox = "box"
	linkHub = "hub"
)

// ContactLink is what somebody gives to others so that they can write to him, such as
//
//	https://example.com/s/7y-6ro-3z#key=TLWr9q15-_WrvMr8wmnYXNJlHtS4hbWGnyQa7fCluik
//
// It names the courier at its hub and, behind the "#", its key. A browser that opens the link does not send that part, so
// no hub sees or changes it: who has the link from the person has the person's key, whatever the hub says. A hub answers
// the link itself too, for people and for programs that have no more than the id. docs/PROTOCOL.md §10.5 has the grammar.
type ContactLink struct {
	ID  ID
	Hub string // the hub's own address, such as "https://example.com"

	// Key is whom the link is about. The zero key: the link does not say, and only the hub can be asked.
	Key PublicKey

	// HubKey is the hub's own key, which a native courier needs to reach it. Zero: the link does not say.
	HubKey keys.PublicKey
}

// ParseContactLink reads what [ContactLink.String] writes. A query is dropped, and so are members of the fragment that
// are not known. Its error is [ErrID] for what is no such link, [ErrPublicKey] for a key in it that is wrong.
func ParseContactLink(s string) (ContactLink, error) {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.User != nil {
		return ContactLink{}, fmt.Errorf("%w: not an http link", ErrID)
	}
	hub := lower(u.Host)
	if !isHub(hub) {
		return ContactLink{}, fmt.Errorf("%w: no hub in the link", ErrID)
	}
	name, found := strings.CutPrefix(u.EscapedPath(), linkPath)
	if !found {
		return ContactLink{}, fmt.Errorf("%w: the link's path does not begin with %s", ErrID, linkPath)
	}
	id, err := ParseID(strings.TrimSuffix(name, "/"))
	if err != nil {
		return ContactLink{}, err
	}
	l := ContactLink{ID: id, Hub: u.Scheme + "://" + hub}
	if err := l.readFragment(u.EscapedFragment()); err != nil {
		return ContactLink{}, err
	}
	return l, nil
}

func (l *ContactLink) readFragment(fragment string) error {
	members, err := url.ParseQuery(fragment)
	if err != nil {
		return fmt.Errorf("%w: the part of the link behind the # cannot be read", ErrPublicKey)
	}
	var halves [3][]byte
	for i, name := range []string{linkKey, linkBox, linkHub} {
		if halves[i], err = linkHalf(members[name]); err != nil {
			return fmt.Errorf("%w in %q", err, name)
		}
	}
	sign, box, hub := halves[0], halves[1], halves[2]
	if l.Key, err = linkPublicKey(sign, box); err != nil {
		return err
	}
	if hub == nil {
		return nil
	}
	if !usableSign(hub) {
		return fmt.Errorf("%w: bad point in the hub's key", ErrPublicKey)
	}
	if l.HubKey, err = keys.NewPublicKey(hub); err != nil {
		return fmt.Errorf("%w: bad key of the hub", ErrPublicKey)
	}
	return nil
}

// linkHalf reads 32 bytes, or nothing.
func linkHalf(values []string) ([]byte, error) {
	if len(values) == 0 {
		return nil, nil
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(values[0])
	if err != nil || len(values) > 1 || len(b) != halfSize || strings.ContainsAny(values[0], "\r\n") {
		return nil, fmt.Errorf("%w: not %d bytes in base64url", ErrPublicKey, halfSize)
	}
	return b, nil
}

func linkPublicKey(sign, box []byte) (PublicKey, error) {
	switch {
	case sign == nil && box == nil:
		return PublicKey{}, nil
	case sign == nil:
		return PublicKey{}, fmt.Errorf("%w: half of one", ErrPublicKey)
	case box != nil:
		return NewPublicKey(box, sign)
	}
	identity, err := keys.NewPublicKey(sign)
	if err != nil {
		return PublicKey{}, fmt.Errorf("%w: bad sign half", ErrPublicKey)
	}
	return DerivePublicKey(identity)
}

// URL gives the address at which the courier is reached through the hub.
func (l ContactLink) URL() ContactURL { return ContactURL{ID: l.ID, Hub: l.Hub} }

// String writes the link, or nothing for the zero value. The box half is written only when it is not derived from the
// sign half.
func (l ContactLink) String() string {
	if l.ID.IsZero() || l.Hub == "" {
		return ""
	}
	var members []string
	add := func(name string, b []byte) {
		members = append(members, name+"="+base64.RawURLEncoding.EncodeToString(b))
	}
	if !l.Key.IsZero() {
		add(linkKey, l.Key.sign.Bytes())
		if !l.Key.Derived() {
			add(linkBox, l.Key.box[:])
		}
	}
	if !l.HubKey.IsZero() {
		add(linkHub, l.HubKey.Bytes())
	}
	text := l.Hub + linkPath + l.ID.text
	if len(members) > 0 {
		text += "#" + strings.Join(members, "&")
	}
	return text
}
