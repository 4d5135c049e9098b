package secrezapi

import (
	"strconv"
	"strings"
)

// accepts tells how much a visitor wants a media type, from 0, not at all, to 1. Of the ranges in an Accept header the one
// that fits best counts. No header takes everything.
func accepts(header []string, major, minor string) float64 {
	if len(header) == 0 {
		return 1
	}
	best, quality := 0, 0.0
	for element := range strings.SplitSeq(strings.Join(header, ","), ",") {
		media, params, _ := strings.Cut(element, ";")
		fit := fits(strings.ToLower(strings.TrimSpace(media)), major, minor)
		if fit > best {
			best, quality = fit, weight(params)
		}
	}
	return quality
}

// fits tells how closely a range describes a type: 3 exactly, 0 not at all.
func fits(media, major, minor string) int {
	switch media {
	case major + "/" + minor:
		return 3
	case major + "/*":
		return 2
	case "*/*":
		return 1
	}
	return 0
}

// weight reads the q among the parameters of a range.
func weight(params string) float64 {
	for param := range strings.SplitSeq(params, ";") {
		name, value, _ := strings.Cut(strings.TrimSpace(param), "=")
		if !strings.EqualFold(name, "q") {
			continue
		}
		q, err := strconv.ParseFloat(value, 64)
		if err != nil || !(q >= 0 && q <= 1) {
			return 0
		}
		return q
	}
	return 1
}
