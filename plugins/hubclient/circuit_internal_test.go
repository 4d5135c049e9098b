package hubclient

import (
	"errors"
	"strings"
	"testing"

	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/multiserver"
)

func TestPartsOfCircuitsAreReadStrictlyAndLoosely(t *testing.T) {
	cs := newCircuits(&Client{})
	id, err := keys.FromStringSeed("a key")
	if err != nil {
		t.Fatal(err)
	}
	ref := id.Public().Ref()
	for text, want := range map[string]string{
		"circuit:net:h:1:R:R":               "circuit:net:h:1:R:R",
		"circuit:net::1:R:R":                "circuit:net:localhost:1:R:R",
		"circuit:net:::1:8433:R:R":          "circuit:net:::1:8433:R:R",
		"circuit:ws://H:80:R:R":             "circuit:ws://h/:R:R",
		"circuit:wss://h:8433/a:b:R:R":      "circuit:wss://h:8433/a:b:R:R",
		"circuit:net:h:0:R:R":               "",
		"circuit:net:h:R:R":                 "",
		"circuit:R:R":                       "",
		"circuit:":                          "",
		"circuit":                           "",
		"circuit:unix:/tmp/hub:R:R":         "",
		"circuit:net:h:1:R:@short":          "",
		"circuit:net:h:1:@short:R":          "",
		"circuit:net:h:1:" + ref[1:] + ":R": "circuit:net:h:1:R:R",
		"circuit:circuit:net:h:1:R:R:R:R":   "",
	} {
		for _, mode := range []multiserver.Mode{multiserver.Strict, multiserver.Loose} {
			address := multiserver.ParseLoose(strings.ReplaceAll(text, ":R", ":"+ref) + "~noauth")
			got, err := cs.ParsePart(address[0].Transport(), mode)
			if err != nil && want != "" || err == nil && got.String() != strings.ReplaceAll(want, ":R", ":"+ref) {
				t.Errorf("%s becomes %q, %v; want %q", text, got.String(), err, want)
			}
			if errors.Is(err, multiserver.ErrOtherPart) {
				t.Errorf("%s is taken for another transport's", text)
			}
		}
	}
	if _, err := cs.ParsePart(multiserver.NewPart("net", "h:1"), multiserver.Strict); !errors.Is(err, multiserver.ErrOtherPart) {
		t.Error(err)
	}
}

func FuzzCircuitPart(f *testing.F) {
	cs := newCircuits(&Client{})
	ref := "@" + strings.Repeat("A", 42) + "8=.ed25519"
	f.Add("net:h:1:" + ref + ":" + ref)
	f.Add("wss://h:8433/a:" + ref + ":" + ref)
	f.Add("net:h:1:" + ref + ":@" + strings.Repeat("A", 43) + "=.ed25519") // the zero key
	f.Add("::::")
	f.Fuzz(func(t *testing.T, rest string) {
		part, err := cs.ParsePart(multiserver.NewPart(circuitName, rest), multiserver.Loose)
		if err != nil {
			return
		}
		again, err := cs.ParsePart(part, multiserver.Loose)
		if err != nil || again.String() != part.String() {
			t.Errorf("%q becomes %q, and then %q, %v", rest, part, again, err)
		}
		back := multiserver.ParseLoose(part.String() + "~noauth")
		if len(back) != 1 || back[0].Transport().String() != part.String() {
			t.Errorf("%q is read as %v", part, back)
		}
	})
}
