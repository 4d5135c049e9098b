package main

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// packages are the names that begin the errors of our own packages.
var packages = []string{"secretstack: ", "multiserver: ", "muxrpc: ", "keys: ", "tunnel: ", "room: ", "shs: ",
	"courier: ", "store: ", "card: ", "envelope: ", "words: ", "hubclient: ", "circuit: ", "share: ",
	"hub: ", "registry: ", "admission: ", "vhost: ", "cert: ", "secrezapi: ", "secrez: ", "mailbox: ", "circuits: ", "admin: ",
	"claim: ", "rotation: ", "boxstream: "}

// plain is how the text of an error is printed: fit for a terminal, because somebody else's text may be in it, and without
// the names of our packages before it, which tell a person nothing.
func plain(err error) string { return printableLines(plainText(err.Error())) }

// plainText leaves out the names of our packages before an error that has come as a text.
func plainText(text string) string {
	for i := 0; i < len(packages); i++ {
		if rest, found := strings.CutPrefix(text, packages[i]); found {
			text, i = rest, -1
		}
	}
	return text
}

// printable makes text of a peer fit for a terminal: nobody else may move our cursor or change our colours.
func printable(text string) string {
	var b strings.Builder
	for len(text) > 0 {
		r, size := utf8.DecodeRuneInString(text)
		if strconv.IsPrint(r) && (r != utf8.RuneError || size > 1) {
			b.WriteRune(r)
		} else {
			quoted := strconv.Quote(text[:size])
			b.WriteString(quoted[1 : len(quoted)-1])
		}
		text = text[size:]
	}
	return b.String()
}

// printableLines makes text of a peer fit for a terminal, line breaks and tabs excepted.
func printableLines(text string) string {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		parts := strings.Split(line, "\t")
		for j := range parts {
			parts[j] = printable(parts[j])
		}
		lines[i] = strings.Join(parts, "\t")
	}
	return strings.Join(lines, "\n")
}

// printJSON prints a value as a line of JSON.
func (g *globals) printJSON(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return g.printJSONText(b)
}

// printJSONText prints JSON, with escapes for what is not fit for a terminal. To programs it is the same.
func (g *globals) printJSONText(b []byte) error {
	var out strings.Builder
	for _, r := range string(b) {
		switch {
		case strconv.IsPrint(r) || r == '\n':
			out.WriteRune(r)
		case r <= 0xffff:
			fmt.Fprintf(&out, `\u%04x`, r)
		default:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&out, `\u%04x\u%04x`, high, low)
		}
	}
	_, err := fmt.Fprintln(g.out, out.String())
	return err
}
