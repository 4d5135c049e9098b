// Package card holds the contact card: what somebody gives to others so that they can write to him, signed by his own
// key. It carries the key itself, so that no hub has to be trusted to name it, and the places where he can be reached.
//
// A card travels as a link, [Link] or [WebLink], which [Parse] reads, or as a QR code of that. docs/MESSAGES.md gives the
// bytes.
package card

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/secrez"
)

const (
	label         = "secretstack contact card v1\x00"
	version       = 1
	signatureSize = 64
	idSize        = len("xx-xxx-xx")

	// Scheme begins the links of cards.
	Scheme = "secretstack:"
	// WebPath is where a hub keeps the pages of its couriers: the id follows, and in a link with a card "#" and the card,
	// which browsers do not send to the hub.
	WebPath = "/s/"

	// MaxName bounds the name on a card, in bytes of UTF-8.
	MaxName = 64
	// MaxPlaces bounds how many places stand on a card.
	MaxPlaces = 8
	// MaxAddress bounds the address of one place, in bytes.
	MaxAddress = 256
	// MaxSize bounds a card, in bytes before base64. One of this size still fits a QR code.
	MaxSize = 1400
)

var (
	// ErrMalformed says that a text or bytes are no card.
	ErrMalformed = errors.New("card: not a contact card")
	// ErrSignature says that a card was altered: the key on it has not signed it.
	ErrSignature = errors.New("card: the contact card was altered: its key has not signed it")
)

// Kind says what the address of a place is.
type Kind byte

// The kinds of place.
const (
	Hub  Kind = 1 // the multiserver address of a hub at which the card's key is published
	Peer Kind = 2 // a multiserver address of the card's owner
	URL  Kind = 3 // the address of the owner's courier in the web, as Secrez's programs use it
)

// Place is where somebody can be reached.
type Place struct {
	Kind    Kind   `json:"kind"`
	Address string `json:"address"`
}

// Card is a contact card. The zero values of all but Key mean that the card does not say.
type Card struct {
	Key    keys.PublicKey
	Name   string    // what the owner calls himself; those who add the card choose their own
	ID     secrez.ID // at the hubs of Places
	Places []Place
	Time   time.Time // of signing, to the millisecond: of two cards of a key the later one counts
}

// Sign writes the card, signed by its owner, whose key must be c.Key. Its error is [ErrMalformed]: for a name with
// control characters, an address with others than visible ASCII, and for what is too long.
func (c Card) Sign(id *keys.Identity) ([]byte, error) {
	if !id.Public().Equal(c.Key) {
		return nil, fmt.Errorf("%w: the key is somebody else's", ErrMalformed)
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	b := append([]byte{version}, c.Key.Bytes()...)
	b = binary.BigEndian.AppendUint64(b, uint64(c.Time.UnixMilli()))
	b = appendShort(b, c.ID.String())
	b = appendShort(b, c.Name)
	b = append(b, byte(len(c.Places)))
	for _, p := range c.Places {
		address := p.Address
		if short := strings.TrimSuffix(address, c.proof()); p.Kind == Peer && short != "" && !strings.Contains(short, "~") {
			address = short
		}
		b = append(b, byte(p.Kind))
		b = binary.BigEndian.AppendUint16(b, uint16(len(address)))
		b = append(b, address...)
	}
	b = append(b, id.Sign(append([]byte(label), b...))...)
	if len(b) > MaxSize {
		return nil, fmt.Errorf("%w: too long; give it fewer addresses", ErrMalformed)
	}
	return b, nil
}

// proof ends the addresses of the owner, who has the key that is on the card anyway.
func (c Card) proof() string { return "~shs:" + c.Key.Base64() }

func appendShort(b []byte, s string) []byte { return append(append(b, byte(len(s))), s...) }

// check refuses what no card may say.
func (c Card) check() error {
	if c.Key.IsZero() || len(c.Places) > MaxPlaces {
		return fmt.Errorf("%w: key or places", ErrMalformed)
	}
	if len(c.Name) > MaxName || !utf8.ValidString(c.Name) || strings.ContainsFunc(c.Name, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return fmt.Errorf("%w: name", ErrMalformed)
	}
	for _, p := range c.Places {
		if p.Kind < Hub || p.Kind > URL || p.Address == "" || len(p.Address) > MaxAddress || !visible(p.Address) {
			return fmt.Errorf("%w: address", ErrMalformed)
		}
	}
	return nil
}

// visible reports whether s is visible ASCII without spaces.
func visible(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f })
}

