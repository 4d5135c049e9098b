package card_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/secretstack/secretstack/courier/card"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/secrez"
)

func identity(t testing.TB, b byte) *keys.Identity {
	t.Helper()
	id, err := keys.FromSeed(bytes.Repeat([]byte{b}, keys.SeedSize))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func example(t testing.TB) (card.Card, *keys.Identity) {
	t.Helper()
	id := identity(t, 1)
	courierID, err := secrez.ParseID("7y-6ro-3z")
	if err != nil {
		t.Fatal(err)
	}
	return card.Card{
		Key: id.Public(), Name: "Alice Müller", ID: courierID, Time: time.UnixMilli(1795311465269),
		Places: []card.Place{
			{Kind: card.Hub, Address: "net:hub.example.org:8433~shs:" + identity(t, 2).Public().Base64()},
			{Kind: card.Peer, Address: "net:192.0.2.7:8008~shs:" + id.Public().Base64()},
			{Kind: card.URL, Address: "https://7y-6ro-3z.hub.example.org"},
		},
	}, id
}

func sign(t testing.TB, c card.Card, id *keys.Identity) []byte {
	t.Helper()
	b, err := c.Sign(id)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestACardTravelsAsALinkOfEitherForm(t *testing.T) {
	c, id := example(t)
	signed := sign(t, c, id)
	for _, link := range []string{
		card.Link(signed), " " + card.Link(signed) + "\n",
		card.WebLink("https://hub.example.org", c.ID, signed), card.WebLink("http://hub:8433/", c.ID, signed),
	} {
		got, err := card.Parse(link)
		if err != nil {
			t.Fatalf("%s: %v", link, err)
		}
		if !got.Key.Equal(c.Key) {
			t.Errorf("key is %v", got.Key)
		}
		got.Key = c.Key
		if !reflect.DeepEqual(got, c) {
			t.Errorf("%s gives %+v", link, got)
		}
	}
	if link := card.WebLink("https://hub.example.org", c.ID, signed); !strings.HasPrefix(link, "https://hub.example.org/s/7y-6ro-3z#") {
		t.Errorf("link is %s", link)
	}
}

// whole is the example's card as it was written when the owner's addresses still had his key.
const whole = "secretstack:AYqI4910CfGV_VLbLTy6XXLKZwm_HZQSG_N0iAG0D29cAAABogDm8zUJN3ktNnJvLTN6DUFsaWNlIE3DvGxsZXIDAQBJbmV0Omh1Yi5leGFtcGxlLm9yZzo4NDMzfnNoczpnVGwzRHFoOUYxOVdvMVJtdzB4K3pNdU5pcEcwN2plaVhmWVBXNC9KczVRPQIAQ25ldDoxOTIuMC4yLjc6ODAwOH5zaHM6aW9qajNYUUo4Wlg5VXRzdFBMcGRjc3BuQ2I4ZGxCSWI4M1NJQWJRUGIxdz0DACFodHRwczovLzd5LTZyby0zei5odWIuZXhhbXBsZS5vcmfMhS4Ioc-Sp9U1uJ2v1tnBexO4UJmQaZ7Z9Eh4ied-hWuMDD8s4aAQ2oXcwXjU3vXFhfByoIHX5j-ndeNacKED"

func TestTheOwnersKeyStandsOnACardOnce(t *testing.T) {
	c, id := example(t)
	signed := sign(t, c, id)
	if n := bytes.Count(signed, []byte(id.Public().Base64())); n != 0 {
		t.Errorf("it is there %d times more", n)
	}
	before, err := card.Parse(whole)
	if err != nil || !reflect.DeepEqual(before.Places, c.Places) || len(card.Link(signed)) > len(whole)-60 {
		t.Errorf("%+v, %v; the link has %d characters and had %d", before, err, len(card.Link(signed)), len(whole))
	}
	for _, address := range []string{"~shs:" + id.Public().Base64(), "net:h:1~x~shs:" + id.Public().Base64(), "net:h:1~noauth"} {
		c.Places = []card.Place{{Kind: card.Peer, Address: address}}
		if got, err := card.Decode(sign(t, c, id)); err != nil || got.Places[0].Address != address {
			t.Errorf("%q becomes %+v, %v", address, got.Places, err)
		}
	}
}

func TestACardNeedsNothingButAKey(t *testing.T) {
	id := identity(t, 1)
	got, err := card.Decode(sign(t, card.Card{Key: id.Public(), Time: time.UnixMilli(0)}, id))
	if err != nil || !got.Key.Equal(id.Public()) || got.Name != "" || !got.ID.IsZero() || len(got.Places) != 0 {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestEveryAlteredBitOfACardIsFound(t *testing.T) {
	c, id := example(t)
	signed := sign(t, c, id)
	for i := range signed {
		for bit := range 8 {
			bad := bytes.Clone(signed)
			bad[i] ^= 1 << bit
			if _, err := card.Decode(bad); !errors.Is(err, card.ErrSignature) && !errors.Is(err, card.ErrMalformed) {
				t.Fatalf("bit %d of byte %d: %v", bit, i, err)
			}
		}
	}
	for n := range signed {
		if _, err := card.Decode(signed[:n]); err == nil {
			t.Errorf("%d bytes pass for a card", n)
		}
	}
	if _, err := card.Decode(append(signed, 0)); err == nil {
		t.Error("a byte more passes")
	}
}

func TestWhatNoCardMaySay(t *testing.T) {
	for name, change := range map[string]func(*card.Card){
		"another's key":         func(c *card.Card) { c.Key = identity(t, 9).Public() },
		"a name with escapes":   func(c *card.Card) { c.Name = "\x1b[2Jx" },
		"a name of two lines":   func(c *card.Card) { c.Name = "a\nb" },
		"a long name":           func(c *card.Card) { c.Name = strings.Repeat("x", card.MaxName+1) },
		"a name in no UTF-8":    func(c *card.Card) { c.Name = "\xff" },
		"an unknown place":      func(c *card.Card) { c.Places[0].Kind = 4 },
		"an empty address":      func(c *card.Card) { c.Places[0].Address = "" },
		"an address with space": func(c *card.Card) { c.Places[0].Address = "net:a b" },
		"a long address":        func(c *card.Card) { c.Places[0].Address = strings.Repeat("x", card.MaxAddress+1) },
		"too many places":       func(c *card.Card) { c.Places = make([]card.Place, card.MaxPlaces+1) },
		"too much": func(c *card.Card) {
			c.Places = nil
			for range card.MaxPlaces {
				c.Places = append(c.Places, card.Place{Kind: card.Hub, Address: strings.Repeat("x", card.MaxAddress)})
			}
		},
	} {
		c, id := example(t)
		change(&c)
		if _, err := c.Sign(id); !errors.Is(err, card.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestWhatIsNoCard(t *testing.T) {
	c, id := example(t)
	link := card.Link(sign(t, c, id))
	text := strings.TrimPrefix(link, card.Scheme)
	for name, bad := range map[string]string{
		"nothing":              "",
		"a bare text":          text,
		"a link cut short":     link[:len(link)-3],
		"a page without card":  "https://hub.example.org/s/7y-6ro-3z",
		"another page":         "https://hub.example.org/x#" + text,
		"another scheme":       "ftp://hub.example.org/s/7y-6ro-3z#" + text,
		"padding":              link + "=",
		"a line break inside":  link[:40] + "\n" + link[40:],
		"the other alphabet":   card.Scheme + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{0xff}, 120)),
		"more than a card has": card.Scheme + strings.Repeat("A", 4*card.MaxSize),
	} {
		if _, err := card.Parse(bad); !errors.Is(err, card.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The limit of a card is that of the codes, 2953 bytes in byte mode.
func TestTheLongestCardFitsAQRCode(t *testing.T) {
	if n := len(card.Link(make([]byte, card.MaxSize))); n > 2953 {
		t.Errorf("%d bytes", n)
	}
}

func FuzzParse(f *testing.F) {
	c, id := example(f)
	signed := sign(f, c, id)
	f.Add(card.Link(signed))
	f.Add(card.WebLink("https://hub.example.org", c.ID, signed))
	f.Add("secretstack:AQ")
	f.Fuzz(func(t *testing.T, link string) {
		got, b, err := card.ParseSigned(link)
		if err != nil {
			return
		}
		if again, err := card.Parse(card.Link(b)); err != nil || !again.Key.Equal(got.Key) || again.Name != got.Name {
			t.Errorf("%q: %+v, then %+v, %v", link, got, again, err)
		}
	})
}
