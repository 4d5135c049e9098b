package admission

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/secrez"
)

// maxSubject is the longest text, in bytes, that is looked at.
const maxSubject = 128

// Subject is whom a rule is about: a key, the courier that has an id, or a network. Subjects can be compared. The zero value
// is nobody.
type Subject struct {
	key     [keys.PublicKeySize]byte
	id      secrez.ID
	network netip.Prefix // canonical
}

// KeySubject is the holder of a key. The zero key gives nobody.
func KeySubject(key keys.PublicKey) Subject { return Subject{key: key.Array()} }

// IDSubject is the courier that has an id.
func IDSubject(id secrez.ID) Subject { return Subject{id: id} }

// NetworkSubject is everybody in a network. Its error is [ErrRule] for a network with host bits, such as 192.0.2.1/24, and
// for one of IPv6 that covers IPv4 in part.
func NetworkSubject(network netip.Prefix) (Subject, error) {
	network, err := canonical(network)
	return Subject{network: network}, err
}

// ParseSubject reads a subject as people write it: a key as reference "@….ed25519" or base64, a public key of Secrez
// "box$sign" (of which the sign half counts), an id "7y-6ro-3z", a network "192.0.2.0/24" or "2001:db8::/32", or an address.
// Its error is [ErrRule].
func ParseSubject(s string) (Subject, error) {
	if len(s) > maxSubject {
		return Subject{}, fmt.Errorf("%w: longer than %d characters", ErrRule, maxSubject)
	}
	if id, err := secrez.ParseID(s); err == nil {
		return IDSubject(id), nil
	}
	if account, err := secrez.ParsePublicKey(s); err == nil {
		return KeySubject(account.Identity()), nil
	}
	if key, err := keys.ParsePublicKey(s); err == nil {
		if key.IsZero() {
			return Subject{}, fmt.Errorf("%w: nobody has the zero key", ErrRule)
		}
		return KeySubject(key), nil
	}
	if network, err := parseNetwork(s); err == nil {
		return NetworkSubject(network)
	}
	return Subject{}, fmt.Errorf("%w: neither a key (@….ed25519 or box$sign), an id (7y-6ro-3z), nor a network (192.0.2.0/24)",
		ErrRule)
}

// parseNetwork reads a network, or an address as the network that has nothing else in it.
func parseNetwork(s string) (netip.Prefix, error) {
	if strings.Contains(s, "/") {
		return netip.ParsePrefix(s)
	}
	addr, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Prefix{}, err
	}
	if addr.Zone() != "" {
		return netip.Prefix{}, fmt.Errorf("%w: an address with a zone", ErrRule)
	}
	return addr.Prefix(addr.BitLen())
}

// canonical gives a network its one form: IPv4 as such. Host bits are refused, because whoever writes 10.1.2.3/8 may not mean
// sixteen million addresses.
func canonical(network netip.Prefix) (netip.Prefix, error) {
	if !network.IsValid() {
		return netip.Prefix{}, fmt.Errorf("%w: not a network", ErrRule)
	}
	if addr := network.Addr(); addr.Is4In6() {
		if network.Bits() < 96 {
			return netip.Prefix{}, fmt.Errorf("%w: write IPv4 networks as such", ErrRule)
		}
		network = netip.PrefixFrom(addr.Unmap(), network.Bits()-96)
	}
	if masked := network.Masked(); masked != network {
		return netip.Prefix{}, fmt.Errorf("%w: the network of %v is %v", ErrRule, network, masked)
	}
	return network, nil
}

// IsZero reports whether the subject is nobody.
func (s Subject) IsZero() bool { return s == Subject{} }

// Key gives the key, if the rule is about one.
func (s Subject) Key() (keys.PublicKey, bool) {
	key, _ := keys.NewPublicKey(s.key[:]) // it has the length
	return key, !key.IsZero()
}

// ID gives the id, if the rule is about one.
func (s Subject) ID() (secrez.ID, bool) { return s.id, !s.id.IsZero() }

// Network gives the network, if the rule is about one.
func (s Subject) Network() (netip.Prefix, bool) { return s.network, s.network.IsValid() }

// String writes the subject in the one form that is stored: "@….ed25519", "7y-6ro-3z", "192.0.2.0/24", or the address of a
// network that is one. The zero value gives no text.
func (s Subject) String() string {
	if network, ok := s.Network(); ok {
		if network.IsSingleIP() {
			return network.Addr().String()
		}
		return network.String()
	}
	if id, ok := s.ID(); ok {
		return id.String()
	}
	key, _ := s.Key()
	return key.Ref()
}

// MarshalText writes what String returns.
func (s Subject) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads what ParseSubject reads.
func (s *Subject) UnmarshalText(text []byte) error {
	parsed, err := ParseSubject(string(text))
	if err == nil {
		*s = parsed
	}
	return err
}
