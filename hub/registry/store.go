package registry

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
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

	blockHeader  = 22
	blockHash    = 8
	blockMax     = 32 << 20 // longest record the engine believes
	headerBit    = 1 << 31
	erasedBit    = 1 << 63
	deletionBit  = 1 << 62
	sequenceMask = 1<<62 - 1
)

// A storedStream is what reading the files has shown of one stream.
type storedStream struct {
	name  string
	first uint64 // sequence of the first record; zero: none
	last  uint64
	holes bool // a sequence is missing between first and last
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

func escapeGlob(path string) string {
	if filepath.Separator == '\\' {
		return path // there it is no escape character, and the others cannot be in a name
	}
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

func inspectStream(ctx context.Context, path string) (storedStream, error) {
	s := storedStream{name: filepath.Base(path)}
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
			return s, fmt.Errorf("%w: %v%s", ErrDamaged, err, wayOut)
		}
		if at, err := s.inspectBlock(b, n, i == len(blocks)-1); err != nil {
			return s, fmt.Errorf("%w: %s, byte %d: %v%s", ErrDamaged, file, at, err, wayOut)
		}
	}
	return s, nil
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
		return nil, fmt.Errorf("%w: %v%s", ErrDamaged, err, wayOut)
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
		rec, n, err := nextRecord(b[at:], key[:])
		if errors.Is(err, errTorn) && last {
			return at, nil
		}
		if err != nil {
			return at, err
		}
		s.count(rec)
		at += n
	}
	return at, nil
}

func (s *storedStream) count(sequence uint64) {
	if sequence == 0 || sequence&deletionBit != 0 {
		return
	}
	sequence &= sequenceMask
	switch {
	case s.first == 0:
		s.first, s.last = sequence, sequence
	case sequence > s.last:
		s.holes = s.holes || sequence != s.last+1
		s.last = sequence
	}
}

var (
	errTorn   = errors.New("the record is incomplete")
	errHash   = errors.New("the record is altered")
	errLength = errors.New("the record has no sensible length")
)

// nextRecord checks the record at the beginning of b and gives its sequence, with the bits, and its length.
func nextRecord(b, key []byte) (sequence uint64, n int, err error) {
	if len(b) < blockHeader || allZero(b) {
		return 0, 0, errTorn
	}
	le := binary.LittleEndian
	length := le.Uint32(b)
	hasHeader := length&headerBit != 0
	length &^= headerBit
	subject := int(le.Uint16(b[20:]))
	least := blockHeader + subject + blockHash
	if hasHeader {
		least += 4
	}
	if length > blockMax || int(length) < least {
		return 0, 0, errLength
	}
	n = int(length)
	if n > len(b) {
		return 0, 0, errTorn
	}
	body := b[blockHeader+subject : n-blockHash]
	if hasHeader {
		body = body[4:]
	}
	sum, err := highwayhash.New64(key)
	if err != nil {
		return 0, 0, err
	}
	_, _ = sum.Write(b[4:20])
	_, _ = sum.Write(b[blockHeader : blockHeader+subject])
	_, _ = sum.Write(body)
	if string(sum.Sum(nil)) != string(b[n-blockHash:n]) {
		return 0, 0, errHash
	}
	return le.Uint64(b[4:]), n, nil
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
	var log storedStream
	for _, s := range streams {
		if s.name == logStream {
			log = s
		}
	}
	if log.last < acknowledged {
		return fmt.Errorf("%w: %d writes were acknowledged and only %d are there%s", ErrDamaged, acknowledged, log.last, wayOut)
	}
	if log.holes || log.first > 1 {
		return fmt.Errorf("%w: writes are missing among the first %d%s", ErrDamaged, log.last, wayOut)
	}
	return nil
}
