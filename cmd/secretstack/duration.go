package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// duration is a time.Duration as people write it: 90s, 90m, 12h, 7d, or 1d12h. It is never negative. It is the value of a
// flag and of a setting in a file.
type duration time.Duration

const day = 24 * time.Hour

// parseDuration reads a duration. Days have 24 hours.
func parseDuration(text string) (time.Duration, error) {
	bad := fmt.Errorf("%q is no time such as 90s, 12h or 7d", text)
	var whole time.Duration
	rest := text
	if days, after, found := strings.Cut(text, "d"); found {
		n, err := strconv.ParseUint(days, 10, 16)
		if err != nil {
			return 0, bad
		}
		whole, rest = time.Duration(n)*day, after
	}
	if rest == "" && text != "" {
		return whole, nil
	}
	part, err := time.ParseDuration(rest)
	if err != nil || part < 0 || whole+part < 0 || strings.ContainsAny(rest, "+-") {
		return 0, bad
	}
	return whole + part, nil
}

// UnmarshalText reads a setting.
func (d *duration) UnmarshalText(text []byte) error { return d.Set(string(text)) }

// Set reads the value of a flag.
func (d *duration) Set(text string) error {
	parsed, err := parseDuration(text)
	if err == nil {
		*d = duration(parsed)
	}
	return err
}

// String writes the duration so that Set reads it. Zero is what help does not show.
func (d *duration) String() string {
	if *d == 0 {
		return "0"
	}
	text := time.Duration(*d).String()
	text = strings.TrimSuffix(text, "0s")
	if short, found := strings.CutSuffix(text, "h0m"); found {
		text = short + "h"
	}
	if last := text[len(text)-1]; '0' <= last && last <= '9' || last == '.' {
		return time.Duration(*d).String() // it did not end with nothing but a zero
	}
	return text
}

// Type is what flags are told apart by.
func (d *duration) Type() string { return "duration" }
