package admission

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/secretstack/secretstack/keys"
)

const (
	// MaxUses is how many keys can redeem one invite at most. Its record grows with them and is written whole.
	MaxUses = 1000

	codeAlphabet = "ybndrfg8ejkmcpqxot1uwisza345h769" // z-base-32: nothing in it looks like something else in it
	codeGroup    = 5
	codeLength   = 4 * codeGroup
	maxCode      = 64 // with what people put in between
	idBytes      = 6
)

// Invite is what is known of an invite. Its code is not.
type Invite struct {
	ID      string    `json:"id"`                // names it: 12 hexadecimal digits
	Note    string    `json:"note,omitempty"`    // for the operator; one line, at most MaxNote bytes
	Uses    int       `json:"uses"`              // how many keys may redeem it, 1 to MaxUses
	Members []Member  `json:"members,omitempty"` // who has, oldest first
	Created time.Time `json:"created,omitzero"`
	Expires time.Time `json:"expires,omitzero"`  // from when on it cannot be redeemed; whole seconds. Zero: never
	Revoked bool      `json:"revoked,omitempty"` // it cannot be redeemed any more
}

// Member is a key that has redeemed an invite.
type Member struct {
	Key   keys.PublicKey `json:"key"`
	Since time.Time      `json:"since,omitzero"`
}

// Left tells how often the invite can be redeemed after now.
func (i Invite) Left(now time.Time) int {
	if i.Revoked || !i.Expires.IsZero() && !now.Before(i.Expires) {
		return 0
	}
	return max(0, i.Uses-len(i.Members))
}

// ParseCode gives the code of an invite in the form in which CreateInvite shows it: "xxxxx-xxxxx-xxxxx-xxxxx". Capitals, and
// spaces and dashes anywhere, are accepted. Its error is [ErrInvite].
func ParseCode(s string) (string, error) {
	if len(s) > maxCode {
		return "", fmt.Errorf("%w: it is too long", ErrInvite)
	}
	s = strings.NewReplacer(" ", "", "-", "").Replace(strings.ToLower(s))
	if len(s) != codeLength || strings.Trim(s, codeAlphabet) != "" {
		return "", fmt.Errorf("%w: it is %d letters and digits", ErrInvite, codeLength)
	}
	return grouped(s), nil
}

func grouped(s string) string {
	return strings.Join([]string{s[:codeGroup], s[codeGroup : 2*codeGroup], s[2*codeGroup : 3*codeGroup], s[3*codeGroup:]}, "-")
}

func newCode() string {
	var random [codeLength]byte
	_, _ = rand.Read(random[:]) // never fails
	for i, b := range random {
		random[i] = codeAlphabet[b&31]
	}
	return grouped(string(random[:]))
}

// A codeHash stands for a code. The code cannot be found from it, because the code is random and long.
type codeHash [sha256.Size]byte

func hashCode(code string) codeHash { return sha256.Sum256([]byte("secretstack invite " + code)) }

// id names the invite in lists, logs and its bucket.
func (h codeHash) id() string { return hex.EncodeToString(h[:idBytes]) }

// heldInvite is an invite in memory: with its hash, and its revision in the bucket. It never changes.
type heldInvite struct {
	Invite
	hash     codeHash
	revision uint64
}

// redeemable says whether one more key can redeem the invite, and why not.
func (i *heldInvite) redeemable(now time.Time) error {
	switch {
	case i.Revoked:
		return fmt.Errorf("%w: it was revoked", ErrInvite)
	case !i.Expires.IsZero() && !now.Before(i.Expires):
		return fmt.Errorf("%w: it has expired", ErrInvite)
	case len(i.Members) >= i.Uses:
		return fmt.Errorf("%w: it is used up", ErrInvite)
	}
	return nil
}

func (i *heldInvite) has(key keys.PublicKey) bool {
	return slices.ContainsFunc(i.Members, func(m Member) bool { return m.Key.Equal(key) })
}

// redeemed is the invite with one more member.
func (i *heldInvite) redeemed(key keys.PublicKey, now time.Time) *heldInvite {
	next := *i
	since, _ := normalTime(now) // a clock far off is no reason to refuse
	next.Members = append(slices.Clip(i.Members), Member{Key: key, Since: since})
	return &next
}

// storedInvite is an invite in its bucket, under its id.
type storedInvite struct {
	Version int    `json:"v"`
	Hash    string `json:"hash"`
	Invite
}

func (i *heldInvite) encode() ([]byte, error) {
	return json.Marshal(storedInvite{storedVersion, hex.EncodeToString(i.hash[:]), i.Invite})
}

// decodeInvite reads an invite that is stored under key.
func decodeInvite(key string, value []byte, revision uint64) (*heldInvite, error) {
	var stored storedInvite
	if err := decodeStrictly(value, &stored); err != nil {
		return nil, err
	}
	i := &heldInvite{Invite: stored.Invite, revision: revision}
	n, err := hex.Decode(i.hash[:], []byte(stored.Hash[:min(len(stored.Hash), 2*len(i.hash))]))
	switch {
	case stored.Version != storedVersion:
		return nil, fmt.Errorf("%w: an invite of version %d", ErrStored, stored.Version)
	case err != nil || n != len(i.hash) || len(stored.Hash) != 2*n || i.hash.id() != key || i.ID != key:
		return nil, fmt.Errorf("%w: an invite under the wrong key", ErrStored)
	case i.Uses < 1 || i.Uses > MaxUses || len(i.Members) > i.Uses:
		return nil, fmt.Errorf("%w: an invite with %d of %d uses", ErrStored, len(i.Members), i.Uses)
	case slices.ContainsFunc(i.Members, func(m Member) bool { return m.Key.IsZero() }):
		return nil, fmt.Errorf("%w: an invite redeemed by nobody", ErrStored)
	}
	return i, nil
}

// normalInvite checks the terms of an invite to be.
func normalInvite(terms Invite, now time.Time) (Invite, error) {
	i := Invite{Uses: terms.Uses}
	if i.Uses == 0 {
		i.Uses = 1
	}
	if i.Uses < 0 || i.Uses > MaxUses {
		return Invite{}, fmt.Errorf("%w: an invite has 1 to %d uses", ErrRule, MaxUses)
	}
	var err error
	if i.Note, err = normalNote(terms.Note); err != nil {
		return Invite{}, err
	}
	if i.Expires, err = normalTime(terms.Expires); err != nil {
		return Invite{}, err
	}
	if !i.Expires.IsZero() && !now.Before(i.Expires) {
		return Invite{}, fmt.Errorf("%w: the invite would have expired already", ErrRule)
	}
	i.Created, _ = normalTime(now)
	return i, nil
}
