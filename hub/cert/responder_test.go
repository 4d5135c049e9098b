package cert

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

const ownZone = "_acme-challenge.hub.example.org."

func newTestResponder(t *testing.T) *Responder {
	t.Helper()
	r, err := NewResponder(ResponderOptions{Domain: "hub.example.org"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// ask packs a question. change may do anything to it.
func ask(t testing.TB, name string, kind dnsmessage.Type, change func(*dnsmessage.Message)) []byte {
	t.Helper()
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 4711, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: kind, Class: dnsmessage.ClassINET}},
	}
	if change != nil {
		change(&m)
	}
	packed, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return packed
}

func unpack(t *testing.T, response []byte) (m dnsmessage.Message) {
	t.Helper()
	if err := m.Unpack(response); err != nil {
		t.Fatalf("%x: %v", response, err)
	}
	return m
}

// edns says that we speak EDNS.
func edns(size int, version uint32) func(*dnsmessage.Message) {
	return func(m *dnsmessage.Message) {
		h := dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName("."), Type: dnsmessage.TypeOPT,
			Class: dnsmessage.Class(size), TTL: version << 16}
		m.Additionals = append(m.Additionals, dnsmessage.Resource{Header: h, Body: &dnsmessage.OPTResource{}})
	}
}

func texts(m dnsmessage.Message) (all []string) {
	for _, a := range m.Answers {
		if txt, ok := a.Body.(*dnsmessage.TXTResource); ok {
			all = append(all, txt.TXT...)
		}
	}
	return all
}

func TestOnlyTheZoneOfProofsIsAnsweredFor(t *testing.T) {
	r := newTestResponder(t)
	r.zone.add("one")
	r.zone.add("two")
	r.zone.add("two")
	r.zone.remove("two")
	r.zone.remove("three")
	for _, c := range []struct {
		name    string
		kind    dnsmessage.Type
		code    dnsmessage.RCode
		answers int
	}{
		{ownZone, dnsmessage.TypeTXT, dnsmessage.RCodeSuccess, 2},
		{"_aCmE-cHaLLenge.HUB.example.ORG.", dnsmessage.TypeTXT, dnsmessage.RCodeSuccess, 2},
		{ownZone, dnsmessage.TypeSOA, dnsmessage.RCodeSuccess, 1},
		{ownZone, dnsmessage.TypeNS, dnsmessage.RCodeSuccess, 1},
		{ownZone, typeANY, dnsmessage.RCodeSuccess, 1},
		{ownZone, dnsmessage.TypeA, dnsmessage.RCodeSuccess, 0},
		{ownZone, dnsmessage.TypeAAAA, dnsmessage.RCodeSuccess, 0},
		{ownZone, dnsmessage.Type(257), dnsmessage.RCodeSuccess, 0}, // CAA
		{"x." + ownZone, dnsmessage.TypeTXT, dnsmessage.RCodeNameError, 0},
		{"x" + ownZone, dnsmessage.TypeTXT, dnsmessage.RCodeRefused, 0},
		{"hub.example.org.", dnsmessage.TypeA, dnsmessage.RCodeRefused, 0},
		{"example.com.", dnsmessage.TypeA, dnsmessage.RCodeRefused, 0},
		{".", dnsmessage.TypeNS, dnsmessage.RCodeRefused, 0},
		{ownZone, typeAXFR, dnsmessage.RCodeRefused, 0},
		{ownZone, typeIXFR, dnsmessage.RCodeRefused, 0},
	} {
		m := unpack(t, r.zone.packetAnswer(ask(t, c.name, c.kind, nil)))
		ours := c.code == dnsmessage.RCodeSuccess || c.code == dnsmessage.RCodeNameError
		if m.ID != 4711 || !m.Response || !m.RecursionDesired || m.RecursionAvailable || m.Authoritative != ours ||
			m.RCode != c.code || len(m.Answers) != c.answers || len(m.Additionals) != 0 {
			t.Errorf("%s %v: %v", c.name, c.kind, &m)
		}
		if len(m.Questions) != 1 || m.Questions[0].Name.String() != c.name {
			t.Errorf("%s: the question comes back as %v", c.name, m.Questions)
		}
		if soa := len(m.Authorities) == 1 && m.Authorities[0].Header.Type == dnsmessage.TypeSOA; soa != (ours && c.answers == 0) {
			t.Errorf("%s %v: authority %v", c.name, c.kind, m.Authorities)
		}
	}
	m := unpack(t, r.zone.answer(ask(t, ownZone, dnsmessage.TypeTXT, nil)))
	if got := texts(m); !slices.Equal(got, []string{"one", "two"}) {
		t.Error(got)
	}
	m = unpack(t, r.zone.answer(ask(t, ownZone, dnsmessage.TypeNS, nil)))
	if ns := m.Answers[0].Body.(*dnsmessage.NSResource).NS.String(); ns != "hub.example.org." {
		t.Error(ns)
	}
}

