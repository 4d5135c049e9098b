package circuit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/secretstack/secretstack/multiserver"
)

// counting is the token of bytes 0 to 31.
func counting() Token {
	var t Token
	for i := range t {
		t[i] = byte(i)
	}
	return t
}

func TestThePreambleIsAsDocumented(t *testing.T) {
	got := AppendPreamble(nil, counting())
	want := "sstack-circuit/1" + "\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f" +
		"\x10\x11\x12\x13\x14\x15\x16\x17\x18\x19\x1a\x1b\x1c\x1d\x1e\x1f"
	if string(got) != want || len(got) != PreambleSize {
		t.Errorf("got %q", got)
	}
}

func TestAPreambleIsReadAndNotAByteMore(t *testing.T) {
	r := strings.NewReader(string(AppendPreamble(nil, counting())) + "what follows")
	token, err := ReadPreamble(iotest.OneByteReader(r))
	if err != nil || token != counting() {
		t.Fatalf("got %x, %v", token[:], err)
	}
	if rest, _ := io.ReadAll(r); string(rest) != "what follows" {
		t.Errorf("left for the other end: %q", rest)
	}
}

func TestWhatIsNoPreambleIsRefused(t *testing.T) {
	good := AppendPreamble(nil, counting())
	for i := range good {
		if _, err := ReadPreamble(bytes.NewReader(good[:i])); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%d bytes: %v", i, err)
		}
	}
	for i := range len(good) {
		bent := bytes.Clone(good)
		bent[i] ^= 1
		token, err := ReadPreamble(bytes.NewReader(bent))
		if i < 16 && !errors.Is(err, ErrPreamble) {
			t.Errorf("byte %d bent: %v", i, err)
		}
		if i >= 16 && (err != nil || token == counting()) {
			t.Errorf("byte %d bent: it is another token, not %v", i, err)
		}
	}
}

func TestTheFirstBytesTellAPreamble(t *testing.T) {
	good := AppendPreamble(nil, counting())
	for n := 1; n <= 16; n++ {
		want := multiserver.MatchMore
		if n == 16 {
			want = multiserver.MatchYes
		}
		if got := Match(good[:n]); got != want {
			t.Errorf("%d bytes: %v, want %v", n, got, want)
		}
		if multiserver.MatchHTTP(good[:n]) == multiserver.MatchYes || multiserver.MatchTLS(good[:n]) == multiserver.MatchYes {
			t.Errorf("%d bytes are taken for another protocol", n)
		}
	}
	for _, other := range []string{"GET / HTTP/1.1\r\n", "\x16\x03\x01\x02\x00\x01\x00", "PROXY TCP4 ", "\r\n\r\n\x00\r\nQUIT\n", "sstack-circuit/2"} {
		if got := Match([]byte(other)); got != multiserver.MatchNo {
			t.Errorf("%q: %v", other, got)
		}
	}
}

func TestTokensAreDifferentAndNotPrinted(t *testing.T) {
	a, b := NewToken(), NewToken()
	if a == b || a == (Token{}) {
		t.Error("tokens can be guessed")
	}
	text, _ := a.MarshalText()
	var logged strings.Builder
	slog.New(slog.NewTextHandler(&logged, nil)).Info("x", "token", fmt.Sprint(a))
	for _, shown := range []string{fmt.Sprint(a), fmt.Sprintf("%x %v %+v %#v %s %q %d", a, a, &a, a, a, a, a), logged.String()} {
		if strings.Contains(shown, string(text)) || strings.Contains(shown, fmt.Sprintf("%x", a[:4])) {
			t.Errorf("a token is printed: %s", shown)
		}
	}
}

func TestATokenSurvivesJSON(t *testing.T) {
	b, err := json.Marshal(counting())
	if err != nil || string(b) != `"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="` {
		t.Fatalf("got %s, %v", b, err)
	}
	var back Token
	if err := json.Unmarshal(b, &back); err != nil || back != counting() {
		t.Errorf("got %x, %v", back[:], err)
	}
	for _, bad := range []string{`""`, `"AAEC"`, `"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh9="`, `"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gAAAA"`,
		`"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8\n"`, `12`} {
		if err := json.Unmarshal([]byte(bad), &back); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
}

func FuzzReadPreamble(f *testing.F) {
	f.Add(AppendPreamble(nil, counting()))
	f.Add([]byte(magic))
	f.Add([]byte("GET / HTTP/1.1\r\nHost: example.org\r\n\r\n                "))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		token, err := ReadPreamble(r)
		if err != nil {
			return
		}
		if !bytes.Equal(AppendPreamble(nil, token), b[:PreambleSize]) || r.Len() != len(b)-PreambleSize {
			t.Errorf("%q was read as something else", b)
		}
		if Match(b[:16]) != multiserver.MatchYes {
			t.Errorf("%q is a preamble that does not match", b)
		}
	})
}

func FuzzTokenText(f *testing.F) {
	text, _ := counting().MarshalText()
	f.Add(text)
	f.Add([]byte("AAEC"))
	f.Fuzz(func(t *testing.T, text []byte) {
		var token Token
		if token.UnmarshalText(text) != nil {
			return
		}
		if back, _ := token.MarshalText(); !bytes.Equal(back, text) {
			t.Errorf("%q and %q are one token", text, back)
		}
	})
}
