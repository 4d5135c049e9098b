package admin

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// byteCount writes a number of bytes for people: "1.2 MB".
func byteCount(n int64) string {
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	value := float64(n)
	for _, unit := range []string{"kB", "MB", "GB", "TB"} {
		value /= 1000
		switch {
		case value < 9.95:
			return fmt.Sprintf("%.1f %s", value, unit)
		case value < 999.5:
			return fmt.Sprintf("%.0f %s", value, unit)
		}
	}
	return fmt.Sprintf("%.0f PB", value/1000)
}

// when tells how far a moment is from now: "3 h ago", "in 12 days".
func when(t time.Time) string {
	d := time.Since(t)
	switch {
	case d <= -time.Second:
		return "in " + span(-d)
	case d < time.Second:
		return "now"
	}
	return span(d) + " ago"
}

// span writes a length of time, rounded, in the unit that fits.
func span(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d < 59500*time.Millisecond:
		return fmt.Sprintf("%d s", d.Round(time.Second)/time.Second)
	case d < 59*time.Minute+30*time.Second:
		return fmt.Sprintf("%d min", d.Round(time.Minute)/time.Minute)
	case d < 2*day-time.Hour/2:
		return fmt.Sprintf("%d h", d.Round(time.Hour)/time.Hour)
	}
	return fmt.Sprintf("%d days", d.Round(day)/day)
}

// thousands writes a count for people: "1,284".
func thousands(n int) string {
	digits := strconv.Itoa(n)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

func iso(t time.Time) string { return t.UTC().Format(time.RFC3339) }
func utc(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }

func orderName(order string) string {
	switch order {
	case orderOldest:
		return "oldest first"
	case orderTraffic:
		return "most traffic first"
	}
	return "newest first"
}

// sentence makes a message fit for a page: a capital letter and a full stop.
func sentence(message string) string {
	first, size := utf8.DecodeRuneInString(message)
	return string(unicode.ToUpper(first)) + strings.TrimSuffix(message[size:], ".") + "."
}
