package mailbox

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"

	"github.com/secretstack/secretstack/hub/registry"
	"github.com/secretstack/secretstack/keys"
)

// Policy is what a recipient says about its mailbox.
type Policy struct {
	// Keys may deposit mail.
	Keys []keys.PublicKey
	// Tokens are the SHA-256 of what others show to deposit mail, 32 bytes each.
	Tokens [][]byte
	// Strangers opens the request box for everybody else.
	Strangers bool
	// Digest is whatever the recipient recognises its policy by, at most 64 bytes.
	Digest []byte
}

// A stored policy:
//
//	1   version: 1
//	1   flags: 1 for strangers
//	1   length of the digest
//	    digest
//	    tags of those who may deposit, sorted, 16 bytes each
const (
	policyVersion = 1
	strangersFlag = 1
	policyHead    = 3
	maxDigest     = 64
)

// tag is a keyed hash of a sender: of its key, or of the token that it shows.
type tag [16]byte

// The two kinds of tags.
const (
	keyTag   = "key\x00"
	tokenTag = "token\x00"
)

func (m *Mailboxes) tag(kind string, sender []byte) (t tag) {
	h := hmac.New(sha256.New, m.tagKey[:])
	h.Write([]byte(kind))
	h.Write(sender)
	copy(t[:], h.Sum(nil))
	return t
}

// label is a tag as the engine takes it.
func (t tag) label() string { return base64.RawURLEncoding.EncodeToString(t[:]) }

// parseLabel undoes label. What is none stands for nobody, the zero tag.
func parseLabel(label string) (t tag) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(label)
	if err == nil && len(b) == len(t) {
		copy(t[:], b)
	}
	return t
}

// policy is a stored policy.
type policy struct {
	strangers bool
	digest    []byte
	tags      []byte // sorted
}

func parsePolicy(b []byte) (p policy, err error) {
	unreadable := errors.New("a stored policy cannot be read")
	if len(b) < policyHead || b[0] != policyVersion {
		return p, unreadable
	}
	n := policyHead + int(b[2])
	if len(b) < n || (len(b)-n)%len(tag{}) != 0 {
		return p, unreadable
	}
	return policy{strangers: b[1]&strangersFlag != 0, digest: b[policyHead:n], tags: b[n:]}, nil
}

// has looks for a tag.
func (p policy) has(t tag) bool {
	low, high := 0, len(p.tags)/len(t)
	for low < high {
		mid := int(uint(low+high) / 2)
		switch bytes.Compare(p.tags[mid*len(t):][:len(t)], t[:]) {
		case 0:
			return true
		case -1:
			low = mid + 1
		default:
			high = mid
		}
	}
	return false
}

// encode makes the stored form of a policy.
func (m *Mailboxes) encode(p Policy) ([]byte, error) {
	if len(p.Keys)+len(p.Tokens) > m.limits.MaxAllowed {
		return nil, fmt.Errorf("%w: it may have %d entries", ErrList, m.limits.MaxAllowed)
	}
	if len(p.Digest) > maxDigest {
		return nil, fmt.Errorf("%w: the digest is too long", ErrList)
	}
	tags := make([]tag, 0, len(p.Keys)+len(p.Tokens))
	for _, k := range p.Keys {
		if k.IsZero() {
			return nil, fmt.Errorf("%w: zero is nobody's key", ErrList)
		}
		tags = append(tags, m.tag(keyTag, k.Bytes()))
	}
	for _, hash := range p.Tokens {
		if len(hash) != sha256.Size {
			return nil, fmt.Errorf("%w: the hash of a token has %d bytes", ErrList, sha256.Size)
		}
		tags = append(tags, m.tag(tokenTag, hash))
	}
	slices.SortFunc(tags, func(a, b tag) int { return bytes.Compare(a[:], b[:]) })
	b := []byte{policyVersion, 0, byte(len(p.Digest))}
	if p.Strangers {
		b[1] = strangersFlag
	}
	b = append(b, p.Digest...)
	for _, t := range slices.Compact(tags) {
		b = append(b, t[:]...)
	}
	return b, nil
}

// Allow opens the mailbox of a recipient, or changes who may use it. What waits there stays. It is on disk when Allow
// returns. Its error is ErrList, ErrUnavailable or ErrClosed.
func (m *Mailboxes) Allow(ctx context.Context, recipient keys.PublicKey, p Policy) error {
	stored, err := m.encode(p)
	if err != nil {
		return err
	}
	if err := m.enter(); err != nil {
		return err
	}
	defer m.leave(nil)
	_, err = m.policies.Put(ctx, boxOf(recipient), stored)
	return m.unavailable(err)
}

// Remove closes the mailbox of a recipient and throws away what is in it. Its error is ErrUnavailable or ErrClosed.
func (m *Mailboxes) Remove(ctx context.Context, recipient keys.PublicKey) error {
	if err := m.enter(); err != nil {
		return err
	}
	err := m.policies.Delete(ctx, boxOf(recipient))
	if err != nil {
		m.leave(nil)
		return m.unavailable(err)
	}
	err = m.purge(ctx, recipient)
	m.leave(err)
	return m.unavailable(err)
}

// policyOf reads the policy of a recipient. Its error is ErrNoMailbox or ErrUnavailable.
func (m *Mailboxes) policyOf(ctx context.Context, recipient keys.PublicKey) (policy, error) {
	item, err := m.policies.Get(ctx, boxOf(recipient))
	if errors.Is(err, registry.ErrNotFound) {
		return policy{}, ErrNoMailbox
	}
	if err != nil {
		return policy{}, m.unavailable(err)
	}
	p, err := parsePolicy(item.Value)
	if err != nil {
		return policy{}, m.unavailable(err)
	}
	return p, nil
}

// admits says under which tag a sender deposits, and whether it does so as a stranger. Its error is ErrNotAllowed.
func (m *Mailboxes) admits(p policy, d Deposit) (t tag, kind kind, err error) {
	t = m.tag(keyTag, d.Sender.Bytes())
	if p.has(t) {
		return t, mail, nil
	}
	if len(d.Token) > 0 {
		hash := sha256.Sum256(d.Token)
		if shown := m.tag(tokenTag, hash[:]); p.has(shown) {
			return shown, mail, nil
		}
	}
	if p.strangers {
		return t, request, nil
	}
	return t, request, ErrNotAllowed
}

// boxOf is the name of a recipient's box in queues, and of its policy.
func boxOf(recipient keys.PublicKey) string {
	return base64.RawURLEncoding.EncodeToString(recipient.Bytes())
}

func parseBox(box string) (recipient keys.PublicKey, ok bool) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(box)
	if err != nil {
		return recipient, false
	}
	recipient, err = keys.NewPublicKey(b)
	return recipient, err == nil
}
