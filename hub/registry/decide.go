package registry

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/secretstack/secretstack/hub/registry/claim"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/keys/rotation"
	"github.com/secretstack/secretstack/secrez"
)

// newIDAttempts is after how many taken ids in a row there seem to be no free ones left.
const newIDAttempts = 128

// Registration is what a courier brings: a native statement or a payload of the v1 API of Secrez, one of the two.
type Registration struct {
	// Payload is a verified payload. It asks for a reset if it has a member "reset" that is true. Whether it is fresh, and
	// used once, is for the caller to see (secrez.ReplayCache).
	Payload *secrez.Payload

	// Statement is a native statement. That its key is the one the peer has proved is for the caller to see.
	Statement *claim.Signed

	// Receipt is the latest receipt that the courier holds, if it holds one. It is looked at only if the registry has no
	// record of the key, or an older one.
	Receipt *claim.Receipt

	// Rotations are statements that lead to the key that registers, from keys that were given up for it; with a native
	// statement only. The first whose old key has a record brings the id of that over, if the new key has none: with the next
	// sequence, for ever. Then the old key can never register again. Whether it may do so is for the caller to see.
	Rotations []*rotation.Statement
}

// A petition is a registration whose signatures have been verified.
type petition struct {
	key      [keySize]byte
	box      *[boxSize]byte // nil: not stated
	native   bool
	reset    bool
	id       secrez.ID // that the owner believes to hold; native only
	sequence uint64    // native only
	digest   uint64
	evidence Evidence // without the receipt
	receipt  *claim.Receipt

	rotations []*rotation.Statement
}

// verify does all that needs no knowledge of other records.
func (r Registration) verify(hub keys.PublicKey, maxEvidence int) (*petition, error) {
	var p *petition
	var err error
	switch {
	case (r.Payload == nil) == (r.Statement == nil):
		return nil, fmt.Errorf("%w: it needs a statement or a payload", ErrEvidence)
	case r.Payload != nil:
		p, err = payloadPetition(r.Payload, maxEvidence)
	default:
		p, err = statementPetition(r.Statement, hub)
	}
	if err != nil {
		return nil, err
	}
	for _, s := range r.Rotations {
		if !p.native || s.New.Array() != p.key {
			return nil, fmt.Errorf("%w: the change of keys is to another key", ErrEvidence)
		}
	}
	p.rotations = r.Rotations
	p.digest, _ = p.evidence.summary()
	if r.Receipt == nil {
		return p, nil
	}
	if err := r.Receipt.Verify(hub); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrEvidence, err)
	}
	if r.Receipt.Key.Array() != p.key {
		return nil, fmt.Errorf("%w: the receipt is for another key", ErrEvidence)
	}
	p.receipt = r.Receipt
	return p, nil
}

func payloadPetition(payload *secrez.Payload, maxEvidence int) (*petition, error) {
	signed := payload.Signed()
	if len(signed.Payload)+len(signed.Signature) > maxEvidence {
		return nil, fmt.Errorf("%w: the payload has more than %d bytes", ErrEvidence, maxEvidence)
	}
	p := &petition{key: payload.PublicKey().Identity().Array(), evidence: Evidence{Payload: &signed}}
	p.box = (*[boxSize]byte)(payload.PublicKey().Box())
	if _, err := payload.Field("reset", &p.reset); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrEvidence, err)
	}
	return p, nil
}

func statementPetition(signed *claim.Signed, hub keys.PublicKey) (*petition, error) {
	s, err := signed.Verify()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrEvidence, err)
	}
	if !s.Hub.Equal(hub) {
		return nil, fmt.Errorf("%w: the statement is for another hub", ErrEvidence)
	}
	p := &petition{
		key: s.Key.Array(), native: true, reset: s.Action == claim.Reset, id: s.ID, sequence: s.Sequence,
		evidence: Evidence{Statement: &claim.Signed{
			Statement: bytes.Clone(signed.Statement), Signature: bytes.Clone(signed.Signature),
		}},
	}
	if s.Box == nil {
		return p, nil
	}
	if _, err := secrez.NewPublicKey(s.Box, s.Key.Bytes()); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrEvidence, err)
	}
	p.box = (*[boxSize]byte)(s.Box)
	return p, nil
}

// summary tells which evidence this is, and whether the owner named an id and kept it.
func (e Evidence) summary() (digest uint64, confirmed bool) {
	var sum [sha256.Size]byte
	switch {
	case e.Statement != nil:
		sum = sha256.Sum256(e.Statement.Statement)
		var s claim.Statement
		confirmed = s.UnmarshalBinary(e.Statement.Statement) == nil && s.Action == claim.Register && !s.ID.IsZero()
	case e.Payload != nil:
		sum = sha256.Sum256([]byte(e.Payload.Payload))
	}
	return binary.BigEndian.Uint64(sum[:8]), confirmed
}

// A view is the directory with the deeds on top that are about to be written. It belongs to one goroutine.
type view struct {
	dir  *directory
	keys map[[keySize]byte]*entry // made by add; a nil entry is of a key that is given up
	ids  map[secrez.ID]*entry     // likewise
}

func (v *view) keyed(key [keySize]byte) *entry {
	if e, changed := v.keys[key]; changed {
		return e
	}
	return v.dir.keyed(key)
}