// Decode reads what [Card.Sign] writes and checks the signature. Its error is [ErrMalformed] or [ErrSignature].
func Decode(b []byte) (Card, error) {
	var c Card
	if len(b) > MaxSize || len(b) < 1+keys.PublicKeySize+8+signatureSize || b[0] != version {
		return c, fmt.Errorf("%w: length or version", ErrMalformed)
	}
	body, signature := b[:len(b)-signatureSize], b[len(b)-signatureSize:]
	r := &reader{b: body[1:]}
	key, err := keys.NewPublicKey(r.take(keys.PublicKeySize))
	if err != nil {
		return c, fmt.Errorf("%w: key", ErrMalformed)
	}
	c.Key = key
	c.Time = time.UnixMilli(int64(binary.BigEndian.Uint64(r.take(8))))
	id := string(r.take(int(r.byte())))
	c.Name = string(r.take(int(r.byte())))
	for range r.byte() {
		kind := Kind(r.byte())
		c.Places = append(c.Places, Place{kind, string(r.take(r.uint16()))})
	}
	if r.short || len(r.b) != 0 {
		return Card{}, fmt.Errorf("%w: length", ErrMalformed)
	}
	if err := c.ID.UnmarshalText([]byte(id)); err != nil {
		return Card{}, fmt.Errorf("%w: id", ErrMalformed)
	}
	if err := c.check(); err != nil {
		return Card{}, err
	}
	if !c.Key.Verify(append([]byte(label), body...), signature) {
		return Card{}, ErrSignature
	}
	for i, p := range c.Places {
		if p.Kind == Peer && !strings.Contains(p.Address, "~") {
			c.Places[i].Address += c.proof()
		}
	}
	return c, nil
}

// reader takes fields off the front and remembers when there were too few bytes.
type reader struct {
	b     []byte
	short bool
}

func (r *reader) take(n int) []byte {
	if n > len(r.b) {
		r.short, r.b = true, nil
		return make([]byte, n)
	}
	taken := r.b[:n]
	r.b = r.b[n:]
	return taken
}

func (r *reader) byte() byte  { return r.take(1)[0] }
func (r *reader) uint16() int { return int(binary.BigEndian.Uint16(r.take(2))) }

// Link writes a signed card as a link, which programs open and people copy.
func Link(signed []byte) string { return Scheme + base64.RawURLEncoding.EncodeToString(signed) }

// WebLink writes a signed card as a link to the page of an id at a hub, whose address is such as "https://example.com".
// A browser shows the page without telling the hub the card.
func WebLink(hub string, id secrez.ID, signed []byte) string {
	return strings.TrimSuffix(hub, "/") + WebPath + id.String() + "#" + base64.RawURLEncoding.EncodeToString(signed)
}

// Parse reads a card from a link of either form, and checks its signature. Its error is [ErrMalformed] or
// [ErrSignature].
func Parse(link string) (Card, error) {
	c, _, err := ParseSigned(link)
	return c, err
}

// ParseSigned is [Parse] and gives the signed bytes, too.
func ParseSigned(link string) (Card, []byte, error) {
	text, ok := textOf(strings.TrimSpace(link))
	if !ok || len(text) > base64.RawURLEncoding.EncodedLen(MaxSize) {
		return Card{}, nil, ErrMalformed
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || strings.ContainsAny(text, "\r\n") {
		return Card{}, nil, fmt.Errorf("%w: not all of it was copied", ErrMalformed)
	}
	c, err := Decode(b)
	return c, b, err
}

// textOf finds the card in a link.
func textOf(link string) (string, bool) {
	if text, ok := strings.CutPrefix(link, Scheme); ok {
		return text, true
	}
	u, err := url.Parse(link)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || !strings.Contains(u.Path, WebPath) {
		return "", false
	}
	return u.EscapedFragment(), u.Fragment != ""
}