func TestQuestionsThatAreNoneGetNoAnswerOrThatTheyAreNone(t *testing.T) {
	r := newTestResponder(t)
	good := ask(t, ownZone, dnsmessage.TypeTXT, nil)
	for name, message := range map[string][]byte{
		"nothing":   {},
		"a header":  good[:11],
		"an answer": ask(t, ownZone, dnsmessage.TypeTXT, func(m *dnsmessage.Message) { m.Response = true }),
		"noise":     bytes.Repeat([]byte{0xff}, 64),
	} {
		for _, answer := range []func([]byte) []byte{r.zone.answer, r.zone.packetAnswer, r.zone.shortAnswer} {
			if got := answer(message); got != nil {
				t.Errorf("%s: %x", name, got)
			}
		}
	}
	two := func(m *dnsmessage.Message) { m.Questions = append(m.Questions, m.Questions[0]) }
	for name, c := range map[string]struct {
		message []byte
		code    dnsmessage.RCode
	}{
		"cut off":       {good[:len(good)-3], dnsmessage.RCodeFormatError},
		"no question":   {ask(t, ownZone, dnsmessage.TypeTXT, func(m *dnsmessage.Message) { m.Questions = nil }), dnsmessage.RCodeFormatError},
		"two questions": {ask(t, ownZone, dnsmessage.TypeTXT, two), dnsmessage.RCodeFormatError},
		"an update":     {ask(t, ownZone, dnsmessage.TypeTXT, func(m *dnsmessage.Message) { m.OpCode = 5 }), dnsmessage.RCodeNotImplemented},
		"another class": {ask(t, ownZone, dnsmessage.TypeTXT, func(m *dnsmessage.Message) { m.Questions[0].Class = dnsmessage.ClassCHAOS }),
			dnsmessage.RCodeRefused},
		"EDNS twice": {ask(t, ownZone, dnsmessage.TypeTXT, func(m *dnsmessage.Message) { edns(512, 0)(m); edns(512, 0)(m) }),
			dnsmessage.RCodeFormatError},
	} {
		m := unpack(t, r.zone.answer(c.message))
		if m.RCode != c.code || m.Authoritative || len(m.Answers)+len(m.Authorities) != 0 {
			t.Errorf("%s: %v", name, &m)
		}
	}
}

func TestEDNSIsSpokenWithWhoSpeaksIt(t *testing.T) {
	r := newTestResponder(t)
	m := unpack(t, r.zone.packetAnswer(ask(t, ownZone, dnsmessage.TypeTXT, edns(4096, 0))))
	if len(m.Additionals) != 1 || m.Additionals[0].Header.Type != dnsmessage.TypeOPT || m.Additionals[0].Header.Class != extendedUDP {
		t.Errorf("%v", &m)
	}
	m = unpack(t, r.zone.packetAnswer(ask(t, ownZone, dnsmessage.TypeTXT, edns(4096, 1))))
	if len(m.Additionals) != 1 || m.Additionals[0].Header.TTL>>24 != 1 || m.RCode != 0 || len(m.Authorities) != 0 {
		t.Errorf("another version: %v", &m)
	}
}

