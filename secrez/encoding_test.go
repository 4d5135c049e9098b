package secrez

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestEncodingsRoundTripEveryLength(t *testing.T) {
	for n := range 70 {
		for _, fill := range []byte{0, 1, 0x80, 0xff} {
			raw := bytes.Repeat([]byte{fill}, n)
			if got, err := DecodeBase32(EncodeBase32(raw)); err != nil || !bytes.Equal(got, raw) {
				t.Fatalf("base32 of %x: %x, %v", raw, got, err)
			}
			if got, err := DecodeBase58(EncodeBase58(raw)); err != nil || !bytes.Equal(got, raw) {
				t.Fatalf("base58 of %x: %x, %v", raw, got, err)
			}
		}
	}
}

func TestBase32IsOneBigNumberAndNotRFC4648(t *testing.T) {
	if got := EncodeBase32([]byte{1}); got != "b" {
		t.Errorf("got %q, want one digit", got)
	}
}

func TestDecodingRefusesWhatIsTooLong(t *testing.T) {
	for _, decode := range []func(string) ([]byte, error){DecodeBase32, DecodeBase58} {
		if _, err := decode(strings.Repeat("9", maxEncoded)); err != nil {
			t.Errorf("at the limit: %v", err)
		}
		if _, err := decode(strings.Repeat("9", maxEncoded+1)); !errors.Is(err, ErrEncoding) {
			t.Errorf("above the limit: %v", err)
		}
	}
}

func TestDecodingRefusesEveryOtherCharacter(t *testing.T) {
	for c := range 256 {
		s := string([]byte{'3', byte(c), '3'})
		_, err := DecodeBase32(s)
		if want := strings.IndexByte(base32Alphabet, byte(c)) >= 0; (err == nil) != want {
			t.Errorf("base32 %q: %v", s, err)
		}
		_, err = DecodeBase58(s)
		if want := strings.IndexByte(base58Alphabet, byte(c)) >= 0; (err == nil) != want {
			t.Errorf("base58 %q: %v", s, err)
		}
	}
}

func TestBase64HasOneSpelling(t *testing.T) {
	for _, s := range []string{"AAAA\n", "AA\r\nAA", "AA==\n", " AAAA", "AAA-", "AA", "AAAA=", "AAAA====", "AP9=", "/x=="} {
		if b, ok := decodeBase64(s); ok {
			t.Errorf("%q decodes to %x", s, b)
		}
	}
}

// numberFuzz checks that decoding never fails badly, and that encoding gives the text back.
func numberFuzz(f *testing.F, encode func([]byte) string, decode func(string) ([]byte, error)) {
	for _, c := range readVectors(f).BaseX {
		f.Add(encode(unhex(f, c.Hex)))
	}
	for _, s := range []string{"l", "0", "-1", "+1", "1_000", "é", "\x00", "y1y1", "\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		b, err := decode(s)
		if err != nil {
			if !errors.Is(err, ErrEncoding) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		if got := encode(b); got != s {
			t.Fatalf("%q decodes to %x, which is %q", s, b, got)
		}
	})
}

func FuzzDecodeBase32(f *testing.F) { numberFuzz(f, EncodeBase32, DecodeBase32) }

func FuzzDecodeBase58(f *testing.F) { numberFuzz(f, EncodeBase58, DecodeBase58) }

func FuzzEncodeBothBases(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0, 0, 1})
	f.Fuzz(func(t *testing.T, raw []byte) {
		raw = raw[:min(len(raw), 256)]
		a, errA := DecodeBase32(EncodeBase32(raw))
		b, errB := DecodeBase58(EncodeBase58(raw))
		if errA != nil || errB != nil || !slices.Equal(a, raw) || !slices.Equal(b, raw) {
			t.Fatalf("%x: %x, %v; %x, %v", raw, a, errA, b, errB)
		}
	})
}
