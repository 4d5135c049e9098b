package registry

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/minio/highwayhash"
)

// The engine repairs what it finds damaged by cutting it off: a record that does not read well goes, with all that follows
// in its file. So the files are read before the engine may touch them, and when they are damaged it is not started.
//
// A stream's messages are in files "<n>.blk" that hold one record after another, in little endian:
//
//	4   length of the record; the highest bit says that it has a header
//	8   sequence, with bits for erased records and for deletions
//	8   time
//	2   length of the subject
//	    subject, 4 bytes length of the header and the header if there is one, message
//	8   HighwayHash-64, keyed with the SHA-256 of "<stream>-<n>", over bytes 4 to 20, subject, header and message

const (
	engineFolder = "jetstream" // as the engine calls it
	streamFolder = "streams"
	blockFolder  = "msgs"
	blockSuffix  = ".blk"

	descriptionFile    = "meta.inf"
	descriptionSumFile = "meta.sum"

	blockHeader  = 22
	blockHash    = 8
	headerLength = 4
	blockMax     = 32 << 20 // longest record the engine believes
	headerBit    = 1 << 31
	erasedBit    = 1 << 63
	deletionBit  = 1 << 62
)

// A storedStream is what reading the files has shown of one stream.
type storedStream struct {
	name string
	path string
	last uint64 // sequence of the last message

	described bool // otherwise the process died while it made the stream
}

// inspectStore reads everything the engine has stored in dir. Its error is ErrDamaged for what the engine would cut off,
// except the torn end of what was being written when the process died, which was never acknowledged.
func inspectStore(ctx context.Context, dir string) ([]storedStream, error) {
	var streams []storedStream
	pattern := filepath.Join(escapeGlob(dir), engineFolder, "*", streamFolder, "*")
	paths, err := filepath.Glob(pattern)
	if err != nil {
		return nil, fmt.Errorf("registry: look for streams: %w", err)
	}
	for _, path := range paths {
		if strings.HasPrefix(filepath.Base(path), ".") {
			continue // being deleted
		}
		s, err := inspectStream(ctx, path)
		if err != nil {
			return nil, err
		}
		streams = append(streams, s)
	}
	return streams, nil
}

// clearHalfMade takes away what is left of streams that the process died while making. There is nothing in them, and the
// engine would go on with such a folder without ever finishing its description.
func clearHalfMade(streams []storedStream) ([]storedStream, error) {
	var made []storedStream
	for _, s := range streams {
		if s.described {
			made = append(made, s)
		} else if err := os.RemoveAll(s.path); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
	}
	return made, nil
}

