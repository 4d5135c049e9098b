package boxstream

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/secretstack/secretstack/internal/secretbox"
)

// vectors is what the JavaScript implementation made and took.
type vectors struct {
	Key    string
	Nonce  string
	Encode []struct {
		Name        string
		Lengths     []int    `json:"input_lengths"`
		Inputs      []string `json:"input_hex"`
		TotalLen    int      `json:"total_len"`
		TotalSHA256 string   `json:"total_sha256"`
		TotalHex    string   `json:"total_hex"`
		Headers     []string `json:"first_headers_hex"`
	}
	Misc struct {
		Wrap struct {
			Nonce  string
			Chunks []string
		} `json:"nonce_wrap"`
		Carry struct {
			Nonce  string
			Chunks []string
		} `json:"nonce_carry"`
		ZeroLengthHeader string `json:"zero_len_body_header"`
	}
}

func loadVectors(t testing.TB) (v vectors, key *[KeySize]byte, nonce *[NonceSize]byte) {
	t.Helper()
	text, err := os.ReadFile("testdata/boxstream.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	return v, (*[KeySize]byte)(unhex(t, v.Key)), (*[NonceSize]byte)(unhex(t, v.Nonce))
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// testKey returns the key and first nonce of the tests that need no vectors.
func testKey() (*[KeySize]byte, *[NonceSize]byte) {
	key := sha256.Sum256([]byte("boxstream key"))
	nonce := sha256.Sum256([]byte("boxstream nonce"))
	return &key, (*[NonceSize]byte)(nonce[:])
}

// pattern returns n bytes of which byte i is i mod 251.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i % 251)
	}
	return b
}

