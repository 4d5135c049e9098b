package multiserver_test

import (
	"reflect"
	"strings"
	"testing"

	"github.com/secretstack/secretstack/multiserver"
	msnet "github.com/secretstack/secretstack/multiserver/net"
	"github.com/secretstack/secretstack/multiserver/onion"
	"github.com/secretstack/secretstack/multiserver/unix"
	"github.com/secretstack/secretstack/multiserver/ws"
)

func addSeeds(f *testing.F) {
	f.Helper()
	for _, field := range []string{"net_parse", "ws_parse", "shs_parse", "unix_parse", "onion_parse", "compose_parse", "ma_decode"} {
		for _, v := range vector[[][]any](f, "addresses.json", field) {
			if text, ok := v[0].(string); ok {
				f.Add(text)
				f.Add(text + "~shs:" + key)
			}
		}
	}
	f.Add("unix:/tmp/a!~b!!c!;d/socket~noauth;tunnel:@p:@t~shs:" + key + ":" + seed)
}

// FuzzParse holds the strict parser to this: what it takes comes back from its
// own text, and its errors are one short line without secrets.
func FuzzParse(f *testing.F) {
	addSeeds(f)
	f.Fuzz(func(t *testing.T, text string) {
		addrs, err := multiserver.Parse(text)
		if err != nil {
			if len(err.Error()) > 1500 || strings.Contains(err.Error(), "\n") {
				t.Errorf("%q: not one line: %v", text, err)
			}
			return
		}
		again, err := multiserver.Parse(multiserver.Join(addrs))
		if err != nil || !reflect.DeepEqual(again, addrs) {
			t.Errorf("%q is %q, which is %q (%v)", text, addrs, again, err)
		}
		for _, a := range addrs {
			if strings.Contains(a.Transport().Text(), ";") {
				continue // JavaScript's parser has no way to read it
			}
			if loosely := multiserver.ParseLoose(a.String()); len(loosely) != 1 || len(loosely[0]) != len(a) {
				t.Errorf("%q reads loosely as %q", a, loosely)
			}
		}
	})
}

// FuzzParseLoose holds the loose parser to this: it takes everything, what it
// takes comes back from its own text, and transports read each part without a
// panic, into a form that they read as the same.
func FuzzParseLoose(f *testing.F) {
	addSeeds(f)
	parsers := []multiserver.PartParser{
		msnet.New(msnet.Options{}), ws.New(ws.Options{}), unix.New(unix.Options{}), onion.New(onion.Options{}),
		shsFor(f, "alice"), multiserver.NoAuth(multiserver.NoAuthConfig{}),
	}
	f.Fuzz(func(t *testing.T, text string) {
		addrs := multiserver.ParseLoose(text)
		if len(multiserver.Join(addrs)) < 16<<10 {
			if again := multiserver.ParseLoose(multiserver.Join(addrs)); !reflect.DeepEqual(again, addrs) {
				t.Errorf("%q is %q, which is %q", text, addrs, again)
			}
		}
		for _, a := range addrs {
			_, _ = a.Key()
			if shown := a.Redacted(); strings.ContainsAny(shown, "\n\x1b") {
				t.Errorf("%q shows as %q", a, shown)
			}
			for _, part := range a {
				readByAll(t, parsers, part)
			}
		}
	})
}

func readByAll(t *testing.T, parsers []multiserver.PartParser, part multiserver.Part) {
	t.Helper()
	for _, p := range parsers {
		for _, mode := range []multiserver.Mode{multiserver.Strict, multiserver.Loose} {
			canonical, err := p.ParsePart(part, mode)
			if err != nil {
				continue
			}
			again, err := p.ParsePart(canonical, mode)
			if err != nil || !reflect.DeepEqual(again, canonical) {
				t.Errorf("%s reads %q as %q, and that as %q (%v)", p.Name(), part, canonical, again, err)
			}
			if mode == multiserver.Strict {
				if _, err := p.ParsePart(canonical, multiserver.Loose); err != nil {
					t.Errorf("%s takes %q for people but not from peers: %v", p.Name(), part, err)
				}
			}
		}
	}
}
