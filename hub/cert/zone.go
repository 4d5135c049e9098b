package cert

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	plainUDP    = 512  // bytes of an answer over UDP to who does not say that it takes more (RFC 1035)
	extendedUDP = 1232 // and to who does, at most: this fits into one packet everywhere

	proofTTL = 1 // seconds that answers may be kept: proofs come and go
)

// Codes that dnsmessage has no names for.
const (
	typeANY    = dnsmessage.Type(255)
	typeAXFR   = dnsmessage.TypeAXFR
	typeIXFR   = dnsmessage.Type(251)
	badVersion = dnsmessage.RCode(16) // RFC 6891
)

// zone holds what is said about _acme-challenge.<domain>.
type zone struct {
	name, server, mailbox dnsmessage.Name
	proofs                *proofs
}

// proofs are the texts of challenges that wait for an authority.
type proofs struct {
	mu     sync.Mutex
	texts  []string // guarded by mu
	serial uint32   // guarded by mu: grows with each change
}

func newZone(domain, server string) (z zone, err error) {
	if len("_acme-challenge."+domain) > 253 {
		return zone{}, fmt.Errorf("cert: %q is too long for DNS", domain)
	}
	var errs [3]error
	z.name, errs[0] = dnsmessage.NewName("_acme-challenge." + domain + ".")
	z.server, errs[1] = dnsmessage.NewName(server + ".")
	z.mailbox, errs[2] = dnsmessage.NewName("hostmaster." + domain + ".")
	if err := errors.Join(errs[:]...); err != nil {
		return zone{}, fmt.Errorf("cert: %w", err)
	}
	z.proofs = &proofs{serial: 1}
	return z, nil
}

func (z zone) add(text string) {
	z.proofs.mu.Lock()
	defer z.proofs.mu.Unlock()
	z.proofs.texts = append(z.proofs.texts, text)
	z.proofs.serial++
}

func (z zone) remove(text string) {
	z.proofs.mu.Lock()
	defer z.proofs.mu.Unlock()
	if i := slices.Index(z.proofs.texts, text); i >= 0 {
		z.proofs.texts = slices.Delete(z.proofs.texts, i, i+1)
		z.proofs.serial++
	}
}

// read returns the texts and the serial number.
func (z zone) read() ([]string, uint32) {
	z.proofs.mu.Lock()
	defer z.proofs.mu.Unlock()
	return slices.Clone(z.proofs.texts), z.proofs.serial
}

// query is what we understand of a question.
type query struct {
	header   dnsmessage.Header
	question *dnsmessage.Question // nil: there is none that could be repeated
	extended bool                 // it speaks EDNS (RFC 6891),
	version  byte                 // in this version,
	size     int                  // and takes as many bytes over UDP
	code     dnsmessage.RCode     // what is wrong with it
}

// answer returns the answer to a message, nil when there should be none.
func (z zone) answer(message []byte) []byte {
	q, ok := parseQuery(message)
	if !ok {
		return nil
	}
	return z.respond(q, false)
}

// packetAnswer returns an answer that is fit for UDP.
func (z zone) packetAnswer(message []byte) []byte {
	q, ok := parseQuery(message)
	if !ok {
		return nil
	}
	limit := plainUDP
	if q.extended {
		limit = min(max(q.size, plainUDP), extendedUDP)
	}
	if response := z.respond(q, false); len(response) <= limit {
		return response
	}
	return z.respond(q, true)
}

// shortAnswer returns an answer without content, which makes the other side ask over TCP.
func (z zone) shortAnswer(message []byte) []byte {
	q, ok := parseQuery(message)
	if !ok {
		return nil
	}
	return z.respond(q, true)
}

// parseQuery reads a message. ok is false when it deserves no answer, because it is none, or is an answer itself.
func parseQuery(message []byte) (q query, ok bool) {
	var p dnsmessage.Parser
	header, err := p.Start(message)
	if err != nil || header.Response {
		return query{}, false
	}
	q = query{header: header}
	if header.OpCode != 0 {
		q.code = dnsmessage.RCodeNotImplemented
		return q, true
	}
	if err := q.parse(&p); err != nil {
		q.code = dnsmessage.RCodeFormatError
	}
	return q, true
}

