package claim

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/secretstack/secretstack/keys"
)

const (
	addressesLabel = "secretstack addresses v1\x00"

	// MaxAddresses bounds the text of addresses, in bytes.
	MaxAddresses = 4096
)

// Addresses is where a courier says that it can be reached, signed by itself, so that any hub can hand it on. The package
// comment gives its bytes.
type Addresses struct {
	Key       keys.PublicKey // who signs, and is to be reached
	Time      time.Time      // of signing, to the millisecond: of two of one key, the later one counts
	Text      string         // multiserver addresses, joined with ";"
	Signature []byte
}

// Sign gives the addresses with the signature of the identity, whose public key it takes as Key. Its error is
// [ErrMalformed]: for a text that is too long.
func (a Addresses) Sign(id *keys.Identity) (Addresses, error) {
	if len(a.Text) > MaxAddresses {
		return Addresses{}, fmt.Errorf("%w: the addresses are longer than %d bytes", ErrMalformed, MaxAddresses)
	}
	a.Key = id.Public()
	a.Signature = id.Sign(a.body())
	return a, nil
}

// Verify checks that key signed the addresses. Its error is [ErrSignature].
func (a Addresses) Verify(key keys.PublicKey) error {
	if !a.Key.Equal(key) || !key.Verify(a.body(), a.Signature) {
		return fmt.Errorf("%w: the key did not write the addresses", ErrSignature)
	}
	return nil
}

func (a Addresses) body() []byte {
	b := make([]byte, 0, len(addressesLabel)+keySize+8+len(a.Text)+signatureSize)
	b = append(b, addressesLabel...)
	b = append(b, a.Key.Bytes()...)
	b = binary.BigEndian.AppendUint64(b, uint64(a.Time.UnixMilli()))
	return append(b, a.Text...)
}

// MarshalBinary writes the addresses. Its error is [ErrMalformed]: for what is not signed.
func (a Addresses) MarshalBinary() ([]byte, error) {
	if len(a.Signature) != signatureSize || len(a.Text) > MaxAddresses {
		return nil, fmt.Errorf("%w: the addresses are not signed", ErrMalformed)
	}
	return append(a.body(), a.Signature...), nil
}

// UnmarshalBinary reads what MarshalBinary writes, and nothing else. The signature is not checked. Its error is
// [ErrMalformed].
func (a *Addresses) UnmarshalBinary(b []byte) error {
	in := reader{rest: b}
	in.label(addressesLabel)
	out := Addresses{Key: in.key()}
	out.Time = time.UnixMilli(int64(in.uint64())).UTC()
	out.Text = string(in.take(max(min(len(in.rest)-signatureSize, MaxAddresses), 0)))
	out.Signature = bytes.Clone(in.take(signatureSize))
	if err := in.end("list of addresses"); err != nil {
		return err
	}
	*a = out
	return nil
}

// MarshalText writes the addresses in base64, as they stand in JSON.
func (a Addresses) MarshalText() ([]byte, error) {
	b, err := a.MarshalBinary()
	if err != nil {
		return nil, err
	}
	return base64.StdEncoding.AppendEncode(nil, b), nil
}

// UnmarshalText reads what MarshalText writes. Its error is [ErrMalformed].
func (a *Addresses) UnmarshalText(text []byte) error {
	const longest = len(addressesLabel) + keySize + 8 + MaxAddresses + signatureSize
	if len(text) > base64.StdEncoding.EncodedLen(longest) {
		return fmt.Errorf("%w: too long for addresses", ErrMalformed)
	}
	b, err := base64.StdEncoding.Strict().AppendDecode(nil, text)
	if err != nil {
		return fmt.Errorf("%w: not base64", ErrMalformed)
	}
	return a.UnmarshalBinary(b)
}
