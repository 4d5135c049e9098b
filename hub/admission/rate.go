package admission

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Kind is what is counted.
type Kind uint8

const (
	// Connection is a new connection; for a key, a new connection that proves it.
	Connection Kind = iota

	// Registration is the wish to publish: somebody sends a signature that has to be checked.
	Registration

	// NewID is an id given to a key that has none, or another one in a reset. Ids are kept for ever. [Admission.Publish]
	// counts the first one by itself.
	NewID

	// Lookup is a question whose answer tells whether an id or a key is registered.
	Lookup

	// Request is an HTTP request.
	Request

	// Circuit is a circuit asked for.
	Circuit

	// Deposit is a message for a mailbox.
	Deposit

	kinds
)

// String names the kind, as in "new id".
func (k Kind) String() string {
	names := [kinds]string{"connection", "registration", "new id", "lookup", "request", "circuit", "deposit"}
	if k < kinds {
		return names[k]
	}
	return "kind " + strconv.Itoa(int(k))
}

// Kinds lists all kinds.
func Kinds() []Kind {
	all := make([]Kind, kinds)
	for i := range all {
		all[i] = Kind(i)
	}
	return all
}

const (
	// maxEvery and maxBurst bound a rate; maxWindow bounds how long a bucket takes to fill.
	maxEvery  = 24 * time.Hour
	maxBurst  = 1_000_000_000
	maxWindow = 365 * 24 * time.Hour

	// burstTime is how much of its rate a bucket holds that is not told.
	burstTime = 10 * time.Second
)

// Rate bounds how often something may happen: at most Burst times at once, and in the long run once in each Every. In text it
// is "50/s", "6/m", "100/h", "1/90s" or "none", with " burst 500" behind it if need be. The zero value means the default of
// the place where it stands.
type Rate struct {
	// Every is the time in which one more may happen, at most a day. Less than zero: no limit.
	Every time.Duration

	// Burst is how many may happen at once. Zero: what comes to 10 s, at least 1.
	Burst int
}

// ParseRate reads a rate. Its error is [ErrRule].
func ParseRate(s string) (Rate, error) {
	if s == "none" {
		return Rate{Every: -1}, nil
	}
	text, burst, hasBurst := strings.Cut(s, " burst ")
	number, per, ok := strings.Cut(text, "/")
	n, err := parseNumber(number)
	if !ok || err != nil {
		return Rate{}, fmt.Errorf(`%w: a rate looks like "50/s", "100/h burst 500" or "none"`, ErrRule)
	}
	period, err := parsePeriod(per)
	if err != nil {
		return Rate{}, err
	}
	r := Rate{Every: period / time.Duration(n)}
	if r.Every == 0 {
		return Rate{}, fmt.Errorf("%w: a rate of more than one a nanosecond", ErrRule)
	}
	if hasBurst {
		if r.Burst, err = parseNumber(burst); err != nil {
			return Rate{}, fmt.Errorf("%w: a burst is a number from 1 to %d", ErrRule, maxBurst)
		}
	}
	return r, r.check()
}

// parseNumber reads a number from 1 to maxBurst.
func parseNumber(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 31)
	if err != nil || n == 0 || n > maxBurst || s[0] == '+' {
		return 0, ErrRule
	}
	return int(n), nil
}

// parsePeriod reads what stands behind the slash: a unit, or a duration.
func parsePeriod(s string) (time.Duration, error) {
	switch s {
	case "s":
		return time.Second, nil
	case "m":
		return time.Minute, nil
	case "h":
		return time.Hour, nil
	case "d":
		return 24 * time.Hour, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 || d > maxEvery {
		return 0, fmt.Errorf("%w: a rate is per s, m, h, d, or a duration such as 90s up to a day", ErrRule)
	}
	return d, nil
}

func (r Rate) check() error {
	switch {
	case r.Every == 0 && r.Burst != 0:
		return fmt.Errorf("%w: a burst without a rate", ErrRule)
	case r.Every <= 0:
		return nil
	case r.Every > maxEvery:
		return fmt.Errorf("%w: a rate of less than one a day", ErrRule)
	case r.Burst < 0 || r.Burst > maxBurst || time.Duration(r.Burst) > maxWindow/r.Every:
		return fmt.Errorf("%w: a burst that takes more than a year to come back", ErrRule)
	}
	return nil
}

// String writes the rate as ParseRate reads it; the zero value gives no text.
func (r Rate) String() string {
	switch {
	case r.Every < 0:
		return "none"
	case r.Every == 0:
		return ""
	}
	s := "1/" + r.Every.String()
	for _, unit := range []struct {
		name string
		time.Duration
	}{{"s", time.Second}, {"m", time.Minute}, {"h", time.Hour}, {"d", 24 * time.Hour}} {
		if n := unit.Duration / r.Every; n > 0 && unit.Duration/n == r.Every {
			s = fmt.Sprintf("%d/%s", n, unit.name)
			break
		}
	}
	if r.Burst > 0 {
		s += fmt.Sprintf(" burst %d", r.Burst)
	}
	return s
}

// MarshalText writes what String returns.
func (r Rate) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads what ParseRate reads; no text gives the zero value.
func (r *Rate) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*r = Rate{}
		return nil
	}
	parsed, err := ParseRate(string(text))
	if err == nil {
		*r = parsed
	}
	return err
}

// A bucket is a rate as the tables use it, in nanoseconds.
type bucket struct {
	every  int64 // zero: no limit
	window int64 // how long an empty bucket takes to fill
}

func (r Rate) bucket(fallback Rate) bucket {
	if r.Every == 0 {
		r = fallback
	}
	if r.Every < 0 {
		return bucket{}
	}
	burst := int64(r.Burst)
	if burst == 0 {
		burst = max(1, int64(burstTime/r.Every))
	}
	return bucket{every: int64(r.Every), window: int64(r.Every) * burst}
}
