package multiserver

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/secretstack/secretstack/keys"
)

// maxAddress bounds what the parsers look at, in bytes. The longest address in
// use is a few hundred bytes.
const maxAddress = 16 << 10

// Part is one protocol of an address: a name and the fields that follow it,
// such as {"net", ["example.org", "8008"]}. See docs/PROTOCOL.md §6.
type Part struct {
	// Name says which transport or transform the part belongs to.
	Name string
	// Data holds the fields that follow the name, without escapes. It is nil
	// when nothing follows, not even a colon.
	Data []string
}

// NewPart makes a part from a name and the text after its first colon, which
// is split at every colon.
func NewPart(name, rest string) Part {
	return Part{Name: name, Data: strings.Split(rest, ":")}
}

// Rest returns the fields joined with colons: all that follows the name.
func (p Part) Rest() string { return strings.Join(p.Data, ":") }

// Text returns the part without escapes, as transports compare and show it.
func (p Part) Text() string {
	if p.Data == nil {
		return p.Name
	}
	return p.Name + ":" + p.Rest()
}

// String returns the part as it stands in an address: '~', '!', ';', and a ':'
// within a field, have a '!' before them.
func (p Part) String() string {
	var b strings.Builder
	b.WriteString(escaper.Replace(p.Name))
	for _, field := range p.Data {
		b.WriteByte(':')
		b.WriteString(escaper.Replace(field))
	}
	return b.String()
}

// Address is one way to reach a peer: a transport part followed by its
// transform parts. The nil address is none.
type Address []Part

// Transport returns the first part, or the zero Part.
func (a Address) Transport() Part {
	if len(a) == 0 {
		return Part{}
	}
	return a[0]
}

// Transforms returns the parts after the first.
func (a Address) Transforms() []Part {
	if len(a) < 2 {
		return nil
	}
	return a[1:]
}

// Key returns the key in the address's shs part; ok is false when there is
// none or it is not a key.
func (a Address) Key() (key keys.PublicKey, ok bool) {
	for _, p := range a.Transforms() {
		if p.Name != shsName || len(p.Data) == 0 {
			continue
		}
		key, err := keys.ParsePublicKeyLenient(p.Data[0])
		return key, err == nil
	}
	return keys.PublicKey{}, false
}

// String returns the address in the form that [Parse] and [ParseLoose] read.
// It may hold the secret seed of an invitation: see [Address.Redacted].
func (a Address) String() string { return joinParts(a) }

// Redacted returns the address as logs and errors show it: without the seed
// that an invitation's shs part may carry, and without characters that do not
// print.
func (a Address) Redacted() string {
	shown := make([]Part, len(a))
	for i, p := range a {
		if p.Name == shsName && len(p.Data) > 1 {
			p.Data = p.Data[:1]
		}
		shown[i] = p
	}
	return strings.Map(printable, joinParts(shown))
}

// Redacted returns a text with addresses as logs and errors show it: see [Address.Redacted].
func Redacted(addresses string) string {
	var shown []string
	for _, a := range ParseLoose(addresses) {
		shown = append(shown, a.Redacted())
	}
	return strings.Join(shown, ";")
}

func printable(r rune) rune {
	if unicode.IsPrint(r) {
		return r
	}
	return unicode.ReplacementChar
}

// MarshalText returns the same text as [Address.String].
func (a Address) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText reads one address as [Parse] does.
func (a *Address) UnmarshalText(text []byte) error {
	parsed, err := Parse(string(text))
	if err != nil {
		return err
	}
	if len(parsed) != 1 {
		return fmt.Errorf("multiserver: one address is wanted here, not %d", len(parsed))
	}
	*a = parsed[0]
	return nil
}

// Join returns addresses as one text, separated with ';'.
func Join(addrs []Address) string {
	texts := make([]string, len(addrs))
	for i, a := range addrs {
		texts[i] = a.String()
	}
	return strings.Join(texts, ";")
}

func joinParts(parts []Part) string {
	texts := make([]string, len(parts))
	for i, p := range parts {
		texts[i] = p.String()
	}
	return strings.Join(texts, "~")
}

var escaper = strings.NewReplacer("!", "!!", "~", "!~", ";", "!;", ":", "!:")

// ParseLoose reads addresses as the JavaScript package multiserver does, for
// what peers send: split at every ';', then at every '~' that no '!' precedes.
// It never fails; whether a part means anything is up to the transport or
// transform that it names. Empty addresses are left out, and so is everything
// when s is longer than 16 KiB. See docs/PROTOCOL.md §6.1.
func ParseLoose(s string) []Address {
	if len(s) > maxAddress {
		return nil
	}
	var addrs []Address
	for text := range strings.SplitSeq(s, ";") {
		if text == "" {
			continue
		}
		var a Address
		for _, part := range splitLoose(text) {
			a = append(a, textPart(part))
		}
		addrs = append(addrs, a)
	}
	return addrs
}

// splitLoose splits at '~' and takes "!x" as x, whatever x is; a '!' at the end
// stands for itself.
func splitLoose(s string) []string {
	var parts []string
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '!' && i+1 < len(s):
			i++
			b.WriteByte(s[i])
		case s[i] == '~':
			parts = append(parts, b.String())
			b.Reset()
		default:
			b.WriteByte(s[i])
		}
	}
	return append(parts, b.String())
}

func textPart(text string) Part {
	name, rest, found := strings.Cut(text, ":")
	if !found {
		return Part{Name: name}
	}
	return NewPart(name, rest)
}

