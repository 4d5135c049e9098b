package native_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/secretstack/secretstack/hub/native"
)

const hubAddress = "net:hub.example.org:8433~shs:1b9KP8znF7A4i8wnSevBSK2ZabI/Re4bYF/Vh3hXasQ=;" +
	"wss://hub.example.org/~shs:1b9KP8znF7A4i8wnSevBSK2ZabI/Re4bYF/Vh3hXasQ="

func TestLinksSurviveTheirText(t *testing.T) {
	for _, want := range []native.Link{{Address: hubAddress, Invite: "abcde-fghij"}, {Address: hubAddress}} {
		text := want.String()
		if !strings.HasPrefix(text, "secretstack://hub?address=net%3Ahub.example.org%3A8433~shs") {
			t.Errorf("the text is %s", text)
		}
		if got, err := native.ParseLink(text); err != nil || got != want {
			t.Errorf("%+v, %v; want %+v", got, err, want)
		}
	}
}

func TestWaysOfOneHubAreNotSaidTwice(t *testing.T) {
	const key, other = "~shs:1b9KP8znF7A4i8wnSevBSK2ZabI/Re4bYF/Vh3hXasQ=", "~shs:1b9KP8znF7A4i8wnSevBSK2ZabI/Re4bYF/Vh3hXasR="
	for given, want := range map[string]string{
		"net:h:1" + key:                                             "net:h:1" + key,
		"net:h:1" + key + ";ws://h:1" + key:                         "net:h:1" + key,
		"ws://h:1/" + key + ";net:h:1" + key + ";net:i:1" + key:     "net:h:1" + key + ";net:i:1" + key,
		"net:h:1" + key + ";ws://h:2" + key + ";wss://h" + key:      "net:h:1" + key + ";ws://h:2" + key + ";wss://h" + key,
		"net:h:1" + key + ";ws://h:1" + other + ";ws://h:1/x" + key: "net:h:1" + key + ";ws://h:1" + other + ";ws://h:1/x" + key,
		"": "",
	} {
		if got := native.Ways(given); got != want {
			t.Errorf("%s becomes %s, not %s", given, got, want)
		}
	}
}

func TestWhatIsNoLinkIsSaidToBeNone(t *testing.T) {
	for _, text := range []string{
		"", hubAddress, "https://hub?address=x", "secretstack://other?address=x", "secretstack://hub", "secretstack://me@hub?address=x",
		"secretstack://hub/path?address=x", "secretstack://hub?address=x&address=y", "secretstack://hub?address=%zz",
		"secretstack://hub?address=" + strings.Repeat("x", 5000),
	} {
		if l, err := native.ParseLink(text); !errors.Is(err, native.ErrLink) {
			t.Errorf("%q is %+v, %v", text, l, err)
		}
	}
	if _, err := native.ParseLink("secretstack://hub?address=nonsense"); err == nil || errors.Is(err, native.ErrLink) {
		t.Errorf("a bad address gives %v", err)
	}
}

func FuzzParseLink(f *testing.F) {
	f.Add(native.Link{Address: hubAddress, Invite: "x"}.String())
	f.Add("secretstack://hub?address=net:x:1~shs:y")
	f.Fuzz(func(t *testing.T, text string) {
		l, err := native.ParseLink(text)
		if err != nil {
			return
		}
		if again, err := native.ParseLink(l.String()); err != nil || again != l {
			t.Errorf("%+v becomes %+v, %v", l, again, err)
		}
	})
}
