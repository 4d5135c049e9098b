package admin

import (
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/secretstack/secretstack/hub/vhost"
	"github.com/secretstack/secretstack/keys"
)

// Protocol is what a connection to the hub speaks.
type Protocol string

// The protocols of connections.
const (
	ProtocolHandshake Protocol = "handshake" // the secret handshake, on a socket or inside TLS
	ProtocolWebSocket Protocol = "websocket" // the secret handshake inside a WebSocket
	ProtocolHTTP      Protocol = "http"      // visitors of couriers, and the hub's own pages and API
	ProtocolOther     Protocol = "other"
)

// Result is how a registration ended.
type Result string

// The results of registrations.
const (
	ResultAccepted Result = "accepted" // has an id now
	ResultRefused  Result = "refused"  // not welcome, or not proved
	ResultFailed   Result = "failed"   // the registry could not write
)

// Reason is why somebody was refused.
type Reason string

// The reasons of refusals.
const (
	ReasonDenied      Reason = "denied"      // by a rule, or for lack of one
	ReasonInvite      Reason = "invite"      // no invite, or not a good one
	ReasonRate        Reason = "rate"        // too often
	ReasonFull        Reason = "full"        // too many connections, requests or sockets
	ReasonSlow        Reason = "slow"        // did not say in time what it wants
	ReasonMalformed   Reason = "malformed"   // what came was not understood
	ReasonUnproved    Reason = "unproved"    // a handshake, a signature or a claim that does not hold
	ReasonUnavailable Reason = "unavailable" // the hub could not write, or is about to end
	ReasonOther       Reason = "other"
)

// Refusal is one peer or visitor that was refused something.
type Refusal struct {
	Time   time.Time
	Reason Reason
	Addr   netip.Addr
	Key    keys.PublicKey // the zero key: none was proved
	What   string         // what it wanted, in words of the hub's own: "connect", "publish", "circuit"
}

// keptRefusals is how many of the latest refusals are shown.
const keptRefusals = 100

// Observer counts what happens in a hub, for its metrics, and remembers the latest refusals, for its page. The hub calls it
// where things happen, from any goroutine. It waits for nothing.
//
// Nothing that a stranger chooses becomes a label: a value that is none of this package's constants counts as "other".
type Observer struct {
	open        series[Protocol, prometheus.Gauge]
	opened      series[Protocol, prometheus.Counter]
	received    series[Protocol, prometheus.Counter]
	sent        series[Protocol, prometheus.Counter]
	registered  map[Kind]series[Result, prometheus.Counter]
	exchanges   series[string, prometheus.Counter]
	duration    prometheus.Histogram
	circuitTime prometheus.Histogram
	refusals    series[Reason, prometheus.Counter]

	collectors []prometheus.Collector
	latest     ring
}

// Opened counts a connection, once it is known what it speaks. Closed must follow.
func (o *Observer) Opened(p Protocol) {
	o.open.of(p).Inc()
	o.opened.of(p).Inc()
}

// Closed says that a connection that was Opened has ended.
func (o *Observer) Closed(p Protocol) { o.open.of(p).Dec() }

// Carried counts bytes that the hub has received and sent on connections of a protocol. Exchange counts those of HTTP.
func (o *Observer) Carried(p Protocol, received, sent int64) {
	o.received.of(p).Add(float64(max(received, 0)))
	o.sent.of(p).Add(float64(max(sent, 0)))
}

// Registered counts an attempt to register.
func (o *Observer) Registered(k Kind, r Result) {
	if s, known := o.registered[k]; known {
		s.of(r).Inc()
	}
}

// Exchange counts an HTTP exchange with a courier. It is what vhost.Config.Observe takes.
func (o *Observer) Exchange(x vhost.Exchange) {
	o.Carried(ProtocolHTTP, x.Received, x.Sent)
	switch class := x.Status / 100; {
	case x.Upgraded:
		o.exchanges.of(exchangeUpgraded).Inc() // how long it lasts is up to the two ends: no figure about the hub
		return
	case class >= 1 && class <= 5:
		o.exchanges.of(statusClasses[class-1]).Inc()
	default:
		o.exchanges.of(exchangeLeft).Inc()
	}
	o.duration.Observe(x.Duration.Seconds())
}

// CircuitEnded says how long a circuit lasted, from when its ends were joined.
func (o *Observer) CircuitEnded(lasted time.Duration) { o.circuitTime.Observe(lasted.Seconds()) }

// Refused counts a refusal and remembers it for a while. A zero time means now.
func (o *Observer) Refused(r Refusal) {
	o.refusals.of(r.Reason).Inc()
	if r.Time.IsZero() {
		r.Time = time.Now()
	}
	o.latest.add(r)
}
