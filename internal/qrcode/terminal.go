package qrcode

import (
	"fmt"
	"strings"

	"rsc.io/qr"
)

// margin is the white border on a terminal, in modules: its lines are few, and readers are content with less.
const margin = 2

// Terminal draws text for a terminal: two rows of modules a line, dark on light whatever the terminal's colours. It
// spends little on correction, because a screen has no stains. A text of more than about 2900 bytes does not fit.
func Terminal(text string) (string, error) {
	code, err := qr.Encode(text, qr.L)
	if err != nil {
		return "", fmt.Errorf("qrcode: %d bytes: %w", len(text), err)
	}
	var b strings.Builder
	for y := -margin; y < code.Size+margin; y += 2 {
		b.WriteString("\x1b[30;107m")
		for x := -margin; x < code.Size+margin; x++ {
			b.WriteString(half(code.Black(x, y), code.Black(x, y+1)))
		}
		b.WriteString("\x1b[0m\n")
	}
	return b.String(), nil
}

// half draws two modules, one above the other, in one character.
func half(upper, lower bool) string {
	switch {
	case upper && lower:
		return "█"
	case upper:
		return "▀"
	case lower:
		return "▄"
	}
	return " "
}