// encrypt writes each piece and the goodbye and returns what that makes.
func encrypt(t testing.TB, key *[KeySize]byte, nonce *[NonceSize]byte, pieces ...[]byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := NewWriter(&out, key, nonce)
	for _, p := range pieces {
		if n, err := w.Write(p); n != len(p) || err != nil {
			t.Fatalf("Write: %d, %v", n, err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// rawBox makes a box as other implementations may, of any size.
func rawBox(key *[KeySize]byte, nonce *[NonceSize]byte, body []byte) []byte {
	w := NewWriter(nil, key, nonce)
	box := make([]byte, HeaderSize+len(body))
	w.seal(box, body)
	*nonce = w.nonce
	return box
}

func TestWriterMakesTheBytesOfTheVectors(t *testing.T) {
	v, key, nonce := loadVectors(t)
	for _, e := range v.Encode {
		t.Run(e.Name, func(t *testing.T) {
			pieces := make([][]byte, len(e.Lengths))
			var plain []byte
			for i, n := range e.Lengths {
				pieces[i] = pattern(n)
				if e.Inputs != nil {
					pieces[i] = unhex(t, e.Inputs[i])
				}
				plain = append(plain, pieces[i]...)
			}
			got := encrypt(t, key, nonce, pieces...)
			if sum := sha256.Sum256(got); hex.EncodeToString(sum[:]) != e.TotalSHA256 || len(got) != e.TotalLen {
				t.Errorf("%d bytes %x, want %d bytes", len(got), sum, e.TotalLen)
			}
			if e.TotalHex != "" && hex.EncodeToString(got) != e.TotalHex {
				t.Errorf("got %x", got)
			}
			for _, h := range e.Headers {
				if !bytes.Contains(got, unhex(t, h)) {
					t.Errorf("header %s is missing", h)
				}
			}
			back, err := io.ReadAll(NewReader(bytes.NewReader(got), key, nonce))
			if err != nil || !bytes.Equal(back, plain) {
				t.Errorf("read back %d bytes, %v", len(back), err)
			}
		})
	}
}

func TestNonceWrapsAndCarries(t *testing.T) {
	v, key, _ := loadVectors(t)
	for plain, m := range map[string]struct {
		Nonce  string
		Chunks []string
	}{"wrap": v.Misc.Wrap, "carry": v.Misc.Carry} {
		nonce := (*[NonceSize]byte)(unhex(t, m.Nonce))
		if got := hex.EncodeToString(encrypt(t, key, nonce, []byte(plain))); got != strings.Join(m.Chunks, "") {
			t.Errorf("%s: wrote %s, want %v", plain, got, m.Chunks)
		}
		back, err := io.ReadAll(NewReader(bytes.NewReader(unhex(t, strings.Join(m.Chunks, ""))), key, nonce))
		if err != nil || string(back) != plain {
			t.Errorf("%s: read %q, %v", plain, back, err)
		}
	}
}

func TestEmptyWriteWritesNothing(t *testing.T) {
	key, nonce := testKey()
	var out bytes.Buffer
	w := NewWriter(&out, key, nonce)
	for _, p := range [][]byte{nil, {}} {
		if n, err := w.Write(p); n != 0 || err != nil || out.Len() != 0 {
			t.Errorf("%d, %v and %d bytes", n, err, out.Len())
		}
	}
}

// readers are ways in which bytes arrive.
func readers() map[string]func([]byte) io.Reader {
	plain := func(b []byte) io.Reader { return bytes.NewReader(b) }
	return map[string]func([]byte) io.Reader{
		"whole":            plain,
		"byte by byte":     func(b []byte) io.Reader { return iotest.OneByteReader(plain(b)) },
		"halves":           func(b []byte) io.Reader { return iotest.HalfReader(plain(b)) },
		"end with data":    func(b []byte) io.Reader { return iotest.DataErrReader(plain(b)) },
		"empty reads":      func(b []byte) io.Reader { return &emptyReads{r: plain(b)} },
		"end in small bit": func(b []byte) io.Reader { return iotest.DataErrReader(iotest.HalfReader(plain(b))) },
	}
}

// emptyReads returns nothing at every other read.
type emptyReads struct {
	r    io.Reader
	skip bool
}

func (e *emptyReads) Read(p []byte) (int, error) {
	if e.skip = !e.skip; e.skip {
		return 0, nil
	}
	return e.r.Read(p)
}

func TestReaderTakesBytesHoweverTheyArrive(t *testing.T) {
	key, nonce := testKey()
	var plain []byte
	var pieces [][]byte
	for _, n := range []int{1, 9, 70000, 100, 4096, 4097, 300000, 2} {
		pieces = append(pieces, pattern(n))
		plain = append(plain, pattern(n)...)
	}
	sealed := encrypt(t, key, nonce, pieces...)
	for name, arrive := range readers() {
		for _, size := range []int{1, 9, 1000, 4096, 1 << 20} {
			t.Run(fmt.Sprintf("%s/%d", name, size), func(t *testing.T) {
				r := NewReader(arrive(append(bytes.Clone(sealed), "trailing bytes"...)), key, nonce)
				var got []byte
				p := make([]byte, size)
				for {
					n, err := r.Read(p)
					got = append(got, p[:n]...)
					if err == io.EOF {
						break
					}
					if err != nil || n == 0 {
						t.Fatalf("after %d bytes: %d, %v", len(got), n, err)
					}
				}
				if !bytes.Equal(got, plain) {
					t.Errorf("read %d bytes that are not those written", len(got))
				}
				if n, err := r.Read(p); n != 0 || err != io.EOF {
					t.Errorf("after the end: %d, %v", n, err)
				}
			})
		}
	}
}

func TestReaderTakesBoxesLargerThanItMakes(t *testing.T) {
	key, start := testKey()
	for _, size := range []int{4097, 5000, 65535} {
		for name, arrive := range readers() {
			nonce := *start
			sealed := rawBox(key, &nonce, pattern(size))
			sealed = append(sealed, rawBox(key, &nonce, nil)...) // an empty box is no end
			sealed = append(sealed, rawBox(key, &nonce, pattern(3))...)
			sealed = append(sealed, encrypt(t, key, &nonce)...)
			got, err := io.ReadAll(NewReader(arrive(sealed), key, start))
			if err != nil || !bytes.Equal(got, append(pattern(size), pattern(3)...)) {
				t.Errorf("box of %d bytes, %s: %d bytes, %v", size, name, len(got), err)
			}
		}
	}
}

func TestEmptyBoxIsThatOfTheVectors(t *testing.T) {
	v, key, nonce := loadVectors(t)
	n := *nonce
	if got := hex.EncodeToString(rawBox(key, &n, nil)); got != v.Misc.ZeroLengthHeader {
		t.Errorf("got %s, want %s", got, v.Misc.ZeroLengthHeader)
	}
}

// boxes returns three boxes and the goodbye apart.
func boxes(t testing.TB, key *[KeySize]byte, nonce *[NonceSize]byte) [][]byte {
	t.Helper()
	n := *nonce
	var out [][]byte
	for _, body := range []string{"I <3 TLS\n", "...\n", "third"} {
		out = append(out, rawBox(key, &n, []byte(body)))
	}
	return append(out, encrypt(t, key, &n))
}

func TestReaderReportsWhatIsWrong(t *testing.T) {
	key, nonce := testKey()
	b := boxes(t, key, nonce)
	flip := func(box []byte, i int) []byte {
		c := bytes.Clone(box)
		c[i] ^= 1
		return c
	}
	garbage := func() []byte { // length 0 and a tag that is not the empty body's
		w := NewWriter(nil, key, nonce)
		box := make([]byte, HeaderSize)
		tag := [secretbox.TagSize]byte{1}
		w.sealHeader(box, 0, &tag, nonce)
		return box
	}
	otherKey := sha256.Sum256([]byte("another key"))
	for _, tt := range []struct {
		name   string
		stream [][]byte
		data   string
		want   error
		text   string
	}{
		{"valid", b, "I <3 TLS\n...\nthird", io.EOF, "EOF"},
		{"bytes after the goodbye", append(b[:4:4], []byte("more")), "I <3 TLS\n...\nthird", io.EOF, "EOF"},
		{"no goodbye", b[:3], "I <3 TLS\n...\nthird", io.ErrUnexpectedEOF, "stream ended with:0 but wanted:34"},
		{"cut in a header", [][]byte{b[0], b[1], b[2], b[3][:20]}, "I <3 TLS\n...\nthird", io.ErrUnexpectedEOF, "stream ended with:20 but wanted:34"},
		{"cut in a body", [][]byte{b[0][:HeaderSize+3]}, "", io.ErrUnexpectedEOF, "stream ended with:3 but wanted:9"},
		{"empty", nil, "", io.ErrUnexpectedEOF, "stream ended with:0 but wanted:34"},
		{"flipped header", [][]byte{b[0], flip(b[1], 20), b[2], b[3]}, "I <3 TLS\n", ErrInvalidHeader, "invalid header"},
		{"flipped body", [][]byte{b[0], flip(b[1], HeaderSize), b[2], b[3]}, "I <3 TLS\n", ErrInvalidPacket, "invalid packet"},
		{"flipped goodbye", [][]byte{b[0], b[1], b[2], flip(b[3], 33)}, "I <3 TLS\n...\nthird", ErrInvalidHeader, "invalid header"},
		{"reordered", [][]byte{b[1], b[0], b[2], b[3]}, "", ErrInvalidHeader, "invalid header"},
		{"replayed", [][]byte{b[0], b[0], b[1], b[2], b[3]}, "I <3 TLS\n", ErrInvalidHeader, "invalid header"},
		{"one missing", [][]byte{b[0], b[2], b[3]}, "I <3 TLS\n", ErrInvalidHeader, "invalid header"},
		{"early goodbye", [][]byte{b[0], b[3]}, "I <3 TLS\n", ErrInvalidHeader, "invalid header"},
		{"other key", boxes(t, &otherKey, nonce), "", ErrInvalidHeader, "invalid header"},
		{"length 0 and a wrong tag", [][]byte{garbage(), b[1]}, "", ErrInvalidPacket, "invalid packet"},
	} {
		for how, arrive := range readers() {
			t.Run(tt.name+"/"+how, func(t *testing.T) {
				r := NewReader(arrive(bytes.Join(tt.stream, nil)), key, nonce)
				data, err := readAll(r)
				if string(data) != tt.data {
					t.Errorf("read %q, want %q", data, tt.data)
				}
				if !errors.Is(err, tt.want) || !strings.HasSuffix(err.Error(), tt.text) {
					t.Errorf("error %q, want %q", err, tt.text)
				}
				if _, again := r.Read(make([]byte, 9)); !errors.Is(again, tt.want) {
					t.Errorf("a second read gives %v", again)
				}
			})
		}
	}
}

// readAll reads until an error, which it returns even if it is io.EOF.
func readAll(r io.Reader) ([]byte, error) {
	var out []byte
	p := make([]byte, 7)
	for {
		n, err := r.Read(p)
		out = append(out, p[:n]...)
		if err != nil {
			return out, err
		}
	}
}

// Defect A3: a connection that was cut looked like an end in good order.
func TestDefectA3TruncationIsNeverAnEnd(t *testing.T) {
	key, nonce := testKey()
	b := boxes(t, key, nonce)
	stream := bytes.Join(b, nil)
	for n := range stream {
		data, err := readAll(NewReader(bytes.NewReader(stream[:n]), key, nonce))
		if errors.Is(err, io.EOF) || !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut after %d bytes: error %v", n, err)
		}
		if _, ok := errors.AsType[*TruncatedError](err); !ok {
			t.Errorf("cut after %d bytes: error of type %T", n, err)
		}
		if want := wholeBodies(b, n); string(data) != want {
			t.Errorf("cut after %d bytes: read %q, want %q", n, data, want)
		}
	}
}

// wholeBodies returns the bodies of boxes that lie in the first n bytes.
func wholeBodies(b [][]byte, n int) string {
	var out string
	for i, body := range []string{"I <3 TLS\n", "...\n", "third"} {
		if n -= len(b[i]); n < 0 {
			break
		}
		out += body
	}
	return out
}

func TestFlippedBitAtEveryByteIsFound(t *testing.T) {
	key, nonce := testKey()
	b := boxes(t, key, nonce)
	stream := bytes.Join(b, nil)
	for i := range stream {
		for bit := range 8 {
			bad := bytes.Clone(stream)
			bad[i] ^= 1 << bit
			data, err := readAll(NewReader(bytes.NewReader(bad), key, nonce))
			if !errors.Is(err, ErrInvalidHeader) && !errors.Is(err, ErrInvalidPacket) {
				t.Fatalf("bit %d of byte %d: error %v", bit, i, err)
			}
			if want := wholeBodies(b, i); string(data) != want {
				t.Fatalf("bit %d of byte %d: read %q, want %q", bit, i, data, want)
			}
		}
	}
}

// flaky returns each of its results once.
type flaky struct {
	data []byte
	errs []error
}

func (f *flaky) Read(p []byte) (int, error) {
	n := copy(p[:min(len(p), 5)], f.data)
	f.data = f.data[n:]
	if len(f.errs) == 0 {
		return n, nil
	}
	err := f.errs[0]
	f.errs = f.errs[1:]
	return n, err
}

func TestReadingGoesOnAfterADeadline(t *testing.T) {
	key, nonce := testKey()
	stream := bytes.Join(boxes(t, key, nonce), nil)
	f := &flaky{data: stream, errs: []error{nil, os.ErrDeadlineExceeded, nil, nil, os.ErrDeadlineExceeded}}
	r := NewReader(f, key, nonce)
	var got []byte
	deadlines := 0
	for {
		data, err := readAll(r)
		got = append(got, data...)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			deadlines++
			continue
		}
		if err != io.EOF {
			t.Fatal(err)
		}
		break
	}
	if string(got) != "I <3 TLS\n...\nthird" || deadlines != 2 {
		t.Errorf("read %q with %d deadlines", got, deadlines)
	}
}

// badReader breaks the rules of io.Reader.
type badReader int

func (b badReader) Read([]byte) (int, error) { return int(b), nil }

func TestReaderSurvivesABrokenSource(t *testing.T) {
	key, nonce := testKey()
	for _, n := range []badReader{-1, 1 << 20} {
		if _, err := NewReader(n, key, nonce).Read(make([]byte, 1)); err == nil {
			t.Errorf("a count of %d was believed", n)
		}
	}
	if _, err := NewReader(badReader(0), key, nonce).Read(make([]byte, 1)); !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("error %v, want io.ErrNoProgress", err)
	}
}

func TestEmptyReadReturnsAtOnce(t *testing.T) {
	key, nonce := testKey()
	if n, err := NewReader(badReader(-1), key, nonce).Read(nil); n != 0 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
}

// limited takes a number of bytes and then fails.
type limited struct {
	bytes.Buffer
	left   int
	err    error
	writes int
}

func (l *limited) Write(p []byte) (int, error) {
	l.writes++
	n := min(len(p), l.left)
	l.left -= n
	l.Buffer.Write(p[:n])
	if n < len(p) {
		return n, l.err
	}
	return n, nil
}

// Defect A7: a write that failed in the middle said that nothing was written.
func TestDefectA7PartialWriteReportsWhatWentOut(t *testing.T) {
	key, nonce := testKey()
	plain := pattern(3*MaxBody + 100)
	const full = HeaderSize + MaxBody
	for room := range 3*full + HeaderSize + 100 {
		if room%full > 200 && room%full < full-200 && room%17 != 0 {
			continue // the middle of a box is much the same everywhere
		}
		l := &limited{left: room, err: errors.New("gone")}
		n, err := NewWriter(l, key, nonce).Write(plain)
		if !errors.Is(err, l.err) {
			t.Fatalf("room for %d: error %v", room, err)
		}
		got, _ := readAll(NewReader(&l.Buffer, key, nonce))
		if !bytes.Equal(got, plain[:n]) {
			t.Fatalf("room for %d: Write says %d bytes, the other side reads %d", room, n, len(got))
		}
	}
}

func TestPartialWriteCountsEarlierBatches(t *testing.T) {
	key, nonce := testKey()
	l := &limited{left: largeSize + 2*smallSize + 7, err: errors.New("gone")}
	n, err := NewWriter(l, key, nonce).Write(pattern(200000))
	if want := (batchBoxes + 2) * MaxBody; n != want || !errors.Is(err, l.err) {
		t.Errorf("%d, %v; want %d", n, err, want)
	}
}

// lateError takes everything and fails all the same.
type lateError struct{ err error }

func (l lateError) Write(p []byte) (int, error) { return len(p), l.err }

func TestErrorOfACompleteWriteIsReported(t *testing.T) {
	key, nonce := testKey()
	late := lateError{errors.New("disk full after this")}
	for _, size := range []int{1, 100, MaxBody, MaxBody + 1, 2 * MaxBody} {
		if n, err := NewWriter(late, key, nonce).Write(pattern(size)); n != size || !errors.Is(err, late.err) {
			t.Errorf("%d bytes: %d, %v", size, n, err)
		}
	}
}

func TestShortWriteIsAnError(t *testing.T) {
	key, nonce := testKey()
	w := NewWriter(&limited{left: 10}, key, nonce)
	if n, err := w.Write([]byte("hello")); n != 0 || !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("%d, %v", n, err)
	}
}