// Parse reads the addresses that a person typed, separated with ';'. Every
// address needs a transport and a transform, the parts of the transports and
// transforms that come with secretstack must be sound, and each error says what
// is wrong and how to put it right. Parts with other names pass when they fit
// the grammar, for plugins bring transports of their own: [Known.Parse] refuses
// those that nobody knows. See docs/PROTOCOL.md §6.1.
func Parse(s string) ([]Address, error) {
	return parseStrict(s, func(a Address) (Address, error) {
		return standard().check(a, true)
	})
}

func parseStrict(s string, check func(Address) (Address, error)) ([]Address, error) {
	s = strings.TrimSpace(s)
	if s == "" {
		return nil, errors.New("multiserver: the address is empty; one looks like net:HOST:PORT~shs:KEY")
	}
	if len(s) > maxAddress {
		return nil, fmt.Errorf("multiserver: the address has %d bytes; no address is longer than %d", len(s), maxAddress)
	}
	var addrs []Address
	for _, text := range splitStrict(s, ';') {
		text = strings.TrimSpace(text)
		a, err := parseAddress(text, check)
		if err != nil {
			return nil, fmt.Errorf("multiserver: address %q: %w", shorten(withoutSecrets(text)), err)
		}
		addrs = append(addrs, a)
	}
	return addrs, nil
}

func parseAddress(text string, check func(Address) (Address, error)) (Address, error) {
	if text == "" {
		return nil, errors.New("it is empty: there is a ';' too many")
	}
	if hint := oldForm(text); hint != "" {
		return nil, errors.New(hint)
	}
	var a Address
	for _, part := range splitStrict(text, '~') {
		p, err := parsePart(part)
		if err != nil {
			return nil, err
		}
		a = append(a, p)
	}
	if len(a) == 1 {
		return nil, fmt.Errorf("it does not say how the peer proves its key: add ~shs: and the peer's key, as in %s~shs:KEY", shorten(text))
	}
	return check(a)
}

// oldForm recognises host:port:@key, the address of old invitations.
func oldForm(text string) string {
	before, key, found := strings.Cut(text, ":@")
	if !found || strings.Count(before, ":") != 1 || strings.Contains(before, "~") {
		return ""
	}
	key, _, _ = strings.Cut(key, "~")
	return fmt.Sprintf("this is the old form; write net:%s~shs:%s", before, strings.TrimSuffix(key, ".ed25519"))
}

// splitStrict splits at every separator that no '!' precedes, and keeps the
// escapes.
func splitStrict(s string, separator byte) []string {
	var parts []string
	start := 0
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '!':
			i++
		case separator:
			parts = append(parts, s[start:i])
			start = i + 1
		}
	}
	return append(parts, s[start:])
}

func parsePart(text string) (Part, error) {
	if text == "" {
		return Part{}, errors.New("a part is empty: there is a '~' too many")
	}
	fields := splitStrict(text, ':')
	name := fields[0]
	if err := checkName(name); err != nil {
		return Part{}, err
	}
	if len(fields) == 1 {
		return Part{Name: name}, nil
	}
	data := make([]string, 0, len(fields)-1)
	for _, field := range fields[1:] {
		value, err := unescape(field, name == "unix")
		if err != nil {
			return Part{}, fmt.Errorf("part %q: %w", shorten(text), err)
		}
		data = append(data, value)
	}
	return Part{Name: name, Data: data}, nil
}

func checkName(name string) error {
	bad := strings.IndexFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-'
	})
	if len(name) >= 2 && bad < 0 && name[0] >= 'a' && name[0] <= 'z' {
		return nil
	}
	if lower := strings.ToLower(name); lower != name && checkName(lower) == nil {
		return fmt.Errorf("part name %q must be in lower case: write %q", shorten(name), lower)
	}
	return fmt.Errorf("%q does not begin with a part name (net: or shs:, for instance)", shorten(name))
}

// unescape takes the escapes out of one field and checks its characters. A
// path may hold any character that prints: home folders do.
func unescape(field string, path bool) (string, error) {
	var b strings.Builder
	for i := 0; i < len(field); {
		r, size := utf8.DecodeRuneInString(field[i:])
		switch {
		case r == utf8.RuneError && size <= 1:
			return "", errors.New("it is not UTF-8 text")
		case r == '!':
			if i+1 == len(field) || !strings.ContainsRune("!:;~", rune(field[i+1])) {
				return "", errors.New("'!' must be written '!!'; it stands before ! : ; or ~ to take their meaning away")
			}
			b.WriteByte(field[i+1])
			i += 2
			continue
		case r == ' ' && !path:
			return "", errors.New("there is a space in it")
		case r > '}' && !path:
			return "", fmt.Errorf("the character %q cannot stand in an address; write host names in their ASCII (punycode) form", r)
		case !unicode.IsPrint(r):
			return "", fmt.Errorf("the character %q cannot stand in an address", r)
		}
		b.WriteString(field[i : i+size])
		i += size
	}
	return b.String(), nil
}

// withoutSecrets makes a text that may be no address at all fit to be shown:
// the seed of an invitation is cut out, and so is what is too long for a key,
// because it may be a secret one.
func withoutSecrets(s string) string {
	before, after, found := strings.Cut(s, "~"+shsName+":")
	if !found {
		return s
	}
	rest := ""
	if i := strings.IndexByte(after, '~'); i >= 0 {
		after, rest = after[:i], after[i:]
	}
	key, _, seed := strings.Cut(after, ":")
	const longest = len("@.ed25519") + 44
	if len(key) > longest {
		key = "…"
	}
	if seed {
		key += ":…"
	}
	return before + "~" + shsName + ":" + key + rest
}

// shorten keeps errors on one line whatever was typed.
func shorten(s string) string {
	const most = 120
	if len(s) <= most {
		return s
	}
	return s[:most] + "…"
}
