package registry

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/secretstack/secretstack/hub/registry/claim"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/keys/rotation"
	"github.com/secretstack/secretstack/secrez"
)

// Record is what the registry knows of a courier without looking at the disk.
type Record struct {
	ID  secrez.ID
	Key keys.PublicKey // names the courier; the sign half of its Secrez public key

	// Box is the box half that the courier has stated, 32 bytes. Nil: none.
	Box []byte

	// Sequence counts the ids that Key has had, this one included, and those of the key that was given up for it.
	Sequence uint64

	// Since is when the id was given, by the hub's clock then.
	Since time.Time
}

// PublicKey gives the Secrez public key: with the box half that was stated, or else the X25519 form of the key.
func (r Record) PublicKey() (secrez.PublicKey, error) {
	if r.Box == nil {
		return secrez.DerivePublicKey(r.Key)
	}
	return secrez.NewPublicKey(r.Box, r.Key.Bytes())
}

// LogValue logs the id and the short form of the key.
func (r Record) LogValue() slog.Value {
	return slog.GroupValue(slog.String("id", r.ID.String()), slog.String("key", r.Key.Short()))
}

// Evidence is why the registry holds a record: what its owner signed, as it came.
type Evidence struct {
	// Statement is what a courier signed that registered natively.
	Statement *claim.Signed

	// Payload is what a courier signed that registered with the v1 API of Secrez. It names no hub and no id.
	Payload *secrez.Signed

	// Receipt is what the courier showed to get back an id that the registry had lost.
	Receipt *claim.Receipt

	// Rotation is why the id has come from another key. It stays with the records that the key has later.
	Rotation *rotation.Statement
}

const (
	keySize = keys.PublicKeySize
	boxSize = 32

	groupVersion = 1

	flagBox       = 1 << 0
	flagStatement = 1 << 1
	flagPayload   = 1 << 2
	flagReceipt   = 1 << 3
	flagRotation  = 1 << 4
	allFlags      = flagBox | flagStatement | flagPayload | flagReceipt | flagRotation
)

// A deed is a record as it is written to the log, with its evidence.
type deed struct {
	key      [keySize]byte
	id       secrez.ID
	sequence uint64
	since    int64 // ms
	box      *[boxSize]byte
	evidence Evidence
}

var errLog = errors.New("not a group of records, or one of a later version")

// appendDeed writes one deed: flags, key, id, sequence, since, then what the flags announce; variable parts after their length.
func appendDeed(b []byte, d *deed) []byte {
	var flags byte
	if d.box != nil {
		flags |= flagBox
	}
	if d.evidence.Statement != nil {
		flags |= flagStatement
	}
	if d.evidence.Payload != nil {
		flags |= flagPayload
	}
	if d.evidence.Receipt != nil {
		flags |= flagReceipt
	}
	if d.evidence.Rotation != nil {
		flags |= flagRotation
	}
	b = append(b, flags)
	b = append(b, d.key[:]...)
	b = append(b, d.id.String()...)
	b = binary.AppendUvarint(b, d.sequence)
	b = binary.AppendVarint(b, d.since)
	if d.box != nil {
		b = append(b, d.box[:]...)
	}
	if s := d.evidence.Statement; s != nil {
		b = appendPart(b, s.Statement)
		b = appendPart(b, s.Signature)
	}
	if p := d.evidence.Payload; p != nil {
		b = appendPart(b, p.Payload)
		b = appendPart(b, p.Signature)
	}
	if r := d.evidence.Receipt; r != nil {
		receipt, _ := r.MarshalBinary() // it was read from bytes, so it can be written
		b = appendPart(b, receipt)
	}
	if r := d.evidence.Rotation; r != nil {
		b = append(b, r.Bytes()...)
	}
	return b
}

func appendPart[T string | []byte](b []byte, part T) []byte {
	return append(binary.AppendUvarint(b, uint64(len(part))), part...)
}

// newGroup begins a message of the log, to which deeds are appended. It names the message before it, so that a missing one
// shows: the engine's own sequence has gaps where a write failed.
func newGroup(previous uint64) []byte {
	return binary.AppendUvarint([]byte{groupVersion}, previous)
}

// parseGroup reads one message of the log.
func parseGroup(b []byte) (previous uint64, deeds []deed, err error) {
	r := groupReader{rest: b}
	if version := r.take(1); r.bad || version[0] != groupVersion {
		return 0, nil, errLog
	}
	previous = number(&r, binary.Uvarint)
	for len(r.rest) > 0 && !r.bad {
		deeds = append(deeds, r.deed())
	}
	if r.bad {
		return 0, nil, errLog
	}
	return previous, deeds, nil
}

