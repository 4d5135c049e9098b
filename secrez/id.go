package secrez

import (
	"crypto/rand"
	"fmt"
	"net/url"
	"strings"
)

const (
	idPattern = "xx-xxx-xx" // an x is a character of base32

	hostCharacters = "abcdefghijklmnopqrstuvwxyz0123456789-_.:"

	legacyTail = 8
)

// ID is what a hub calls a courier by, such as "7y-6ro-3z": 35 random bits. Values other than the zero value, which is no
// id, are well formed. IDs can be compared and be map keys.
type ID struct{ text [len(idPattern)]byte }

// NewID gives a random id.
func NewID() ID {
	text := [len(idPattern)]byte([]byte(idPattern))
	var random [len(idPattern)]byte
	_, _ = rand.Read(random[:]) // never fails
	for i, b := range random {
		if text[i] != '-' {
			text[i] = base32Alphabet[b&31]
		}
	}
	return ID{text}
}

// ParseID reads an id: lower case, three segments and nothing else. Its error is [ErrID].
func ParseID(s string) (ID, error) {
	if len(s) != len(idPattern) {
		return ID{}, fmt.Errorf("%w: it has %d characters", ErrID, len(idPattern))
	}
	for i := range len(s) {
		allowed := base32Alphabet
		if idPattern[i] == '-' {
			allowed = "-"
		}
		if strings.IndexByte(allowed, s[i]) < 0 {
			return ID{}, fmt.Errorf("%w: it looks like 7y-6ro-3z", ErrID)
		}
	}
	return ID{[len(idPattern)]byte([]byte(s))}, nil
}

// String writes the id, or nothing for the zero value.
func (id ID) String() string {
	if id.IsZero() {
		return ""
	}
	return string(id.text[:])
}

// IsZero reports whether id is no id.
func (id ID) IsZero() bool { return id == ID{} }

// MarshalText writes the id; the zero value gives no text.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads what [ParseID] reads; no text gives the zero value.
func (id *ID) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*id = ID{}
		return nil
	}
	parsed, err := ParseID(string(text))
	if err != nil {
		return err
	}
	*id = parsed
	return nil
}

// IDFromHost finds the id in a Host header: the header must be "<id>.<domain>", in any case, with or without a port and a
// final dot. It reports false for everything else: the domain itself, names that are deeper, other domains, and every
// name when domain is empty.
func IDFromHost(host, domain string) (ID, bool) {
	label, rest, found := strings.Cut(hostName(host), ".")
	if !found || rest == "" || rest != hostName(domain) {
		return ID{}, false
	}
	id, err := ParseID(label)
	return id, err == nil
}

// hostName lowers a host and takes its port and final dot off.
func hostName(host string) string {
	if colon := strings.LastIndexByte(host, ':'); colon >= 0 && isPort(host[colon+1:]) {
		host = host[:colon]
	}
	return lower(strings.TrimSuffix(host, "."))
}

func isPort(s string) bool { return len(s) <= 5 && strings.Trim(s, "0123456789") == "" }

// lower lowers ASCII alone: Unicode has letters outside it whose lower case is in it.
func lower(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c - 'A' + 'a'
		}
	}
	return string(b)
}

// ContactURL is the address at which a courier is reached through a hub, such as "https://7y-6ro-3z.example.com".
type ContactURL struct {
	ID  ID
	Hub string // the hub's own address, such as "https://example.com"
}

// ParseContactURL reads the address of a courier: http or https, an id, and a hub with or without a port. A path is
// dropped. Its error is [ErrID].
func ParseContactURL(s string) (ContactURL, error) {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.User != nil {
		return ContactURL{}, fmt.Errorf("%w: not an http address", ErrID)
	}
	label, hub, found := strings.Cut(lower(u.Host), ".")
	if !found || hostName(hub) == "" || strings.Trim(hub, hostCharacters) != "" {
		return ContactURL{}, fmt.Errorf("%w: no hub in the address", ErrID)
	}
	id, err := ParseID(label)
	if err != nil {
		return ContactURL{}, err
	}
	return ContactURL{ID: id, Hub: u.Scheme + "://" + hub}, nil
}

// String writes the address, or nothing for the zero value.
func (u ContactURL) String() string {
	scheme, hub, found := strings.Cut(u.Hub, "://")
	if !found || u.ID.IsZero() {
		return ""
	}
	return scheme + "://" + u.ID.String() + "." + hub
}

// NewLegacyID gives an id as hubs 0.1 gave them: the hash of the owner's sign half, a "0", and eight random characters.
// Its error is [ErrPublicKey].
func NewLegacyID(owner PublicKey) (string, error) {
	hash, err := legacyHash(owner)
	if err != nil {
		return "", err
	}
	tail := make([]byte, legacyTail)
	_, _ = rand.Read(tail) // never fails
	for i, b := range tail {
		tail[i] = base32Alphabet[b&31]
	}
	return hash + legacySeparator + string(tail), nil
}

// CheckLegacyID checks that an id of hub 0.1 is well formed and owner's. Its error is [ErrID], or [ErrPublicKey] for the
// zero owner: the original let anybody ask for anybody's id.
func CheckLegacyID(id string, owner PublicKey) error {
	hash, err := legacyHash(owner)
	if err != nil {
		return err
	}
	tail, found := strings.CutPrefix(id, hash+legacySeparator)
	if !found {
		return fmt.Errorf("%w: not of this account", ErrID)
	}
	if len(tail) != legacyTail || strings.Trim(tail, base32Alphabet) != "" {
		return fmt.Errorf("%w: it ends with %d characters of base32", ErrID, legacyTail)
	}
	return nil
}

func legacyHash(owner PublicKey) (string, error) {
	if owner.IsZero() {
		return "", fmt.Errorf("%w: no key", ErrPublicKey)
	}
	hash := Keccak256(owner.sign.Bytes())
	return EncodeBase32(hash[:]), nil
}
