package secretstack

import (
	"strings"
	"unicode"
)

// camelCase gives the name under which a plugin is mounted and configured, by the rules of the JavaScript original:
// anything that is not an ASCII letter or digit separates words; without such separators, each capital begins a word.
func camelCase(name string) string {
	var b strings.Builder
	for i, w := range words(name) {
		if i > 0 {
			w = strings.ToUpper(w[:1]) + w[1:]
		}
		b.WriteString(w)
	}
	return b.String()
}

// words splits a name into its lower-case words.
func words(name string) []string {
	separated := strings.ContainsFunc(name, func(r rune) bool {
		return unicode.IsSpace(r) || strings.ContainsRune("_-.:", r)
	})
	if !separated && mixed(name) {
		name = spaceCapitals(name)
	}
	return strings.FieldsFunc(strings.ToLower(name), func(r rune) bool { return !isWord(r) })
}

// mixed reports whether the name has a small letter next to a capital, as in "fooBar" or "HTTPAuth" but not "ABC".
func mixed(name string) bool {
	for i := 1; i < len(name); i++ {
		a, b := rune(name[i-1]), rune(name[i])
		if isSmall(a) && isCapital(b) || isCapital(a) && isSmall(b) {
			return true
		}
	}
	return false
}

func spaceCapitals(name string) string {
	var b strings.Builder
	for i, r := range name {
		if i > 0 && isCapital(r) {
			b.WriteByte(' ')
		}
		b.WriteRune(r)
	}
	return b.String()
}

func isSmall(r rune) bool   { return 'a' <= r && r <= 'z' }
func isCapital(r rune) bool { return 'A' <= r && r <= 'Z' }
func isWord(r rune) bool    { return isSmall(r) || isCapital(r) || '0' <= r && r <= '9' }