// A groupReader takes fields off the front of a group. After a failure nothing more comes.
type groupReader struct {
	rest []byte
	bad  bool
}

func (r *groupReader) deed() deed {
	var d deed
	flags := r.take(1)
	copy(d.key[:], r.take(keySize))
	id := r.take(len("xx-xxx-xx"))
	d.sequence = number(r, binary.Uvarint)
	d.since = number(r, binary.Varint)
	if r.bad || flags[0]&^allFlags != 0 {
		r.bad = true
		return d
	}
	var err error
	if d.id, err = secrez.ParseID(string(id)); err != nil {
		r.bad = true
	}
	if flags[0]&flagBox != 0 {
		d.box = new([boxSize]byte)
		copy(d.box[:], r.take(boxSize))
	}
	if flags[0]&flagStatement != 0 {
		d.evidence.Statement = &claim.Signed{Statement: r.part(), Signature: r.part()}
	}
	if flags[0]&flagPayload != 0 {
		d.evidence.Payload = &secrez.Signed{Payload: string(r.part()), Signature: string(r.part())}
	}
	if flags[0]&flagReceipt != 0 {
		d.evidence.Receipt = new(claim.Receipt)
		if err := d.evidence.Receipt.UnmarshalBinary(r.part()); err != nil {
			r.bad = true
		}
	}
	if flags[0]&flagRotation != 0 {
		if d.evidence.Rotation, err = rotation.Parse(r.take(rotation.Size)); err != nil {
			r.bad = true
		}
	}
	return d
}

func (r *groupReader) take(n int) []byte {
	if r.bad || len(r.rest) < n {
		r.bad, r.rest = true, nil
		return nil
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}

func (r *groupReader) part() []byte {
	n := number(r, binary.Uvarint)
	if n > uint64(len(r.rest)) {
		r.bad = true
		return nil
	}
	return r.take(int(n))
}

func number[T uint64 | int64](r *groupReader, read func([]byte) (T, int)) T {
	v, n := read(r.rest)
	if r.bad || n <= 0 {
		r.bad, r.rest = true, nil
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

// verify checks what can be checked of a deed: that its owner signed it, for this hub and for this id.
func (d *deed) verify(hub keys.PublicKey) error {
	key, err := keys.NewPublicKey(d.key[:])
	if err != nil {
		return err
	}
	switch {
	case d.evidence.Statement != nil:
		err = d.verifyStatement(hub, key)
	case d.evidence.Payload != nil:
		err = d.verifyPayload(key)
	default:
		err = fmt.Errorf("%w: the owner signed nothing", ErrEvidence)
	}
	if err != nil {
		return err
	}
	if r := d.evidence.Rotation; r != nil && !r.New.Equal(key) {
		return fmt.Errorf("%w: the change of keys is to another key", ErrEvidence)
	}
	return d.verifyReceipt(hub, key)
}

func (d *deed) verifyStatement(hub, key keys.PublicKey) error {
	s, err := d.evidence.Statement.Verify()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrEvidence, err)
	}
	if !s.Key.Equal(key) || !s.Hub.Equal(hub) {
		return fmt.Errorf("%w: the statement is another key's or for another hub", ErrEvidence)
	}
	// A statement that knew of no id, or that gave one up, cannot name the one it got.
	if s.Action == claim.Register && !s.ID.IsZero() && s.ID != d.id {
		return fmt.Errorf("%w: the statement names another id", ErrEvidence)
	}
	if s.Action == claim.Reset && s.Sequence != d.sequence {
		return fmt.Errorf("%w: the reset is another one", ErrEvidence)
	}
	if s.Box != nil && (d.box == nil || [boxSize]byte(s.Box) != *d.box) {
		return fmt.Errorf("%w: the statement names another box half", ErrEvidence)
	}
	return nil
}

func (d *deed) verifyPayload(key keys.PublicKey) error {
	p, err := d.evidence.Payload.Verify()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrEvidence, err)
	}
	if !p.PublicKey().Identity().Equal(key) {
		return fmt.Errorf("%w: the payload is another key's", ErrEvidence)
	}
	if d.box == nil || [boxSize]byte(p.PublicKey().Box()) != *d.box {
		return fmt.Errorf("%w: the payload names another box half", ErrEvidence)
	}
	return nil
}

func (d *deed) verifyReceipt(hub, key keys.PublicKey) error {
	r := d.evidence.Receipt
	if r == nil {
		return nil
	}
	if err := r.Verify(hub); err != nil {
		return fmt.Errorf("%w: %w", ErrEvidence, err)
	}
	if !r.Key.Equal(key) || r.ID != d.id || r.Sequence != d.sequence {
		return fmt.Errorf("%w: the receipt is for another record", ErrEvidence)
	}
	return nil
}
