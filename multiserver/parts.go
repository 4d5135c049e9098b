package multiserver

import (
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/secretstack/secretstack/keys"
)

const (
	shsName    = "shs"
	noauthName = "noauth"
)

// Mode says whose text is read.
type Mode int

const (
	// Strict is for what people type: one way to write each thing, and errors
	// that name the mistake and the way out.
	Strict Mode = iota
	// Loose is for what peers send: what the JavaScript parser accepts and
	// could mean something.
	Loose
)

// ErrOtherPart is what [PartParser.ParsePart] returns for a part that belongs
// to another transport or transform.
var ErrOtherPart = errors.New("multiserver: the part belongs to another protocol")

// PartParser is the side of a [Transport] and of a [Transform] that reads
// addresses.
type PartParser interface {
	// Name is the name in the configuration, and that of the parts.
	Name() string
	// ParsePart returns part in its canonical form. It returns ErrOtherPart
	// when the part is not one of its own, which the name alone decides, and
	// any other error when it is but cannot be used. Error texts have no
	// package prefix: they continue "address "…": ".
	ParsePart(part Part, mode Mode) (Part, error)
}

// Known is a set of transports and transforms to check addresses against.
type Known struct {
	Transports []PartParser
	Transforms []PartParser
}

// Parse reads addresses as the function [Parse] does and refuses parts that no
// member of the set knows.
func (k Known) Parse(s string) ([]Address, error) {
	return parseStrict(s, func(a Address) (Address, error) { return k.check(a, false) })
}

// ParseUsable is Parse, and leaves out the addresses with a transport that no
// member of the set knows, as long as another address is left: they are other
// ways to the same peer.
func (k Known) ParseUsable(s string) ([]Address, error) {
	addrs, err := parseStrict(s, func(a Address) (Address, error) {
		checked, err := k.check(a, false)
		if err != nil && k.knowsNothingOf(a) {
			return nil, nil
		}
		return checked, err
	})
	if err != nil {
		return nil, err
	}
	addrs = slices.DeleteFunc(addrs, func(a Address) bool { return a == nil })
	if len(addrs) == 0 {
		return k.Parse(s) // which says what is not known
	}
	return addrs, nil
}

// knowsNothingOf reports whether an address begins with a name that nobody
// claims, wherever it stands.
func (k Known) knowsNothingOf(a Address) bool {
	claimed := func(p PartParser) bool { return claims(p, a.Transport()) }
	return !slices.ContainsFunc(k.Transports, claimed) && !slices.ContainsFunc(k.Transforms, claimed)
}

// standard is the set of parts that Parse checks without being told.
func standard() Known {
	return Known{
		Transports: []PartParser{HostPortParts("net"), HostPortParts("onion"), URLParts(), PathParts()},
		Transforms: []PartParser{keyParser{}, noAuthParser{}},
	}
}

// check brings every part of a to its canonical form, by the strict rules.
func (k Known) check(a Address, allowUnknown bool) (Address, error) {
	if len(a) > 2 && !allowUnknown {
		return nil, fmt.Errorf("it has %d parts, but a transport and one transform is all that can be used here", len(a))
	}
	checked := make(Address, len(a))
	for i, part := range a {
		parsers, kind := k.Transforms, "transform"
		if i == 0 {
			parsers, kind = k.Transports, "transport"
		}
		p, err := parseAmong(parsers, part, Strict)
		if errors.Is(err, ErrOtherPart) {
			p, err = part, k.unknown(kind, part, i == 0, allowUnknown)
		}
		if err != nil {
			return nil, err
		}
		checked[i] = p
	}
	return checked, nil
}

// unknown is the error for a part that no parser claims. One that is known, but
// at the other place, is refused even where plugins may add names.
func (k Known) unknown(kind string, part Part, first, allow bool) error {
	others, same, where := k.Transports, k.Transforms, "after the transport"
	if first {
		others, same, where = k.Transforms, k.Transports, "before the transform"
	}
	if slices.ContainsFunc(others, func(p PartParser) bool { return claims(p, part) }) {
		return fmt.Errorf("%q is not a %s: a transport comes first and its transform after it, as in net:HOST:PORT~shs:KEY", part.Name, kind)
	}
	if allow {
		return nil
	}
	if len(same) == 0 {
		return fmt.Errorf("nothing here knows the %s %q", kind, shorten(part.Name))
	}
	return fmt.Errorf("nothing here knows the %s %q; %s one of these can stand: %s", kind, shorten(part.Name), where, names(same))
}

