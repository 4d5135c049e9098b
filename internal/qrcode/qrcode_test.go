package qrcode_test

import (
	"encoding/xml"
	"fmt"
	"strings"
	"testing"

	"rsc.io/qr"

	"github.com/secretstack/secretstack/internal/qrcode"
)

func TestEveryModuleIsDrawnOnceWithTheQuietZoneAroundIt(t *testing.T) {
	const text = "https://hub.example.org/s/7y-6ro-3z"
	svg, err := qrcode.SVG(text, "contact")
	if err != nil {
		t.Fatal(err)
	}
	code, err := qr.Encode(text, qr.M)
	if err != nil {
		t.Fatal(err)
	}
	drawn := modules(t, svg)
	for y := range code.Size {
		for x := range code.Size {
			want := 0
			if code.Black(x, y) {
				want = 1
			}
			if got := drawn[[2]int{x + 4, y + 4}]; got != want {
				t.Fatalf("module %d,%d is drawn %d times, want %d", x, y, got, want)
			}
			delete(drawn, [2]int{x + 4, y + 4})
		}
	}
	if len(drawn) > 0 {
		t.Fatalf("drawn outside of the code: %v", drawn)
	}
}

// modules reads the dark path of a drawing.
func modules(t *testing.T, svg string) map[[2]int]int {
	t.Helper()
	_, path, found := strings.Cut(svg, `fill="#000" d="`)
	if !found {
		t.Fatalf("no path in %s", svg)
	}
	path, _, _ = strings.Cut(path, `"`)
	drawn := map[[2]int]int{}
	for _, run := range strings.SplitAfter(path, "z") {
		if run == "" {
			continue
		}
		var x, y, width, back int
		if _, err := fmt.Sscanf(run, "M%d %dh%dv1h-%dz", &x, &y, &width, &back); err != nil || width != back {
			t.Fatalf("run %q: %v", run, err)
		}
		for i := range width {
			drawn[[2]int{x + i, y}]++
		}
	}
	return drawn
}

func TestALabelIsTextAndNothingElse(t *testing.T) {
	const label = `</title><script>alert("1")</script>&`
	svg, err := qrcode.SVG("x", label)
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Title  string   `xml:"title"`
		Script []string `xml:"script"`
	}
	if err := xml.Unmarshal([]byte(svg), &doc); err != nil {
		t.Fatal(err)
	}
	if doc.Title != label || len(doc.Script) > 0 {
		t.Fatalf("the title is %q with %d scripts", doc.Title, len(doc.Script))
	}
}

func TestATextThatDoesNotFitIsRefused(t *testing.T) {
	if svg, err := qrcode.SVG(strings.Repeat("x", 5000), "long"); err == nil {
		t.Fatalf("5000 bytes became %d bytes", len(svg))
	}
}