func (v *view) givenUp(key [keySize]byte) bool {
	e, changed := v.keys[key]
	return changed && e == nil || v.dir.givenUp(key)
}

func (v *view) identified(id secrez.ID) *entry {
	if e := v.ids[id]; e != nil {
		return e
	}
	return v.dir.identified(id)
}

func (v *view) add(d *deed) *entry {
	e := d.entry(0, 0)
	if v.keys == nil {
		v.keys, v.ids = map[[keySize]byte]*entry{}, map[secrez.ID]*entry{}
	}
	v.keys[e.key], v.ids[e.id] = e, e
	if e.rotation != nil {
		v.keys[e.rotation.Old.Array()] = nil
	}
	return e
}

// decide tells what must be written to grant a petition, and the entry that the courier then has. Nothing is written for a
// petition that asks for what is already so, which is the usual one.
func (v *view) decide(p *petition, now int64) (*entry, []*deed, error) {
	if v.givenUp(p.key) {
		return nil, nil, ErrGivenUp
	}
	cur := v.keyed(p.key)
	if cur != nil && cur.box != nil && p.box != nil && *cur.box != *p.box {
		return nil, nil, ErrBoxKey
	}
	var deeds []*deed
	if p.receipt != nil && (cur == nil || cur.sequence < p.receipt.Sequence) {
		healed, err := v.heal(cur, p)
		if err != nil {
			return nil, nil, err
		}
		deeds = append(deeds, healed)
		cur = v.add(healed)
		cur.digest = 0 // a reset that heals first is still to be done
	}
	d, err := v.next(cur, p, now)
	if err != nil {
		return nil, nil, err
	}
	if d != nil {
		deeds = append(deeds, d)
		cur = v.add(d)
	}
	return cur, deeds, nil
}

// heal gives a key the id back that the hub's own receipt says it had.
func (v *view) heal(cur *entry, p *petition) (*deed, error) {
	d := p.deed(cur)
	d.id, d.sequence, d.since = p.receipt.ID, p.receipt.Sequence, p.receipt.Time.UnixMilli()
	d.evidence.Receipt = p.receipt
	if s, from := v.inherited(p); from != nil && d.sequence > from.sequence { // an older backup, from before the change of keys
		d.evidence.Rotation = s
	}
	if holder := v.identified(d.id); holder != nil && holder.key != p.key && !d.entry(0, 0).follows(holder) {
		return nil, fmt.Errorf("%w: the id has gone to another key", ErrClaim)
	}
	return d, nil
}

// next gives the deed that takes a key from the entry it has to the one it asks for, or none if it has that.
func (v *view) next(cur *entry, p *petition, now int64) (*deed, error) {
	switch s, from := v.inherited(p); {
	case cur == nil && from != nil && !p.reset && (p.id.IsZero() || p.id == from.id):
		d := p.deed(nil)
		d.id, d.sequence, d.since, d.evidence.Rotation = from.id, from.sequence+1, now, s
		return d, nil
	case cur == nil && p.native && !p.id.IsZero():
		return nil, fmt.Errorf("%w: nothing is known of it here", ErrClaim)
	case cur == nil && p.native && p.reset:
		return nil, fmt.Errorf("%w: the key has none", ErrStale)
	case cur == nil:
		return v.fresh(p.deed(nil), now)
	case p.reset:
		return v.reset(cur, p, now)
	case p.box != nil && cur.box == nil, p.confirms(cur) && !cur.confirmed:
		d := p.deed(cur)
		d.id, d.sequence, d.since = cur.id, cur.sequence, cur.since
		return d, nil
	}
	return nil, nil
}

// inherited gives the statement that brings a key something, and the entry that it comes from; or nothing.
func (v *view) inherited(p *petition) (*rotation.Statement, *entry) {
	for _, s := range p.rotations {
		if from := v.keyed(s.Old.Array()); from != nil {
			return s, from
		}
	}
	return nil, nil
}

func (v *view) reset(cur *entry, p *petition, now int64) (*deed, error) {
	if cur.digest == p.digest {
		return nil, nil // sent again by a courier that did not get the answer
	}
	if p.native && (p.id != cur.id || p.sequence != cur.sequence+1) {
		return nil, ErrStale
	}
	return v.fresh(p.deed(cur), now)
}

// fresh gives a deed an id that nobody has or had.
func (v *view) fresh(d *deed, now int64) (*deed, error) {
	for range newIDAttempts {
		id := secrez.NewID()
		if v.identified(id) == nil {
			d.id, d.since = id, now
			d.sequence++
			return d, nil
		}
	}
	return nil, fmt.Errorf("%w: no free ids left", ErrUnavailable)
}

// confirms reports whether the petition's statement is better evidence than most: it names the id that the key has, and
// leaves out nothing that is known.
func (p *petition) confirms(cur *entry) bool {
	return p.native && !p.reset && p.id == cur.id && p.sequence == cur.sequence && (cur.box == nil || p.box != nil)
}

// deed begins a deed with the petition's evidence, and with what is to be kept of the current entry.
func (p *petition) deed(cur *entry) *deed {
	d := &deed{key: p.key, box: p.box, evidence: p.evidence}
	if cur != nil {
		d.sequence = cur.sequence
		d.evidence.Rotation = cur.rotation
		if cur.box != nil {
			d.box = cur.box
		}
	}
	return d
}