// badWriter breaks the rules of io.Writer.
type badWriter int

func (b badWriter) Write([]byte) (int, error) { return int(b), nil }

func TestWriterSurvivesABrokenSink(t *testing.T) {
	key, nonce := testKey()
	for _, n := range []badWriter{-1, 1 << 20} {
		if got, err := NewWriter(n, key, nonce).Write([]byte("hello")); got != 0 || err == nil {
			t.Errorf("a count of %d was believed: %d, %v", n, got, err)
		}
	}
}

func TestFailedWriterStaysFailed(t *testing.T) {
	key, nonce := testKey()
	l := &limited{left: 10, err: errors.New("gone")}
	w := NewWriter(l, key, nonce)
	_, _ = w.Write([]byte("hello"))
	l.left = 1 << 20
	for range 2 {
		if n, err := w.Write([]byte("hello")); n != 0 || !errors.Is(err, l.err) {
			t.Errorf("Write: %d, %v", n, err)
		}
		if err := w.Close(); !errors.Is(err, l.err) {
			t.Errorf("Close: %v", err)
		}
	}
	if l.writes != 1 {
		t.Errorf("%d writes reached the stream, want 1", l.writes)
	}
}

func TestCloseWritesTheGoodbyeOnce(t *testing.T) {
	key, nonce := testKey()
	l := &limited{left: 1 << 20}
	w := NewWriter(l, key, nonce)
	for range 3 {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	}
	if l.writes != 1 || l.Len() != HeaderSize {
		t.Errorf("%d writes, %d bytes", l.writes, l.Len())
	}
	if n, err := w.Write([]byte("more")); n != 0 || !errors.Is(err, ErrClosed) {
		t.Errorf("Write after Close: %d, %v", n, err)
	}
}