func claims(p PartParser, part Part) bool {
	_, err := p.ParsePart(part, Loose)
	return !errors.Is(err, ErrOtherPart)
}

// parseAmong lets the first parser that claims part read it.
func parseAmong[P PartParser](parsers []P, part Part, mode Mode) (Part, error) {
	for _, p := range parsers {
		canonical, err := p.ParsePart(part, mode)
		if !errors.Is(err, ErrOtherPart) {
			return canonical, err
		}
	}
	return Part{}, ErrOtherPart
}

func names[P PartParser](parsers []P) string {
	all := make([]string, len(parsers))
	for i, p := range parsers {
		all[i] = p.Name()
	}
	return strings.Join(all, ", ")
}

// ParseHostPort reads a part of the form name:host:port, as the transports net
// and onion have it. An IPv6 address stands without brackets, so the host is
// all between the name and the last colon; an empty host is localhost. The part
// returned is canonical. See docs/PROTOCOL.md §6.1.
func ParseHostPort(name string, part Part, mode Mode) (host string, port uint16, canonical Part, err error) {
	if part.Name != name {
		return "", 0, Part{}, ErrOtherPart
	}
	if len(part.Data) < 2 {
		return "", 0, Part{}, fmt.Errorf("%s needs a host and a port, as in %s:example.org:8008", name, name)
	}
	last := len(part.Data) - 1
	host = strings.Join(part.Data[:last], ":")
	port, err = parsePort(part.Data[last], mode)
	if err != nil {
		return "", 0, Part{}, err
	}
	if host == "" {
		host = "localhost"
	}
	host = withoutBrackets(host)
	if mode == Strict {
		if err := checkHost(host); err != nil {
			return "", 0, Part{}, err
		}
	}
	return host, port, HostPortPart(name, host, port), nil
}

// withoutBrackets takes the brackets off an IPv6 address. JavaScript keeps them
// and then looks up a host of that name.
func withoutBrackets(host string) string {
	inner, found := strings.CutPrefix(host, "[")
	inner, closed := strings.CutSuffix(inner, "]")
	if addr, err := netip.ParseAddr(inner); found && closed && err == nil && addr.Is6() {
		return inner
	}
	return host
}

// WithoutZone takes the zone, such as "%eth0", off an IPv6 address: it means
// something on one machine only, and is not for others to see.
func WithoutZone(host string) string {
	addr, err := netip.ParseAddr(host)
	if err != nil || addr.Zone() == "" {
		return host
	}
	return addr.WithZone("").String()
}

// HostPortPart makes the part name:host:port.
func HostPortPart(name, host string, port uint16) Part {
	return NewPart(name, host+":"+strconv.Itoa(int(port)))
}

func parsePort(s string, mode Mode) (uint16, error) {
	n := math.NaN()
	if mode == Loose {
		n = jsNumber(s)
	} else if v, err := strconv.ParseUint(s, 10, 32); err == nil {
		n = float64(v)
	}
	if n != math.Trunc(n) || n < 1 || n > math.MaxUint16 {
		return 0, fmt.Errorf("port %q is not a number from 1 to 65535", shorten(s))
	}
	return uint16(n), nil
}

// jsNumber is the Number() of JavaScript, for the forms that can be a port.
func jsNumber(s string) float64 {
	s = strings.TrimSpace(s)
	if s == "" {
		return 0
	}
	if len(s) > 2 && s[0] == '0' && strings.ContainsRune("xXoObB", rune(s[1])) && !strings.Contains(s, "_") {
		if v, err := strconv.ParseUint(s, 0, 64); err == nil {
			return float64(v)
		}
		return math.NaN()
	}
	if strings.Trim(s, "0123456789.eE+-") != "" {
		return math.NaN()
	}
	if v, err := strconv.ParseFloat(s, 64); err == nil {
		return v
	}
	return math.NaN()
}