func escapeGlob(path string) string {
	if filepath.Separator == '\\' {
		return path // there it is no escape character, and the others cannot be in a name
	}
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

func inspectStream(ctx context.Context, path string) (storedStream, error) {
	s := storedStream{name: filepath.Base(path), path: path}
	blocks, err := blockNumbers(filepath.Join(path, blockFolder))
	if err != nil {
		return s, err
	}
	for i, n := range blocks {
		if err := ctx.Err(); err != nil {
			return s, fmt.Errorf("registry: read what is stored: %w", err)
		}
		file := filepath.Join(path, blockFolder, strconv.Itoa(n)+blockSuffix)
		b, err := os.ReadFile(file)
		if err != nil {
			return s, fmt.Errorf("%w: %w%s", ErrDamaged, err, wayOut)
		}
		if at, err := s.inspectBlock(b, n, i == len(blocks)-1); err != nil {
			return s, fmt.Errorf("%w: %s, byte %d: %w%s", ErrDamaged, file, at, err, wayOut)
		}
	}
	err = inspectDescription(path)
	if errors.Is(err, fs.ErrNotExist) && s.last == 0 {
		return s, nil
	}
	if err != nil {
		return s, fmt.Errorf("%w: %s: %w%s", ErrDamaged, path, err, wayOut)
	}
	s.described = true
	return s, nil
}

// inspectDescription checks a stream's description against the sum that the engine keeps beside it. The engine passes over a
// stream whose description it does not trust, as if it were not there.
func inspectDescription(path string) error {
	description, err := os.ReadFile(filepath.Join(path, descriptionFile))
	if err != nil {
		return err
	}
	sum, err := os.ReadFile(filepath.Join(path, descriptionSumFile))
	if err != nil {
		return err
	}
	key := sha256.Sum256([]byte(filepath.Base(path)))
	if want, err := blockSum(key[:], description); err != nil || hex.EncodeToString(want) != string(sum) {
		return errors.New("the description is altered")
	}
	return nil
}

// blockSum is the engine's checksum.
func blockSum(key []byte, parts ...[]byte) ([]byte, error) {
	h, err := highwayhash.New64(key)
	if err != nil {
		return nil, err
	}
	for _, part := range parts {
		_, _ = h.Write(part)
	}
	return h.Sum(nil), nil
}

// wayOut ends the text of every ErrDamaged.
const wayOut = ". Nothing was changed. Ways out: restore a backup into an empty folder, or move this folder away and start " +
	"with an empty one; couriers that show their receipts then get their ids back"

// blockNumbers lists the blocks of a stream in their order.
func blockNumbers(dir string) ([]int, error) {
	files, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w%s", ErrDamaged, err, wayOut)
	}
	var numbers []int
	for _, f := range files {
		name, ok := strings.CutSuffix(f.Name(), blockSuffix)
		if n, err := strconv.Atoi(name); ok && err == nil {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

// inspectBlock reads one block. Its error comes with the place of the record that is damaged.
func (s *storedStream) inspectBlock(b []byte, number int, last bool) (at int, err error) {
	key := sha256.Sum256([]byte(s.name + "-" + strconv.Itoa(number)))
	for at < len(b) {
		rec, err := nextRecord(b[at:], key[:])
		if errors.Is(err, errTorn) && last {
			return at, nil
		}
		if err == nil {
			err = s.count(rec)
		}
		if err != nil {
			return at, err
		}
		at += rec.size
	}
	return at, nil
}

// count notes a record, and sees that none is missing before it in the log.
func (s *storedStream) count(rec storedRecord) error {
	if rec.sequence == 0 || rec.sequence&(erasedBit|deletionBit) != 0 || rec.sequence <= s.last {
		return nil
	}
	if s.name == logStream {
		// A group that cannot be read is of a later version, which is for the directory to say.
		if previous, _, err := parseGroup(rec.message); err == nil && previous != s.last {
			return errGap
		}
	}
	s.last = rec.sequence
	return nil
}

var (
	errTorn   = errors.New("the record is incomplete")
	errHash   = errors.New("the record is altered")
	errLength = errors.New("the record has no sensible length")
)

// A storedRecord is one record of a block.
type storedRecord struct {
	sequence uint64 // with the bits
	message  []byte
	size     int // of the whole record
}

// nextRecord reads and checks the record at the beginning of b.
func nextRecord(b, key []byte) (rec storedRecord, err error) {
	if len(b) < blockHeader || allZero(b) {
		return rec, errTorn
	}
	le := binary.LittleEndian
	length, subject := le.Uint32(b), int(le.Uint16(b[20:]))
	least := blockHeader + subject + blockHash
	hasHeader := length&headerBit != 0
	if hasHeader {
		least += headerLength
	}
	length &^= headerBit
	if length > blockMax || int(length) < least {
		return rec, errLength
	}
	rec.size, rec.sequence = int(length), le.Uint64(b[4:])
	if rec.size > len(b) {
		return rec, errTorn
	}
	body, sum := b[blockHeader+subject:rec.size-blockHash], b[rec.size-blockHash:rec.size]
	header := 0
	if hasHeader {
		header = int(le.Uint32(body))
		body = body[headerLength:]
	}
	want, err := blockSum(key, b[4:20], b[blockHeader:blockHeader+subject], body)
	if err != nil || !bytes.Equal(sum, want) || header > len(body) {
		return rec, errHash
	}
	rec.message = body[header:]
	return rec, nil
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// checkLog compares what is stored with what was acknowledged.
func checkLog(streams []storedStream, acknowledged uint64) error {
	var last uint64
	for _, s := range streams {
		if s.name == logStream {
			last = s.last
		}
	}
	if last < acknowledged {
		return fmt.Errorf("%w: write %d was acknowledged and the last that is there is %d%s", ErrDamaged, acknowledged, last, wayOut)
	}
	return nil
}