// Defect A4: closing gave up half-way when the goodbye could not be written.
func TestDefectA4CloseEndsTheWriterEvenIfTheGoodbyeFails(t *testing.T) {
	key, nonce := testKey()
	l := &limited{left: 10, err: errors.New("gone")}
	w := NewWriter(l, key, nonce)
	for range 2 {
		if err := w.Close(); !errors.Is(err, l.err) {
			t.Errorf("Close: %v", err)
		}
	}
	if _, err := w.Write([]byte("more")); !errors.Is(err, ErrClosed) {
		t.Errorf("Write after Close: %v", err)
	}
	if l.writes != 1 {
		t.Errorf("%d writes reached the stream, want 1", l.writes)
	}
}

// Defect A7: two system calls for each box.
func TestDefectA7SeveralBoxesGoOutInOneWrite(t *testing.T) {
	key, nonce := testKey()
	for size, want := range map[int]int{1: 1, MaxBody: 1, MaxBody + 1: 1, 64<<10 + 9: 1, 68 << 10: 1, 68<<10 + 1: 2, 1 << 20: 16} {
		l := &limited{left: 2 << 20}
		if _, err := NewWriter(l, key, nonce).Write(pattern(size)); err != nil || l.writes != want {
			t.Errorf("%d bytes: %d writes, want %d (%v)", size, l.writes, want, err)
		}
	}
}

