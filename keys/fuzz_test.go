package keys

import (
	"encoding/base64"
	"errors"
	"testing"
)

func FuzzParsePublicKey(f *testing.F) {
	f.Add("@" + aliceBase64 + ".ed25519")
	f.Add(aliceBase64)
	f.Add(aliceBase64[:43])
	f.Add("@")
	f.Fuzz(func(t *testing.T, s string) {
		lenient, lenientErr := ParsePublicKeyLenient(s)
		k, err := ParsePublicKey(s)
		if err != nil {
			return
		}
		if lenientErr != nil || !lenient.Equal(k) {
			t.Errorf("the lenient parser reads %q as %v, %v", s, lenient, lenientErr)
		}
		if s != k.Ref() && s != k.Ref()[1:] && s != k.Base64() && s != "@"+k.Base64() {
			t.Errorf("%q is read as %v, of which it is no text", s, k)
		}
	})
}

func FuzzParsePublicKeyLenient(f *testing.F) {
	f.Add("@" + aliceBase64 + ".ed25519")
	f.Add(aliceBase64[:20] + "  " + aliceBase64[20:])
	f.Fuzz(func(t *testing.T, s string) {
		k, err := ParsePublicKeyLenient(s)
		if err != nil {
			return
		}
		again, err := ParsePublicKeyLenient(k.Base64())
		if err != nil || !again.Equal(k) {
			t.Errorf("%q is read as %v and that as %v", s, k, again)
		}
		_, _ = k.X25519()
		_ = k.Verify(nil, make([]byte, 64))
	})
}

func FuzzParseAppKey(f *testing.F) {
	f.Add("1KHLiKZvAvjbY1ziZEHMXawbCEIM6qwjCDm3VYRan/s=")
	f.Add("1KHLiKZvAvjbY1ziZEHMXawbCEIM6qwjCDm3VYRan/s=.sha256")
	f.Fuzz(func(t *testing.T, s string) {
		k, err := ParseAppKey(s)
		if err != nil {
			return
		}
		again, err := ParseAppKey(base64.StdEncoding.EncodeToString(k.Bytes()))
		if err != nil || !again.Equal(k) {
			t.Errorf("%q does not survive a round trip: %v", s, err)
		}
	})
}

func FuzzParseFile(f *testing.F) {
	id := identity(f, "alice")
	plain, err := formatFile(id, FileOptions{})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(plain)
	f.Add([]byte(`{"curve":"ed25519","public":"` + aliceBase64 + `.ed25519","sealed":{"kdf":"argon2id","time":1,"memory":8,"threads":1}}`))
	f.Add([]byte("# nothing\n"))
	stop := errors.New("enough") // so that the fuzzer does not wait for Argon2
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, opts := range []FileOptions{{}, {Passphrase: func() ([]byte, error) { return nil, stop }}} {
			id, err := parseFile(text, opts)
			if err != nil {
				continue
			}
			again, err := formatFile(id, FileOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if back, err := parseFile(again, FileOptions{}); err != nil || !back.Public().Equal(id.Public()) {
				t.Errorf("what was read cannot be written and read again: %v", err)
			}
		}
	})
}