// checkHost refuses what cannot be a host name or an IP address.
func checkHost(host string) error {
	if strings.Contains(host, ":") {
		if _, err := netip.ParseAddr(host); err != nil {
			return fmt.Errorf("host %q is neither a name nor an IPv6 address (a host and one port are wanted)", shorten(host))
		}
		return nil
	}
	if len(host) > 253 {
		return fmt.Errorf("the host has %d characters; no host name has more than 253", len(host))
	}
	if i := strings.IndexFunc(host, func(r rune) bool { return !hostRune(r) }); i >= 0 {
		return fmt.Errorf("host %q holds a character that no host name has", shorten(host))
	}
	return nil
}

func hostRune(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' ||
		r == '-' || r == '.' || r == '_'
}

// HostPortParts returns the parser of parts of the form name:host:port, for
// transports to embed.
func HostPortParts(name string) PartParser { return hostPortParser(name) }

type hostPortParser string

func (h hostPortParser) Name() string { return string(h) }

func (h hostPortParser) ParsePart(part Part, mode Mode) (Part, error) {
	_, _, canonical, err := ParseHostPort(string(h), part, mode)
	return canonical, err
}

// ParseURL reads a part of the form ws://host[:port][/path][?query], or wss.
// The URL returned is normalised: scheme and host in lower case, the scheme's
// own port left out, a path of at least "/". See docs/PROTOCOL.md §6.3.
func ParseURL(part Part, mode Mode) (*url.URL, Part, error) {
	scheme := part.Name
	if mode == Loose {
		scheme = strings.ToLower(scheme)
	}
	if (scheme != "ws" && scheme != "wss") || part.Data == nil {
		return nil, Part{}, ErrOtherPart
	}
	rest := part.Rest()
	if mode == Loose && !strings.HasPrefix(rest, "//") {
		rest = "//" + strings.TrimLeft(rest, "/")
	}
	u, err := url.Parse(scheme + ":" + rest)
	if err != nil || !strings.HasPrefix(rest, "//") || !isURLHost(u.Hostname()) {
		return nil, Part{}, fmt.Errorf("%s needs an address as in %s://example.org:8989/path", scheme, scheme)
	}
	if mode == Strict {
		if err := checkURL(u); err != nil {
			return nil, Part{}, err
		}
	}
	if port := u.Port(); port != "" || strings.HasSuffix(u.Host, ":") {
		if _, err := parsePort(port, Strict); err != nil {
			return nil, Part{}, err
		}
	}
	normaliseURL(u)
	return u, URLPart(u), nil
}

// isURLHost reports whether host is there and, if it holds a colon, an IPv6
// address.
func isURLHost(host string) bool {
	if strings.Contains(host, ":") {
		_, err := netip.ParseAddr(host)
		return err == nil
	}
	return host != ""
}

func checkURL(u *url.URL) error {
	if u.User != nil {
		return errors.New("a name or password cannot stand in an address: the key is the proof")
	}
	if u.Fragment != "" {
		return errors.New("'#' cannot stand in a WebSocket address")
	}
	return checkHost(u.Hostname())
}

func normaliseURL(u *url.URL) {
	host, port := strings.ToLower(u.Hostname()), u.Port()
	if (u.Scheme == "ws" && port == "80") || (u.Scheme == "wss" && port == "443") {
		port = ""
	}
	switch {
	case port != "":
		u.Host = net.JoinHostPort(host, port)
	case strings.Contains(host, ":"):
		u.Host = "[" + host + "]"
	default:
		u.Host = host
	}
	if u.Path == "" {
		u.Path = "/"
	}
	u.Fragment, u.RawFragment = "", ""
}

// URLPart makes the part of a ws or wss URL.
func URLPart(u *url.URL) Part {
	name, rest, _ := strings.Cut(u.String(), ":")
	return NewPart(name, rest)
}

// URLParts returns the parser of ws:// and wss:// parts, whose name is "ws".
func URLParts() PartParser { return urlParser{} }

