package envelope

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/secretstack/secretstack/keys/rotation"
)

const (
	// MaxText bounds the text of a message, in bytes of UTF-8.
	MaxText = MaxBody
	// ChunkSize is how many bytes of a file go into one message; the last chunk has fewer.
	ChunkSize = 255 << 10
	// MaxName bounds the name of a file, in bytes of UTF-8.
	MaxName = 255
	// MaxReceipts bounds the hashes in one receipt.
	MaxReceipts = 1024

	fileIDSize     = 16
	fileHeaderSize = fileIDSize + 8 + sha256.Size + 1
	chunkHeader    = fileIDSize + 4
)

// checkBody refuses a body that is not what the kind says.
func checkBody(kind Kind, body []byte) error {
	var err error
	switch kind {
	case Text:
		if len(body) == 0 || !utf8.Valid(body) {
			err = fmt.Errorf("%w: text", ErrMalformed)
		}
	case File:
		_, err = ParseFileInfo(body)
	case Chunk:
		_, err = ParseFileChunk(body)
	case Receipt:
		_, err = ParseReceipts(body)
	case Rotation:
		if _, bad := rotation.Parse(body); bad != nil {
			err = fmt.Errorf("%w: rotation", ErrMalformed)
		}
	default:
		err = fmt.Errorf("%w: kind", ErrMalformed)
	}
	return err
}

// FileID names a file that is sent. It is random.
type FileID [fileIDSize]byte

// FileInfo says which file is coming.
type FileInfo struct {
	ID   FileID
	Size uint64 // in bytes
	Hash [sha256.Size]byte
	Name string // without folders
}

// Chunks is how many chunks make the file: none for an empty one.
func (f FileInfo) Chunks() uint64 {
	n := f.Size / ChunkSize
	if f.Size%ChunkSize != 0 {
		n++
	}
	return n
}

// Body writes the body of a message of kind [File]. Its error is [ErrMalformed], for a name that is none.
func (f FileInfo) Body() ([]byte, error) {
	if err := checkName(f.Name); err != nil {
		return nil, err
	}
	b := make([]byte, 0, fileHeaderSize+len(f.Name))
	b = append(b, f.ID[:]...)
	b = binary.BigEndian.AppendUint64(b, f.Size)
	b = append(b, f.Hash[:]...)
	b = append(b, byte(len(f.Name)))
	return append(b, f.Name...), nil
}

// ParseFileInfo reads what [FileInfo.Body] writes. Its error is [ErrMalformed].
func ParseFileInfo(body []byte) (FileInfo, error) {
	var f FileInfo
	if len(body) < fileHeaderSize || len(body) != fileHeaderSize+int(body[fileHeaderSize-1]) {
		return f, fmt.Errorf("%w: file", ErrMalformed)
	}
	r := body[copy(f.ID[:], body):]
	f.Size = binary.BigEndian.Uint64(r)
	copy(f.Hash[:], r[8:])
	f.Name = string(body[fileHeaderSize:])
	return f, checkName(f.Name)
}

// checkName refuses a name that could lead out of a folder, or to a terminal's controls.
func checkName(name string) error {
	switch {
	case name == "" || name == "." || name == ".." || len(name) > MaxName || !utf8.ValidString(name),
		strings.ContainsFunc(name, func(r rune) bool {
			return unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || strings.ContainsRune(`/\:`, r)
		}):
		return fmt.Errorf("%w: name of a file", ErrMalformed)
	}
	return nil
}

// FileChunk is a piece of a file: the bytes from Index times [ChunkSize] on.
type FileChunk struct {
	ID    FileID
	Index uint32
	Data  []byte // 1 to [ChunkSize] bytes
}

// Body writes the body of a message of kind [Chunk]. Its error is [ErrMalformed], for data of a wrong length.
func (c FileChunk) Body() ([]byte, error) {
	if len(c.Data) == 0 || len(c.Data) > ChunkSize {
		return nil, fmt.Errorf("%w: chunk", ErrMalformed)
	}
	b := make([]byte, 0, chunkHeader+len(c.Data))
	b = append(b, c.ID[:]...)
	b = binary.BigEndian.AppendUint32(b, c.Index)
	return append(b, c.Data...), nil
}

// ParseFileChunk reads what [FileChunk.Body] writes. Its error is [ErrMalformed]. The chunk keeps body.
func ParseFileChunk(body []byte) (FileChunk, error) {
	var c FileChunk
	if len(body) <= chunkHeader || len(body) > chunkHeader+ChunkSize {
		return c, fmt.Errorf("%w: chunk", ErrMalformed)
	}
	r := body[copy(c.ID[:], body):]
	c.Index, c.Data = binary.BigEndian.Uint32(r), r[4:]
	return c, nil
}

// Receipts writes the body of a message of kind [Receipt], which names 1 to [MaxReceipts] messages that have arrived.
// Its error is [ErrMalformed], for another number of them.
func Receipts(arrived []Hash) ([]byte, error) {
	if len(arrived) == 0 || len(arrived) > MaxReceipts {
		return nil, fmt.Errorf("%w: receipt", ErrMalformed)
	}
	b := make([]byte, 0, len(arrived)*HashSize)
	for _, h := range arrived {
		b = append(b, h[:]...)
	}
	return b, nil
}

// ParseReceipts reads what [Receipts] writes. Its error is [ErrMalformed].
func ParseReceipts(body []byte) ([]Hash, error) {
	n := len(body) / HashSize
	if n == 0 || n > MaxReceipts || len(body)%HashSize != 0 {
		return nil, fmt.Errorf("%w: receipt", ErrMalformed)
	}
	arrived := make([]Hash, n)
	for i := range arrived {
		copy(arrived[i][:], body[i*HashSize:])
	}
	return arrived, nil
}