func TestWriterLeavesItsInputAlone(t *testing.T) {
	key, nonce := testKey()
	for _, n := range []int{100, 10000} {
		p := pattern(n)
		_, _ = NewWriter(io.Discard, key, nonce).Write(p)
		if !bytes.Equal(p, pattern(n)) {
			t.Errorf("a write of %d bytes changed them", n)
		}
	}
}

func TestReaderLeavesTheRestOfTheBufferAlone(t *testing.T) {
	key, nonce := testKey()
	r := NewReader(bytes.NewReader(encrypt(t, key, nonce, pattern(100))), key, nonce)
	p := bytes.Repeat([]byte{0xaa}, 200)
	n, err := r.Read(p)
	if n != 100 || err != nil || !bytes.Equal(p[100:], bytes.Repeat([]byte{0xaa}, 100)) {
		t.Errorf("%d, %v, %x", n, err, p[100:])
	}
}

func TestKeysAreCopied(t *testing.T) {
	key, nonce := testKey()
	var out bytes.Buffer
	k, n := *key, *nonce
	w, r := NewWriter(&out, &k, &n), NewReader(&out, &k, &n)
	clear(k[:])
	clear(n[:])
	if _, err := w.Write([]byte("hello")); err != nil || w.Close() != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(out.Bytes(), encrypt(t, key, nonce, []byte("hello"))) {
		t.Error("the writer used a key that was changed afterwards")
	}
	if got, err := io.ReadAll(r); err != nil || string(got) != "hello" {
		t.Errorf("read %q, %v", got, err)
	}
}