type urlParser struct{}

func (urlParser) Name() string { return "ws" }

func (urlParser) ParsePart(part Part, mode Mode) (Part, error) {
	_, canonical, err := ParseURL(part, mode)
	return canonical, err
}

// ParsePath reads a part of the form unix:path, the path of a socket.
func ParsePath(part Part, mode Mode) (path string, canonical Part, err error) {
	if part.Name != "unix" {
		return "", Part{}, ErrOtherPart
	}
	path = part.Rest()
	if path == "" {
		return "", Part{}, errors.New("unix needs the path of a socket, as in unix:/home/me/.secretstack/socket")
	}
	if strings.ContainsRune(path, 0) {
		return "", Part{}, errors.New("a path cannot hold a zero byte")
	}
	return path, NewPart("unix", path), nil
}

// PathParts returns the parser of unix:path parts.
func PathParts() PartParser { return pathParser{} }

type pathParser struct{}

func (pathParser) Name() string { return "unix" }

func (pathParser) ParsePart(part Part, mode Mode) (Part, error) {
	_, canonical, err := ParsePath(part, mode)
	return canonical, err
}

// ParseKeyPart reads a part of the form shs:key[:seed]. The seed, of 32 bytes,
// is what an invitation gives a newcomer to dial with; it is nil when there is
// none. See docs/PROTOCOL.md §6.1.
func ParseKeyPart(part Part, mode Mode) (key keys.PublicKey, seed []byte, canonical Part, err error) {
	fail := func(err error) (keys.PublicKey, []byte, Part, error) { return keys.PublicKey{}, nil, Part{}, err }
	if part.Name != shsName {
		return fail(ErrOtherPart)
	}
	if len(part.Data) == 0 || part.Data[0] == "" {
		return fail(errors.New("shs needs the peer's key, as in shs:1b9KP8znF7A4i8wnSevBSK2ZabI/Re4bYF/Vh3hXasQ="))
	}
	if mode == Strict {
		key, err = keys.ParsePublicKey(part.Data[0])
	} else {
		key, err = keys.ParsePublicKeyLenient(part.Data[0])
	}
	if err != nil {
		return fail(fmt.Errorf("the key after shs: cannot be used: %s", strings.TrimPrefix(err.Error(), "keys: ")))
	}
	canonical = Part{Name: shsName, Data: []string{key.Base64()}}
	if len(part.Data) == 1 {
		return key, nil, canonical, nil
	}
	if mode == Strict && len(part.Data) > 2 {
		return fail(errors.New("shs takes a key and at most a seed, as in shs:KEY:SEED"))
	}
	seed, err = parseSeed(part.Data[1], mode)
	if err != nil {
		return fail(err)
	}
	canonical.Data = append(canonical.Data, base64.StdEncoding.EncodeToString(seed))
	return key, seed, canonical, nil
}

func parseSeed(s string, mode Mode) ([]byte, error) {
	bad := errors.New("the seed after the key is not 32 bytes of base64")
	if mode == Strict {
		seed, err := base64.StdEncoding.DecodeString(s)
		if err != nil || len(seed) != 32 {
			return nil, bad
		}
		return seed, nil
	}
	// A seed is read with the leniency of a key: both are 32 bytes of base64.
	seed, err := keys.ParsePublicKeyLenient(s)
	if err != nil {
		return nil, bad
	}
	return seed.Bytes(), nil
}

type keyParser struct{}

func (keyParser) Name() string { return shsName }

func (keyParser) ParsePart(part Part, mode Mode) (Part, error) {
	_, _, canonical, err := ParseKeyPart(part, mode)
	return canonical, err
}

type noAuthParser struct{}

func (noAuthParser) Name() string { return noauthName }

// ParsePart accepts noauth with anything after it, and nothing else: the
// JavaScript plugin takes every part, so that an address with a key in it
// reaches a peer without any proof.
func (noAuthParser) ParsePart(part Part, _ Mode) (Part, error) {
	if part.Name != noauthName {
		return Part{}, ErrOtherPart
	}
	return Part{Name: noauthName}, nil
}
