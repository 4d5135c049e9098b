package qrcode_test

import (
	"strings"
	"testing"

	"github.com/secretstack/secretstack/internal/qrcode"
)

func TestACodeOnATerminalHasWholeLines(t *testing.T) {
	drawn, err := qrcode.Terminal("secretstack:" + strings.Repeat("x", 600))
	if err != nil {
		t.Fatal(err)
	}
	width := 0
	for line := range strings.Lines(drawn) {
		modules := strings.TrimSuffix(strings.TrimPrefix(line, "\x1b[30;107m"), "\x1b[0m\n")
		if n := len([]rune(modules)); width == 0 {
			width = n
		} else if n != width {
			t.Fatalf("a line has %d modules, the first %d", n, width)
		}
	}
	if lines := strings.Count(drawn, "\n"); lines != (width+1)/2 {
		t.Errorf("%d lines for %d modules", lines, width)
	}
}

func TestATextThatFitsNoCodeIsRefused(t *testing.T) {
	if _, err := qrcode.Terminal(strings.Repeat("x", 4000)); err == nil {
		t.Error("4000 bytes fit")
	}
}
