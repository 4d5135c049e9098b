package admission

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

const (
	// MaxNote is the longest note, in bytes, of a rule or an invite.
	MaxNote = 256

	maxRuleText = 1024
)

// Effect is what a rule does.
type Effect string

const (
	// Allow lets somebody in.
	Allow Effect = "allow"

	// Deny keeps somebody out.
	Deny Effect = "deny"
)

// Rule allows or denies somebody. In text it is "deny 192.0.2.0/24", with " until 2030-01-31T12:00:00Z" and " # a note" behind
// it if need be.
type Rule struct {
	Effect  Effect    `json:"effect"`
	Subject Subject   `json:"subject"`
	Note    string    `json:"note,omitempty"`   // for the operator; one line, at most MaxNote bytes
	Created time.Time `json:"created,omitzero"` // by SetRule, if not given; whole seconds
	Expires time.Time `json:"expires,omitzero"` // from when on it does not hold; whole seconds. Zero: never

	// Fixed says that the rule comes from the configuration. SetRule ignores it.
	Fixed bool `json:"fixed,omitempty"`
}

// ParseRule reads a rule as text. The day alone, 2030-01-31, is its beginning in UTC. Its error is [ErrRule].
func ParseRule(s string) (Rule, error) {
	if len(s) > maxRuleText {
		return Rule{}, fmt.Errorf("%w: longer than %d characters", ErrRule, maxRuleText)
	}
	text, note, _ := strings.Cut(s, "#")
	words := strings.Fields(text)
	if len(words) != 2 && (len(words) != 4 || words[2] != "until") {
		return Rule{}, fmt.Errorf(`%w: a rule looks like "deny 192.0.2.0/24 until 2030-01-31 # why"`, ErrRule)
	}
	r := Rule{Effect: Effect(words[0]), Note: note}
	var err error
	if r.Subject, err = ParseSubject(words[1]); err != nil {
		return Rule{}, err
	}
	if len(words) == 4 {
		if r.Expires, err = parseTime(words[3]); err != nil {
			return Rule{}, err
		}
	}
	return r.normal()
}

func parseTime(s string) (time.Time, error) {
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%w: a time looks like 2030-01-31 or 2030-01-31T12:00:00Z", ErrRule)
}

// String writes the rule as ParseRule reads it, without the time it was made.
func (r Rule) String() string {
	s := string(r.Effect) + " " + r.Subject.String()
	if !r.Expires.IsZero() {
		s += " until " + r.Expires.Format(time.RFC3339)
	}
	if r.Note != "" {
		s += " # " + r.Note
	}
	return s
}

// normal checks the rule and gives it its one form.
func (r Rule) normal() (Rule, error) {
	if r.Effect != Allow && r.Effect != Deny {
		return Rule{}, fmt.Errorf("%w: a rule begins with allow or deny", ErrRule)
	}
	if r.Subject.IsZero() {
		return Rule{}, fmt.Errorf("%w: the rule is about nobody", ErrRule)
	}
	var err error
	if r.Note, err = normalNote(r.Note); err != nil {
		return Rule{}, err
	}
	if r.Created, err = normalTime(r.Created); err != nil {
		return Rule{}, err
	}
	if r.Expires, err = normalTime(r.Expires); err != nil {
		return Rule{}, err
	}
	return r, nil
}

// normalNote gives a note without spaces around it. It is refused if it would not stay on its line.
func normalNote(note string) (string, error) {
	note = strings.TrimSpace(note)
	if len(note) > MaxNote || !utf8.ValidString(note) || strings.ContainsFunc(note, unicode.IsControl) ||
		strings.ContainsAny(note, "\u2028\u2029") {
		return "", fmt.Errorf("%w: a note is one line of at most %d bytes", ErrRule, MaxNote)
	}
	return note, nil
}

// normalTime gives a time in UTC and whole seconds.
func normalTime(t time.Time) (time.Time, error) {
	if t.IsZero() {
		return time.Time{}, nil
	}
	t = t.UTC().Truncate(time.Second)
	if t.Year() < 1970 || t.Year() > 9999 {
		return time.Time{}, fmt.Errorf("%w: a time is in the years 1970 to 9999", ErrRule)
	}
	return t, nil
}

// storedVersion is written into every record, so that a later version can tell what it reads.
const storedVersion = 1

// storedRule is a rule in its bucket, under its subject's text.
type storedRule struct {
	Version int `json:"v"`
	Rule
}

func encodeRule(r Rule) ([]byte, error) {
	r.Fixed = false
	return json.Marshal(storedRule{storedVersion, r})
}

// decodeRule reads a rule that is stored under key.
func decodeRule(key string, value []byte) (Rule, error) {
	var stored storedRule
	if err := decodeStrictly(value, &stored); err != nil {
		return Rule{}, err
	}
	r, err := stored.normal()
	switch {
	case stored.Version != storedVersion:
		return Rule{}, fmt.Errorf("%w: a rule of version %d", ErrStored, stored.Version)
	case err != nil:
		return Rule{}, fmt.Errorf("%w: %w", ErrStored, err)
	case r.Fixed || r.Subject.String() != key:
		return Rule{}, fmt.Errorf("%w: a rule under the wrong key", ErrStored)
	}
	return r, nil
}

// decodeStrictly reads one JSON value without anything unknown in it or behind it.
func decodeStrictly(value []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(value))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("%w: %w", ErrStored, err)
	}
	if d.More() {
		return fmt.Errorf("%w: more than one value", ErrStored)
	}
	return nil
}
