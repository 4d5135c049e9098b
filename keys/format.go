package keys

import (
	"bytes"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
)

const curveName = "ed25519"

// errUnfinished is the error for a file whose end is missing.
var errUnfinished = errors.New("the file is empty or cut short; restore it from a backup, or remove it to start with a new identity")

const fileHead = `# This file holds the secret key of a peer. Whoever can read it can be that peer.
# Show it to nobody, keep it on one machine, and make a backup of it.
#
`

const fileTail = `
#
# Others know this peer by its public key, which may be shared:
#
#   `

// keyFile is the JSON object between the comments of a secret file. Either
// Private or Sealed is set. See docs/PROTOCOL.md §8.
type keyFile struct {
	Curve   string  `json:"curve"`
	Public  string  `json:"public"`
	Private string  `json:"private,omitempty"` // base64 of seed and public key
	ID      string  `json:"id"`
	Sealed  *sealed `json:"sealed,omitempty"`
}

// formatFile writes the file's text.
func formatFile(id *Identity, opts FileOptions) ([]byte, error) {
	public := id.Public()
	kf := keyFile{Curve: curveName, Public: public.Base64() + refSuffix, ID: public.Ref()}
	if opts.Passphrase == nil {
		kf.Private = base64.StdEncoding.EncodeToString(id.s().private) + refSuffix
	} else {
		var err error
		if kf.Sealed, err = sealWithPassphrase(id, opts, defaultCost()); err != nil {
			return nil, err
		}
	}
	body, err := marshal(kf)
	if err != nil {
		return nil, err
	}
	return []byte(fileHead + body + fileTail + kf.ID + "\n"), nil
}

// marshal writes the object as ssb-keys does: two spaces, no HTML escapes.
func marshal(kf keyFile) (string, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(kf); err != nil {
		return "", err
	}
	return strings.TrimSuffix(b.String(), "\n"), nil
}

// parseFile reads the file's text and checks that its parts belong together.
func parseFile(text []byte, opts FileOptions) (*Identity, error) {
	kf, err := parseKeyFile(text)
	if err != nil {
		return nil, err
	}
	if kf.Curve != curveName {
		return nil, fmt.Errorf("unknown curve %.20q; only ed25519 is supported", kf.Curve)
	}
	public, err := parsePublicKey(kf.Public)
	if err != nil {
		return nil, fmt.Errorf("the public key in the file is not one: %w", err)
	}
	if kf.ID != "" && strings.TrimPrefix(kf.ID, "@") != kf.Public {
		return nil, errors.New("id and public are not the same key; restore the file from a backup")
	}
	seed, err := kf.seed(public, opts)
	if err != nil {
		return nil, err
	}
	defer clear(seed)
	id, err := FromSeed(seed)
	if err != nil {
		return nil, err
	}
	if !id.Public().Equal(public) {
		return nil, errors.New("the private key does not belong to the public key; restore the file from a backup")
	}
	return id, nil
}

// parseKeyFile drops the comments, as ssb-keys does, and decodes the rest.
func parseKeyFile(text []byte) (keyFile, error) {
	body := bytes.TrimSpace(comment().ReplaceAll(text, nil))
	var kf keyFile
	if len(body) == 0 {
		return kf, errUnfinished
	}
	err := json.Unmarshal(body, &kf)
	switch {
	case err == nil:
		return kf, nil
	case body[0] == '{' && body[len(body)-1] != '}':
		return kf, errUnfinished
	}
	// The decoder's own text may quote a piece of the secret.
	return kf, errors.New("this is not a secret file (not the JSON of ssb-keys); restore it from a backup")
}

// comment matches what ssb-keys takes for a comment.
func comment() *regexp.Regexp { return regexp.MustCompile(`\s*#[^\n]*`) }

// seed returns the file's secret, opening it with the passphrase if needed.
func (kf keyFile) seed(public PublicKey, opts FileOptions) ([]byte, error) {
	switch {
	case kf.Sealed != nil && kf.Private != "":
		return nil, errors.New("the file holds a private key both open and sealed; remove one")
	case kf.Sealed != nil:
		return kf.Sealed.open(public, opts)
	case kf.Private == "":
		return nil, errors.New("there is no private key in the file")
	}
	text, _, _ := strings.Cut(kf.Private, ".")
	private, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(private) != SeedSize+PublicKeySize {
		return nil, errors.New("the private key is damaged; restore the file from a backup")
	}
	if subtle.ConstantTimeCompare(private[SeedSize:], public.b[:]) != 1 {
		return nil, errors.New("private and public are not the same key pair; restore the file from a backup")
	}
	return private[:SeedSize], nil
}
