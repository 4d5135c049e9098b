package admission

import (
	"cmp"
	"fmt"
	"net/netip"
	"time"
)

// Limits bounds what anybody may ask for. The zero value of each field means its default. Loopback addresses, and connections
// without an address, have no rates and no limit of their own.
type Limits struct {
	// Address holds the rates of each address (IPv6: of each /64). They leave room for many people behind one address.
	// Zero values mean:
	//
	//	Connection   50/s burst 1000
	//	Registration 5/s burst 200
	//	NewID        6/m burst 100
	//	Lookup       20/s burst 200
	//	Request      500/s burst 5000
	//	Circuit      20/s burst 500
	//	Deposit      20/s burst 500
	Address Rates

	// Key holds the rates of each proved key, on top of its address's. Request has no use here. Zero values mean:
	//
	//	Connection   1/s burst 60
	//	Registration 1/s burst 60
	//	NewID        1/h burst 10
	//	Lookup       10/s burst 200
	//	Request      none
	//	Circuit      10/s burst 200
	//	Deposit      5/s burst 200
	Key Rates

	// Connections is how many connections there may be in all. Zero: 65536. Less than zero: any number.
	Connections int

	// ConnectionsPerAddress is how many there may be from one address (IPv6: /64). Zero: 1024. Less than zero: any number.
	ConnectionsPerAddress int

	// Exempt lists networks that are treated as loopback is: no rates, no limit per address. Rules about networks still hold.
	// Proxies belong here that pass on requests of many visitors in connections of their own.
	Exempt []netip.Prefix
}

// Rates has a rate for each [Kind].
type Rates struct {
	Connection   Rate
	Registration Rate
	NewID        Rate
	Lookup       Rate
	Request      Rate
	Circuit      Rate
	Deposit      Rate
}

const (
	defaultConnections = 65536
	defaultPerAddress  = 1024
)

func defaultAddressRates() Rates {
	return Rates{
		Connection:   Rate{time.Second / 50, 1000},
		Registration: Rate{time.Second / 5, 200},
		NewID:        Rate{10 * time.Second, 100},
		Lookup:       Rate{time.Second / 20, 200},
		Request:      Rate{time.Second / 500, 5000},
		Circuit:      Rate{time.Second / 20, 500},
		Deposit:      Rate{time.Second / 20, 500},
	}
}

func defaultKeyRates() Rates {
	return Rates{
		Connection:   Rate{time.Second, 60},
		Registration: Rate{time.Second, 60},
		NewID:        Rate{time.Hour, 10},
		Lookup:       Rate{time.Second / 10, 200},
		Request:      Rate{Every: -1},
		Circuit:      Rate{time.Second / 10, 200},
		Deposit:      Rate{time.Second / 5, 200},
	}
}

// WithDefaults is the limits with what their zero values mean.
func (l Limits) WithDefaults() Limits {
	l.Address, l.Key = l.Address.or(defaultAddressRates()), l.Key.or(defaultKeyRates())
	l.Connections = cmp.Or(l.Connections, defaultConnections)
	l.ConnectionsPerAddress = cmp.Or(l.ConnectionsPerAddress, defaultPerAddress)
	return l
}

func (r Rates) or(fallback Rates) Rates {
	return Rates{
		Connection:   cmp.Or(r.Connection, fallback.Connection),
		Registration: cmp.Or(r.Registration, fallback.Registration),
		NewID:        cmp.Or(r.NewID, fallback.NewID),
		Lookup:       cmp.Or(r.Lookup, fallback.Lookup),
		Request:      cmp.Or(r.Request, fallback.Request),
		Circuit:      cmp.Or(r.Circuit, fallback.Circuit),
		Deposit:      cmp.Or(r.Deposit, fallback.Deposit),
	}
}

// Of gives the rate of a kind.
func (r Rates) Of(k Kind) Rate {
	if k < kinds {
		return r.byKind()[k]
	}
	return Rate{}
}

// byKind lists the rates in the order of the kinds.
func (r Rates) byKind() [kinds]Rate {
	return [kinds]Rate{r.Connection, r.Registration, r.NewID, r.Lookup, r.Request, r.Circuit, r.Deposit}
}

// buckets says what the rates come to, and checks them.
func (r Rates) buckets(fallback Rates) (all [kinds]bucket, err error) {
	fallbacks := fallback.byKind()
	for kind, rate := range r.byKind() {
		if err := rate.check(); err != nil {
			return all, fmt.Errorf("%w (the rate of %ss)", err, Kind(kind))
		}
		all[kind] = rate.bucket(fallbacks[kind])
	}
	return all, nil
}

// inForce is Limits as the questions need them. It never changes.
type inForce struct {
	address, key [kinds]bucket
	exempt       []netip.Prefix
}

func (l Limits) inForce() (*inForce, error) {
	address, err := l.Address.buckets(defaultAddressRates())
	if err != nil {
		return nil, err
	}
	key, err := l.Key.buckets(defaultKeyRates())
	if err != nil {
		return nil, err
	}
	f := &inForce{address: address, key: key}
	for _, network := range l.Exempt {
		if network, err = canonical(network); err != nil {
			return nil, err
		}
		f.exempt = append(f.exempt, network)
	}
	return f, nil
}

// free reports whether an address has no limits of its own. The address is a plain one.
func (f *inForce) free(addr netip.Addr) bool {
	if !addr.IsValid() || addr.IsLoopback() {
		return true
	}
	for _, network := range f.exempt {
		if network.Contains(addr) {
			return true
		}
	}
	return false
}

// bound is v, fallback for zero, and zero (none) for less.
func bound(v, fallback int) int {
	if v == 0 {
		return fallback
	}
	return max(v, 0)
}