func TestKeysAreNotPrinted(t *testing.T) {
	key, nonce := testKey()
	for _, v := range []any{NewWriter(io.Discard, key, nonce), NewReader(nil, key, nonce)} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x"} {
			text := fmt.Sprintf(verb, v)
			if strings.Contains(text, hex.EncodeToString(key[:4])) || strings.Contains(text, strings.Trim(fmt.Sprint(key[:4]), "[]")) {
				t.Errorf("%T shows its key with %s", v, verb)
			}
		}
	}
}

// stream is an endless valid stream: box after box of the same plaintext.
type stream struct {
	sealed []byte
	off    int
}

func (s *stream) Read(p []byte) (int, error) {
	if s.off == len(s.sealed) {
		return 0, io.EOF
	}
	n := copy(p, s.sealed[s.off:])
	s.off += n
	return n, nil
}

func TestRandomWritesAndReadsRoundTrip(t *testing.T) {
	key, nonce := testKey()
	var sizes []byte
	for i := range 200 {
		sizes = binary.BigEndian.AppendUint16(sizes, uint16(i*i*7))
	}
	roundTrip(t, key, nonce, sizes, 777)
}

// roundTrip writes pieces of the sizes given, two bytes each, reads them back
// with a buffer of readSize and compares.
func roundTrip(t *testing.T, key *[KeySize]byte, nonce *[NonceSize]byte, sizes []byte, readSize int) {
	t.Helper()
	var pieces [][]byte
	var plain []byte
	for ; len(sizes) >= 2 && len(plain) < 1<<20; sizes = sizes[2:] {
		p := pattern(int(binary.BigEndian.Uint16(sizes)))
		pieces = append(pieces, p)
		plain = append(plain, p...)
	}
	r := NewReader(&stream{sealed: encrypt(t, key, nonce, pieces...)}, key, nonce)
	got, p := make([]byte, 0, len(plain)), make([]byte, readSize)
	for {
		n, err := r.Read(p)
		got = append(got, p[:n]...)
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(got, plain) {
		t.Errorf("read %d bytes, wrote %d", len(got), len(plain))
	}
}