func (q *query) parse(p *dnsmessage.Parser) error {
	question, err := p.Question()
	if err != nil {
		return err
	}
	q.question = &question
	if _, err := p.Question(); !errors.Is(err, dnsmessage.ErrSectionDone) {
		return errors.New("not one question")
	}
	if err := errors.Join(p.SkipAllAnswers(), p.SkipAllAuthorities()); err != nil {
		return err
	}
	for {
		header, err := p.AdditionalHeader()
		if errors.Is(err, dnsmessage.ErrSectionDone) {
			return nil
		}
		if err != nil {
			return err
		}
		if header.Type == dnsmessage.TypeOPT {
			if q.extended {
				return errors.New("EDNS twice")
			}
			q.extended, q.version, q.size = true, byte(header.TTL>>16), int(header.Class)
		}
		if err := p.SkipAdditional(); err != nil {
			return err
		}
	}
}

// respond makes an answer, or one that says no more than that it was cut off.
func (z zone) respond(q query, cut bool) []byte {
	var records []dnsmessage.Resource
	code, answers := q.code, 0
	if code == dnsmessage.RCodeSuccess && q.extended && q.version > 0 {
		code = badVersion
	}
	if code == dnsmessage.RCodeSuccess {
		records, answers, code = z.lookUp(*q.question)
	}
	ours := code == dnsmessage.RCodeSuccess || code == dnsmessage.RCodeNameError
	header := dnsmessage.Header{
		ID: q.header.ID, Response: true, OpCode: q.header.OpCode, RecursionDesired: q.header.RecursionDesired,
		Authoritative: ours, RCode: code & 0xf, Truncated: cut && ours,
	}
	if cut {
		records, answers = nil, 0
	}
	m := dnsmessage.Message{Header: header, Answers: records[:answers], Authorities: records[answers:]}
	if q.question != nil {
		m.Questions = []dnsmessage.Question{*q.question}
	}
	if q.extended {
		var h dnsmessage.ResourceHeader
		if h.SetEDNS0(extendedUDP, code, false) == nil {
			m.Additionals = []dnsmessage.Resource{{Header: h, Body: &dnsmessage.OPTResource{}}}
		}
	}
	packed, err := m.Pack()
	if err != nil { // no message that we could read leads here
		return nil
	}
	return packed
}

// lookUp answers a question: the first of the records are the answers, the rest belongs to the authorities.
func (z zone) lookUp(q dnsmessage.Question) (records []dnsmessage.Resource, answers int, code dnsmessage.RCode) {
	name, own := strings.ToLower(q.Name.String()), strings.ToLower(z.name.String())
	texts, serial := z.read()
	authority := []dnsmessage.Resource{z.soa(serial)}
	switch {
	case q.Class != dnsmessage.ClassINET || q.Type == typeAXFR || q.Type == typeIXFR:
		return nil, 0, dnsmessage.RCodeRefused
	case strings.HasSuffix(name, "."+own):
		return authority, 0, dnsmessage.RCodeNameError
	case name != own:
		return nil, 0, dnsmessage.RCodeRefused
	}
	// Resolvers write names in mixed case and want to see them again.
	h := dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: proofTTL}
	switch q.Type {
	case dnsmessage.TypeTXT:
		for _, text := range texts {
			records = append(records, dnsmessage.Resource{Header: h, Body: &dnsmessage.TXTResource{TXT: []string{text}}})
		}
	case dnsmessage.TypeNS:
		records = append(records, dnsmessage.Resource{Header: h, Body: &dnsmessage.NSResource{NS: z.server}})
	case dnsmessage.TypeSOA, typeANY: // one record is answer enough to ANY (RFC 8482)
		records = append(records, authority...)
	}
	if len(records) == 0 {
		return authority, 0, dnsmessage.RCodeSuccess
	}
	return records, len(records), dnsmessage.RCodeSuccess
}

func (z zone) soa(serial uint32) dnsmessage.Resource {
	return dnsmessage.Resource{
		Header: dnsmessage.ResourceHeader{Name: z.name, Class: dnsmessage.ClassINET, TTL: proofTTL},
		Body: &dnsmessage.SOAResource{
			NS: z.server, MBox: z.mailbox, Serial: serial, Refresh: 3600, Retry: 600, Expire: 86400, MinTTL: proofTTL,
		},
	}
}
