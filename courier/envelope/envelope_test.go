package envelope_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/secretstack/secretstack/courier/envelope"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/keys/rotation"
)

func identity(t testing.TB, b byte) *keys.Identity {
	t.Helper()
	id, err := keys.FromSeed(bytes.Repeat([]byte{b}, keys.SeedSize))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// message is a text from identity 1 to identity 2.
func message(t testing.TB, text string) envelope.Message {
	t.Helper()
	return envelope.Message{
		Sender: identity(t, 1).Public(), Recipient: identity(t, 2).Public(), Series: envelope.Series{7}, Number: 42,
		Time: time.UnixMilli(1795311465269), Kind: envelope.Text, Body: []byte(text),
	}
}

func sign(t testing.TB, m envelope.Message) *envelope.Signed {
	t.Helper()
	s, err := m.Sign(identity(t, 1))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestASignedMessageIsReadAsItWasWritten(t *testing.T) {
	want := message(t, "hello\nbob")
	s := sign(t, want)
	got, err := envelope.Parse(s.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if !got.Sender.Equal(want.Sender) || !got.Recipient.Equal(want.Recipient) || got.Series != want.Series ||
		got.Number != 42 || !got.Time.Equal(want.Time) || got.Kind != envelope.Text || string(got.Body) != "hello\nbob" {
		t.Errorf("%+v", got.Message)
	}
	if got.Hash() != s.Hash() {
		t.Error("the two ends name the message differently")
	}
	if got.Conversation() != envelope.ConversationOf(want.Recipient, want.Sender) {
		t.Error("the conversation depends on who speaks")
	}
}

func TestEveryAlteredBitOfAMessageIsFound(t *testing.T) {
	good := sign(t, message(t, "hello")).Bytes()
	for i := range good {
		for bit := range 8 {
			bad := bytes.Clone(good)
			bad[i] ^= 1 << bit
			if _, err := envelope.Parse(bad); !errors.Is(err, envelope.ErrSignature) && !errors.Is(err, envelope.ErrMalformed) {
				t.Fatalf("bit %d of byte %d: %v", bit, i, err)
			}
		}
	}
	for n := range good {
		if _, err := envelope.Parse(good[:n]); err == nil {
			t.Errorf("%d bytes pass", n)
		}
	}
}

func TestWhatNoMessageMayBe(t *testing.T) {
	for name, change := range map[string]func(*envelope.Message){
		"to oneself":          func(m *envelope.Message) { m.Recipient = m.Sender },
		"to nobody":           func(m *envelope.Message) { m.Recipient = keys.PublicKey{} },
		"from another":        func(m *envelope.Message) { m.Sender = identity(t, 3).Public() },
		"without a number":    func(m *envelope.Message) { m.Number = 0 },
		"of no kind":          func(m *envelope.Message) { m.Kind = 0 },
		"of a kind to come":   func(m *envelope.Message) { m.Kind = 99 },
		"without a text":      func(m *envelope.Message) { m.Body = nil },
		"with bytes for text": func(m *envelope.Message) { m.Body = []byte{0xff} },
		"too long":            func(m *envelope.Message) { m.Body = make([]byte, envelope.MaxBody+1) },
		"a broken receipt":    func(m *envelope.Message) { m.Kind, m.Body = envelope.Receipt, make([]byte, 33) },
		"a broken file":       func(m *envelope.Message) { m.Kind, m.Body = envelope.File, make([]byte, 20) },
		"a broken chunk":      func(m *envelope.Message) { m.Kind, m.Body = envelope.Chunk, make([]byte, 20) },
		"a broken rotation":   func(m *envelope.Message) { m.Kind, m.Body = envelope.Rotation, make([]byte, rotation.Size) },
	} {
		m := message(t, "hello")
		change(&m)
		if _, err := m.Sign(identity(t, 1)); !errors.Is(err, envelope.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestASealedMessageIsForItsRecipientAlone(t *testing.T) {
	s := sign(t, message(t, "for bob"))
	sealed, err := envelope.Seal(s)
	if err != nil {
		t.Fatal(err)
	}
	got, err := envelope.Open(identity(t, 2), sealed)
	if err != nil || got.Hash() != s.Hash() || string(got.Body) != "for bob" {
		t.Fatalf("%v, %v", got, err)
	}
	for _, other := range []byte{1, 3} {
		if _, err := envelope.Open(identity(t, other), sealed); !errors.Is(err, envelope.ErrSealed) {
			t.Errorf("identity %d: %v", other, err)
		}
	}
	for i := range sealed {
		bad := bytes.Clone(sealed)
		bad[i] ^= 1
		if _, err := envelope.Open(identity(t, 2), bad); err == nil {
			t.Fatalf("byte %d altered, and it opens", i)
		}
	}
}

func TestEnvelopesTellNothingApart(t *testing.T) {
	for n, want := range map[int]int{1: 1 << 10, 800: 1 << 10, 801: 1 << 10, 802: 2 << 10, 5000: 8 << 10, envelope.MaxBody: 256 << 10} {
		s := sign(t, message(t, strings.Repeat("x", n)))
		one, err := envelope.Seal(s)
		if err != nil {
			t.Fatal(err)
		}
		two, err := envelope.Seal(s)
		if err != nil {
			t.Fatal(err)
		}
		if len(one) != want || len(two) != want {
			t.Errorf("%d bytes give %d and %d, not %d", n, len(one), len(two), want)
		}
		if bytes.Equal(one[1:33], two[1:33]) || bytes.Contains(one, s.Sender.Bytes()) || bytes.Contains(one, s.Recipient.Bytes()) {
			t.Error("an envelope shows whose it is")
		}
	}
}

// TestTheBytesStayTheSame keeps what couriers in the field can read.
func TestTheBytesStayTheSame(t *testing.T) {
	s := sign(t, message(t, "hello"))
	h := s.Hash()
	if got, want := h[:4], []byte{0x65, 0x05, 0x43, 0x3f}; !bytes.Equal(got, want) {
		t.Errorf("hash begins with %x", got)
	}
	sum := sha256.Sum256(s.Bytes())
	if got, want := sum[:4], []byte{0x54, 0x22, 0xd6, 0x59}; !bytes.Equal(got, want) {
		t.Errorf("digest begins with %x", got)
	}
}

func TestAFileSaysWhatIsComing(t *testing.T) {
	want := envelope.FileInfo{ID: envelope.FileID{1}, Size: 2*envelope.ChunkSize + 1, Hash: [32]byte{2}, Name: "fête.tar.gz"}
	body, err := want.Body()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := envelope.ParseFileInfo(body); err != nil || got != want || got.Chunks() != 3 {
		t.Errorf("%+v, %v", got, err)
	}
	for _, name := range []string{"", ".", "..", "a/b", `a\b`, "c:x", "a\nb", "\x1bx", "\xff", strings.Repeat("x", 256)} {
		if _, err := (envelope.FileInfo{Name: name}).Body(); !errors.Is(err, envelope.ErrMalformed) {
			t.Errorf("name %q: %v", name, err)
		}
	}
	for n, want := range map[uint64]uint64{0: 0, 1: 1, envelope.ChunkSize: 1, 1<<64 - 1: (1<<64-1)/envelope.ChunkSize + 1} {
		if got := (envelope.FileInfo{Size: n}).Chunks(); got != want {
			t.Errorf("%d bytes are %d chunks", n, got)
		}
	}
}

func TestAChunkFitsAMessage(t *testing.T) {
	body, err := envelope.FileChunk{ID: envelope.FileID{1}, Index: 9, Data: make([]byte, envelope.ChunkSize)}.Body()
	if err != nil {
		t.Fatal(err)
	}
	m := message(t, "")
	m.Kind, m.Body = envelope.Chunk, body
	sealed, err := envelope.Seal(sign(t, m))
	if err != nil || len(sealed) != envelope.MaxSealed {
		t.Fatalf("%d bytes, %v", len(sealed), err)
	}
	got, err := envelope.ParseFileChunk(body)
	if err != nil || got.Index != 9 || len(got.Data) != envelope.ChunkSize {
		t.Errorf("chunk %d of %d bytes, %v", got.Index, len(got.Data), err)
	}
	for _, n := range []int{0, envelope.ChunkSize + 1} {
		if _, err := (envelope.FileChunk{Data: make([]byte, n)}).Body(); !errors.Is(err, envelope.ErrMalformed) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

func TestReceiptsNameMessages(t *testing.T) {
	want := []envelope.Hash{{1}, {2}}
	body, err := envelope.Receipts(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := envelope.ParseReceipts(body)
	if err != nil || len(got) != 2 || got[1] != want[1] {
		t.Errorf("%v, %v", got, err)
	}
	for _, n := range []int{0, envelope.MaxReceipts + 1} {
		if _, err := envelope.Receipts(make([]envelope.Hash, n)); !errors.Is(err, envelope.ErrMalformed) {
			t.Errorf("%d hashes: %v", n, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(sign(f, message(f, "hello")).Bytes())
	f.Add([]byte{1})
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := envelope.Parse(b)
		if err == nil && !bytes.Equal(s.Bytes(), b) {
			t.Error("a message has two spellings")
		}
	})
}

func FuzzBodies(f *testing.F) {
	info, err := envelope.FileInfo{Size: 5, Name: "x"}.Body()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(info)
	f.Add(make([]byte, 32))
	f.Fuzz(func(t *testing.T, b []byte) {
		if info, err := envelope.ParseFileInfo(b); err == nil {
			if again, err := info.Body(); err != nil || !bytes.Equal(again, b) {
				t.Errorf("%x becomes %x, %v", b, again, err)
			}
		}
		if c, err := envelope.ParseFileChunk(b); err == nil {
			if again, err := c.Body(); err != nil || !bytes.Equal(again, b) {
				t.Errorf("%x becomes %x, %v", b, again, err)
			}
		}
		if hashes, err := envelope.ParseReceipts(b); err == nil {
			if again, err := envelope.Receipts(hashes); err != nil || !bytes.Equal(again, b) {
				t.Errorf("%x becomes %x, %v", b, again, err)
			}
		}
	})
}

func FuzzOpen(f *testing.F) {
	sealed, err := envelope.Seal(sign(f, message(f, "hello")))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sealed)
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := envelope.Open(identity(t, 2), b); err == nil && !bytes.Equal(b, sealed) {
			t.Log("another envelope opens")
		}
	})
}
