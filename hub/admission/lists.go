package admission

import (
	"net/netip"
	"slices"
	"time"

	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/secrez"
)

// A verdict is what the rules say about somebody.
type verdict int8

const (
	silent verdict = iota
	allowed
	denied
)

// Where a rule comes from.
const (
	fromBucket = iota
	fromConfig
	sources
)

// An opinion is what one source says about a subject.
type opinion struct {
	verdict verdict
	expires int64 // seconds since 1970; zero: never
}

// An entry is what all sources say about a subject.
type entry [sources]opinion

// verdict is what holds at a time: a denial, if there is one. The clock is only read for rules that expire.
func (e entry) verdict(now func() time.Time) verdict {
	result := silent
	for _, o := range e {
		if o.verdict > result && (o.expires == 0 || now().Unix() < o.expires) {
			result = o.verdict
		}
	}
	return result
}

// Lists holds the rules for questions. It has no lock of its own.
type lists struct {
	keys     map[[keys.PublicKeySize]byte]entry
	ids      map[secrez.ID]entry
	networks map[netip.Prefix]entry
	lengths  [2]lengths // of IPv4, IPv6
}

// lengths are the prefix lengths of a family for which there are networks.
type lengths struct {
	count   [129]int
	present []int // longest first
}

func newLists() lists {
	return lists{
		keys:     map[[keys.PublicKeySize]byte]entry{},
		ids:      map[secrez.ID]entry{},
		networks: map[netip.Prefix]entry{},
	}
}

// set puts in what a source says about a subject; the zero opinion takes it out.
func (l *lists) set(source int, s Subject, o opinion) {
	switch {
	case s.network.IsValid():
		before := len(l.networks)
		update(l.networks, s.network, source, o)
		l.family(s.network.Addr()).add(s.network.Bits(), len(l.networks)-before)
	case !s.id.IsZero():
		update(l.ids, s.id, source, o)
	default:
		update(l.keys, s.key, source, o)
	}
}

func update[K comparable](m map[K]entry, key K, source int, o opinion) {
	e := m[key]
	e[source] = o
	if e == (entry{}) {
		delete(m, key)
		return
	}
	m[key] = e
}

func (l *lists) family(addr netip.Addr) *lengths {
	if addr.Is4() {
		return &l.lengths[0]
	}
	return &l.lengths[1]
}

func (l *lengths) add(bits, n int) {
	had := l.count[bits] > 0
	l.count[bits] += n
	has := l.count[bits] > 0
	if had == has {
		return
	}
	l.present = l.present[:0]
	for bits, n := range slices.Backward(l.count[:]) {
		if n > 0 {
			l.present = append(l.present, bits)
		}
	}
}

// network is what the rules say about a plain address: the most specific network with something to say decides.
func (l *lists) network(addr netip.Addr, now func() time.Time) verdict {
	if !addr.IsValid() {
		return silent
	}
	for _, bits := range l.family(addr).present {
		network, err := addr.Prefix(bits)
		if err != nil {
			continue
		}
		if e, ok := l.networks[network]; ok {
			if v := e.verdict(now); v != silent {
				return v
			}
		}
	}
	return silent
}

// courier is what the rules say about a key and its ids, of which there may be none.
func (l *lists) courier(key [keys.PublicKeySize]byte, ids [2]secrez.ID, now func() time.Time) verdict {
	result := silent
	if len(l.keys) > 0 {
		result = l.keys[key].verdict(now)
	}
	if len(l.ids) > 0 {
		for _, id := range ids {
			result = max(result, l.ids[id].verdict(now))
		}
	}
	return result
}