func TestAnswersFitIntoAPacketOrSayThatTheyDoNot(t *testing.T) {
	r := newTestResponder(t)
	proof := strings.Repeat("x", 43)
	for range 12 {
		r.zone.add(proof)
	}
	for _, c := range []struct {
		change func(*dnsmessage.Message)
		limit  int
		whole  bool
	}{
		{nil, 512, false}, {edns(0, 0), 512, false}, {edns(512, 0), 512, false}, {edns(1000, 0), 1000, true}, {edns(65535, 0), 1232, true},
	} {
		response := r.zone.packetAnswer(ask(t, ownZone, dnsmessage.TypeTXT, c.change))
		m := unpack(t, response)
		if len(response) > c.limit || m.Truncated == c.whole || len(m.Answers) != 0 != c.whole {
			t.Errorf("%d bytes, %v", len(response), &m)
		}
	}
	for range 13 {
		r.zone.add(proof)
	}
	question := ask(t, ownZone, dnsmessage.TypeTXT, edns(65535, 0))
	if m := unpack(t, r.zone.packetAnswer(question)); !m.Truncated {
		t.Errorf("%v", &m)
	}
	if m := unpack(t, r.zone.answer(question)); m.Truncated || len(m.Answers) != 25 {
		t.Errorf("over TCP: %v", &m)
	}
	short := r.zone.shortAnswer(question)
	if m := unpack(t, short); !m.Truncated || len(short) > len(question) {
		t.Errorf("%d bytes for %d", len(short), len(question))
	}
}

// Whoever makes us answer to somebody else's address gains nothing.
func TestAnswersOverUDPAreNotWorthAForgedAddress(t *testing.T) {
	r := newTestResponder(t)
	r.zone.add(strings.Repeat("x", 43))
	question := ask(t, ownZone, dnsmessage.TypeTXT, edns(4096, 0))
	now, asked, answered := time.Now(), 0, 0
	for range 20000 {
		asked += len(question)
		from := netip.AddrFrom4([4]byte{192, 0, 2, byte(asked)}) // all of one network
		switch r.often.verdict(from, now) {
		case reply:
			answered += len(r.zone.packetAnswer(question))
		case shorten:
			answered += len(r.zone.shortAnswer(question))
		}
		now = now.Add(time.Millisecond)
	}
	if answered > asked*3/4 {
		t.Errorf("%d bytes were asked, and %d answered", asked, answered)
	}
	if r.often.verdict(netip.MustParseAddr("2001:db8::1"), now) != reply {
		t.Error("another network is not answered")
	}
	if r.often.verdict(netip.MustParseAddr("192.0.2.1"), now.Add(time.Minute)) != reply {
		t.Error("it is not answered later either")
	}
	if r.often.verdict(netip.Addr{}, now) != reply {
		t.Error("no address at all")
	}
}

func TestResolversGetTheirAnswersOverUDPAndTCP(t *testing.T) {
	r := newTestResponder(t)
	if err := r.Listen(t.Context(), "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		r.zone.add(fmt.Sprint("proof ", i))
	}
	for _, network := range []string{"udp", "tcp"} {
		resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, r.Addr().String())
		}}
		got, err := resolver.LookupTXT(t.Context(), ownZone)
		if err != nil || len(got) != 3 || got[2] != "proof 2" {
			t.Errorf("%s: %q %v", network, got, err)
		}
	}
}

