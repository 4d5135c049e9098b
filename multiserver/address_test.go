package multiserver_test

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/secretstack/secretstack/multiserver"
	msnet "github.com/secretstack/secretstack/multiserver/net"
	"github.com/secretstack/secretstack/multiserver/ws"
)

const (
	key  = "1b9KP8znF7A4i8wnSevBSK2ZabI/Re4bYF/Vh3hXasQ="
	seed = "GbJYVuHBUMqDTP/ItZsjrb0OwDieWOsis7ZHaAmNACs="
)

func TestStrictParserTakesSoundAddresses(t *testing.T) {
	for text, want := range map[string]string{
		"net:example.org:8008~shs:" + key:               "",
		"  net:example.org:8008~shs:" + key + "\n":      "net:example.org:8008~shs:" + key,
		"net:example.org:8008~shs:@" + key + ".ed25519": "net:example.org:8008~shs:" + key,
		"net:example.org:8008~shs:" + key + ":" + seed:  "",
		"net:::1:8008~shs:" + key:                       "",
		"net:[::1]:8008~shs:" + key:                     "net:::1:8008~shs:" + key,
		"net:fe80::1%eth0:8008~shs:" + key:              "",
		"net::8008~shs:" + key:                          "net:localhost:8008~shs:" + key,
		"net:h:1~shs:" + key + " ; ws://h~shs:" + key:   "net:h:1~shs:" + key + ";ws://h/~shs:" + key,
		"ws://h:80/a/b?c=d~shs:" + key:                  "ws://h/a/b?c=d~shs:" + key,
		"wss://[::1]:8989~shs:" + key:                   "wss://[::1]:8989/~shs:" + key,
		"onion:abc.onion:8008~shs:" + key:               "",
		"unix:/home/josé/a b/socket~noauth":             "",
		"unix:/tmp/a!~b!!c!;d/socket~noauth":            "",
		"unix:/tmp/a:b/socket~noauth:" + key:            "unix:/tmp/a:b/socket~noauth",
		"tunnel:@p.ed25519:@t.ed25519~shs:" + key:       "",
		"bluetooth:aa!:bb~shs:" + key:                   "",
		"net:h:1~shs:" + key + "~gzip":                  "",
	} {
		if want == "" {
			want = text
		}
		addrs, err := multiserver.Parse(text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		if got := multiserver.Join(addrs); got != want {
			t.Errorf("%q is %q, want %q", text, got, want)
		}
		again, err := multiserver.Parse(multiserver.Join(addrs))
		if err != nil || !reflect.DeepEqual(again, addrs) {
			t.Errorf("%q does not come back from its own text: %v %v", text, again, err)
		}
	}
}

func TestStrictParserNamesTheMistake(t *testing.T) {
	for text, want := range map[string]string{
		"":                         "the address is empty; one looks like net:HOST:PORT~shs:KEY",
		" ; ":                      "it is empty: there is a ';' too many",
		"net:h:1~shs:" + key + ";": "there is a ';' too many",
		"net:h:1":                  "it does not say how the peer proves its key: add ~shs: and the peer's key, as in net:h:1~shs:KEY",
		"net:h:1~":                 "a part is empty: there is a '~' too many",
		"~shs:" + key:              "a part is empty",
		"shs:" + key + "~net:h:1":  `"shs" is not a transport: a transport comes first`,
		"net:h:1~net:h:1":          `"net" is not a transform`,
		"NET:h:1~shs:" + key:       `part name "NET" must be in lower case: write "net"`,
		"h:1~shs:" + key:           `"h" does not begin with a part name`,
		"1a:h:1~shs:" + key:        `"1a" does not begin with a part name`,
		"net:h~shs:" + key:         "net needs a host and a port, as in net:example.org:8008",
		"net~shs:" + key:           "net needs a host and a port",
		"net:h:~shs:" + key:        `port "" is not a number from 1 to 65535`,
		"net:h:0~shs:" + key:       `port "0" is not a number from 1 to 65535`,
		"net:h:80x~shs:" + key:     `port "80x" is not a number`,
		"net:h:0x50~shs:" + key:    `port "0x50" is not a number`,
		"net:h:99999~shs:" + key:   `port "99999" is not a number from 1 to 65535`,
		"net:a:b:1~shs:" + key:     `host "a:b" is neither a name nor an IPv6 address`,
		"net:ho st:1~shs:" + key:   "there is a space in it",
		"net:hé:1~shs:" + key:      "write host names in their ASCII (punycode) form",
		"net:h/x:1~shs:" + key:     "holds a character that no host name has",
		"net:h!x:1~shs:" + key:     "'!' must be written '!!'",
		"net:h\xff:1~shs:" + key:   "not UTF-8",
		"net:h\x01:1~shs:" + key:   "cannot stand in an address",
		"net:" + strings.Repeat("h", 300) + ":1~shs:" + key: "no host name has more than 253",
		"net:h:1~shs":     "shs needs the peer's key",
		"net:h:1~shs:":    "shs needs the peer's key",
		"net:h:1~shs:KEY": "the key after shs: cannot be used",
		"net:h:1~shs:" + strings.TrimSuffix(key, "="):      `the "=" at the end of the base64 is missing`,
		"net:h:1~shs:" + strings.ReplaceAll(key, "/", "_"): "url-safe base64",
		"net:h:1~shs:" + key + ":short":                    "the seed after the key is not 32 bytes",
		"net:h:1~shs:" + key + ":" + seed + ":x":           "shs takes a key and at most a seed",
		"ws:h:1~shs:" + key:                                "ws needs an address as in ws://example.org:8989/path",
		"ws://:80~shs:" + key:                              "ws needs an address",
		"ws://h:x~shs:" + key:                              "ws needs an address",
		"ws://h:99999~shs:" + key:                          "is not a number from 1 to 65535",
		"ws://u:p@h~shs:" + key:                            "a name or password cannot stand in an address",
		"ws://h/#x~shs:" + key:                             "'#' cannot stand",
		"unix:~noauth":                                     "unix needs the path of a socket",
		"example.org:8008:@" + key + ".ed25519~" + seed:    "this is the old form; write net:example.org:8008~shs:" + key,
		strings.Repeat("x", 20000):                         "no address is longer than",
	} {
		_, err := multiserver.Parse(text)
		if err == nil {
			t.Errorf("%q was taken", text)
			continue
		}
		if !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "multiserver: ") {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
		if strings.ContainsAny(err.Error(), "\n\x01") || strings.Count(err.Error(), "multiserver:") != 1 || len(err.Error()) > 700 {
			t.Errorf("%q: not an error for people: %v", text, err)
		}
	}
}

func TestErrorsDoNotRepeatSecrets(t *testing.T) {
	secret := strings.Repeat("S", 88)
	for _, text := range []string{
		"net:h:x~shs:" + key + ":" + seed,
		"net:h:1~shs:" + secret,
		"net:h:1~shs:" + key + ":" + seed + ":x",
	} {
		_, err := multiserver.Parse(text)
		if err == nil || strings.Contains(err.Error(), seed) || strings.Contains(err.Error(), secret[:60]) {
			t.Errorf("%q: %v", text, err)
		}
	}
	a := loose(t, "net:h:1~shs:"+key+":"+seed)[0]
	if strings.Contains(a.Redacted(), seed) || !strings.Contains(a.String(), seed) {
		t.Errorf("%s and %s", a.Redacted(), a)
	}
}

func TestWaysThatNobodyKnowsArePassedOverWhereThereIsAnother(t *testing.T) {
	known := must(t, multiserver.Options{
		Transports: []multiserver.Transport{msnet.New(msnet.Options{})}, Transforms: []multiserver.Transform{shsFor(t, "alice")},
	}).Known()
	shs := "~shs:" + key
	for text, want := range map[string]string{
		"net:h:1" + shs: "net:h:1" + shs,
		"ws://h:1" + shs + ";net:h:1" + shs + ";foo:x" + shs: "net:h:1" + shs,
		"net:h:1" + shs + ";ws://h:1~other:x;net:i:2" + shs:  "net:h:1" + shs + ";net:i:2" + shs,
	} {
		got, err := known.ParseUsable(text)
		if err != nil || multiserver.Join(got) != want {
			t.Errorf("%q is %q, %v", text, multiserver.Join(got), err)
		}
	}
	for text, want := range map[string]string{
		"":                                    "empty",
		"ws://h:1" + shs + ";foo:x" + shs:     `nothing here knows the transport "ws"`,
		"ws://h:1" + shs + ";net:h:x" + shs:   "port",
		"ws://h:1" + shs + ";net:h:1~other:x": `nothing here knows the transform "other"`,
		"shs:x~net:h:1;net:h:1" + shs:         "a transport comes first",
		"net:h:1" + shs + ";;ws://h:1" + shs:  "a ';' too many",
	} {
		if got, err := known.ParseUsable(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
}

// The wart that unknown and over-long addresses end in a TypeError.
func TestWartUnknownPartsAndTooManyPartsAreErrors(t *testing.T) {
	s := must(t, multiserver.Options{
		Transports: []multiserver.Transport{msnet.New(msnet.Options{}), ws.New(ws.Options{})},
		Transforms: []multiserver.Transform{shsFor(t, "alice")},
	})
	for text, want := range map[string]string{
		"nte:h:1~shs:" + key:           `nothing here knows the transport "nte"; before the transform one of these can stand: net, ws`,
		"net:h:1~hss:" + key:           `nothing here knows the transform "hss"; after the transport one of these can stand: shs`,
		"net:h:1~shs:" + key + "~gzip": "it has 3 parts",
		"net:h:1~noauth":               `nothing here knows the transform "noauth"`,
		"shs:" + key + "~net:h:1":      `"shs" is not a transport`,
	} {
		if _, err := s.Parse(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
	if _, err := s.Parse("net:h:1~shs:" + key); err != nil {
		t.Error(err)
	}
	for _, text := range []string{"net:h:1~shs:" + key + "~gzip", "net:h:1", "net", "~~~", "net:h:1~shs", strings.Repeat("a~", 5000)} {
		if _, err := s.Dial(t.Context(), multiserver.ParseLoose(text)); err == nil {
			t.Errorf("%q could be dialled", text)
		}
	}
}

// The wart that ssb-browser-core met: the suffix twice.
func TestWartKeyWithDoubledSuffixIsRead(t *testing.T) {
	k, ok := loose(t, "net:h:1~shs:"+key+".ed25519.ed25519")[0].Key()
	if !ok || k.Base64() != key {
		t.Errorf("%s %v", k, ok)
	}
}

func TestLooseParserBoundsWhatItReads(t *testing.T) {
	if got := multiserver.ParseLoose(strings.Repeat("a;", 1<<20)); got != nil {
		t.Errorf("%d addresses out of 2 MiB", len(got))
	}
	if got := multiserver.ParseLoose(";;"); got != nil {
		t.Errorf("addresses out of nothing: %v", got)
	}
}

func TestAddressKeyComesFromTheShsPart(t *testing.T) {
	for text, want := range map[string]bool{
		"net:h:1~shs:" + key: true, "net:h:1": false, "net:h:1~noauth:" + key: false, "net:h:1~shs": false, "shs:" + key: false,
	} {
		if _, ok := loose(t, text)[0].Key(); ok != want {
			t.Errorf("%q: %v", text, ok)
		}
	}
	var none multiserver.Address
	if _, ok := none.Key(); ok || none.String() != "" || none.Transport().Name != "" || none.Transforms() != nil {
		t.Error("the nil address is something")
	}
}

func TestAddressIsTextInJSON(t *testing.T) {
	a := loose(t, "net:h:1~shs:"+key)[0]
	b, err := json.Marshal(a)
	if err != nil || string(b) != `"net:h:1~shs:`+key+`"` {
		t.Fatalf("%s %v", b, err)
	}
	var back multiserver.Address
	if err := json.Unmarshal(b, &back); err != nil || !reflect.DeepEqual(a, back) {
		t.Errorf("%v %v", back, err)
	}
	for _, bad := range []string{`"net:h:1"`, `"net:h:1~shs:` + key + `;net:h:2~shs:` + key + `"`} {
		if err := json.Unmarshal([]byte(bad), &back); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
}

func TestPortsOfPeersAreReadAsNumbersOfJavaScript(t *testing.T) {
	for text, want := range map[string]uint16{
		"80": 80, " 80\t": 80, "080": 80, "+80": 80, "8e1": 80, "80.0": 80, "0x50": 80, "0X50": 80, "0o120": 80, "0b1010000": 80,
		"0": 0, "": 0, "x": 0, "80x": 0, "0x": 0, "0x5_0": 0, "8_0": 0, "Infinity": 0, "NaN": 0, "0x1p4": 0, "--80": 0, "1e99": 0,
	} {
		_, port, _, err := multiserver.ParseHostPort("net", multiserver.Part{Name: "net", Data: []string{"h", text}}, multiserver.Loose)
		if port != want || (err == nil) != (want != 0) {
			t.Errorf("%q is %d (%v), want %d", text, port, err, want)
		}
	}
}