func TestSeveralQuestionsFitOnOneConnectionAndGarbageEndsIt(t *testing.T) {
	r := newTestResponder(t)
	if err := r.Listen(t.Context(), "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	question := ask(t, ownZone, dnsmessage.TypeSOA, nil)
	framed := append(binary.BigEndian.AppendUint16(nil, uint16(len(question))), question...)
	for name, garbage := range map[string][]byte{
		"too long": {0xff, 0xff}, "no message": {0, 3, 1, 2, 3}, "an answer": append([]byte{0, 12}, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0),
	} {
		c, err := net.Dial("tcp", r.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(slices.Concat(framed, framed, garbage)); err != nil {
			t.Fatal(err)
		}
		all, _ := io.ReadAll(c) // a reset tells the end as well
		answers := 0
		for len(all) >= 2 {
			n := int(binary.BigEndian.Uint16(all))
			unpack(t, all[2:2+n])
			all, answers = all[2+n:], answers+1
		}
		if answers > 2 {
			t.Errorf("%s: %d answers", name, answers)
		}
		_ = c.Close()
	}
}

func TestTheOldestConnectionMakesRoom(t *testing.T) {
	r := newTestResponder(t)
	if err := r.Listen(t.Context(), "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	var conns []net.Conn
	for range maxAsking + 1 {
		c, err := net.Dial("tcp", r.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		conns = append(conns, c)
	}
	if _, err := conns[0].Read(make([]byte, 1)); err == nil {
		t.Error("the oldest got an answer")
	}
	question := ask(t, ownZone, dnsmessage.TypeSOA, nil)
	last := conns[maxAsking]
	if _, err := last.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(question))), question...)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(last, make([]byte, 2)); err != nil {
		t.Error(err)
	}
}

func TestAResponderThatIsClosedAnswersNobody(t *testing.T) {
	r := newTestResponder(t)
	if r.Addr() != nil {
		t.Error("it has an address before it listens")
	}
	if err := r.Listen(t.Context(), "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", r.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := errors.Join(r.Close(), r.Close()); err != nil {
		t.Error(err)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("answered")
	}
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.Serve(udp, nil)
	if err := udp.Close(); !errors.Is(err, net.ErrClosed) {
		t.Error("a socket was taken after the end")
	}
}

func TestAPortThatIsTakenIsAnError(t *testing.T) {
	taken, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	if err := newTestResponder(t).Listen(t.Context(), taken.LocalAddr().String()); err == nil {
		t.Error("listening")
	}
	for _, domain := range []string{"", "localhost", strings.Repeat("a.", 120) + "org"} {
		if _, err := NewResponder(ResponderOptions{Domain: domain}); err == nil {
			t.Errorf("%q was taken for a domain", domain)
		}
	}
}

// FuzzAnswer looks for messages that lead to a panic, or to an answer that is none or is too large.
func FuzzAnswer(f *testing.F) {
	f.Add(ask(f, ownZone, dnsmessage.TypeTXT, nil))
	f.Add(ask(f, "x."+ownZone, typeANY, edns(4096, 0)))
	f.Add(ask(f, ".", dnsmessage.TypeNS, edns(0, 1)))
	z, err := newZone("hub.example.org", "hub.example.org")
	if err != nil {
		f.Fatal(err)
	}
	for range 20 {
		z.add(strings.Repeat("x", 43))
	}
	f.Fuzz(func(t *testing.T, message []byte) {
		whole, packet, short := z.answer(message), z.packetAnswer(message), z.shortAnswer(message)
		if (whole == nil) != (packet == nil) || (whole == nil) != (short == nil) {
			t.Error("an answer one way and none the other")
		}
		if len(packet) > extendedUDP || len(short) > len(message)+11 {
			t.Errorf("%d bytes over UDP, %d to say that it is too much, for %d", len(packet), len(short), len(message))
		}
		for _, response := range [][]byte{whole, packet, short} {
			if response == nil {
				continue
			}
			var m dnsmessage.Message
			if err := m.Unpack(response); err != nil {
				t.Errorf("%x: %v", response, err)
			}
			if !m.Response || !bytes.Equal(response[:2], message[:2]) {
				t.Errorf("%x is no answer", response)
			}
		}
	})
}
