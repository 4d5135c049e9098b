package admin

import "github.com/prometheus/client_golang/prometheus"

const namespace = "secretstack_hub"

// series are the metrics of one name, one for each value that its label can have. They are looked up without a lock.
type series[L ~string, M prometheus.Metric] struct {
	byLabel map[L]M
	other   M // for every other value
}

func (s series[L, M]) of(label L) M {
	if m, known := s.byLabel[label]; known {
		return m
	}
	return s.other
}

// seriesOf makes the metrics of the label values, the last of which stands for all others.
func seriesOf[L ~string, M prometheus.Metric](with func(values ...string) M, labels []L, before ...string) series[L, M] {
	s := series[L, M]{byLabel: make(map[L]M, len(labels))}
	for _, label := range labels {
		s.byLabel[label] = with(append(before[:len(before):len(before)], string(label))...)
	}
	s.other = s.byLabel[labels[len(labels)-1]]
	return s
}

var (
	protocols = []Protocol{ProtocolHandshake, ProtocolWebSocket, ProtocolHTTP, ProtocolOther}
	results   = []Result{ResultAccepted, ResultRefused, ResultFailed}
	reasons   = []Reason{ReasonDenied, ReasonInvite, ReasonRate, ReasonFull, ReasonSlow, ReasonMalformed, ReasonUnproved,
		ReasonUnavailable, ReasonOther}

	statusClasses  = []string{"1xx", "2xx", "3xx", "4xx", "5xx"}
	exchangeLabels = []string{"1xx", "2xx", "3xx", "4xx", "5xx", exchangeUpgraded, exchangeLeft}
)

// What becomes of an exchange that is not told by the class of its status.
const (
	exchangeUpgraded = "upgraded" // to WebSocket or another protocol
	exchangeLeft     = "left"     // the visitor did not wait for the answer
)

// NewObserver makes the observer of one hub.
func NewObserver() *Observer {
	o := &Observer{registered: map[Kind]series[Result, prometheus.Counter]{}}
	o.open = seriesOf(o.gauges("connections", "Open connections, by what they speak.", "protocol"), protocols)
	o.opened = seriesOf(o.counters("connections_total", "Connections so far, by what they speak.", "protocol"), protocols)
	o.received = seriesOf(o.counters("received_bytes_total", "Bytes received, by protocol; of HTTP: the bodies from visitors.",
		"protocol"), protocols)
	o.sent = seriesOf(o.counters("sent_bytes_total", "Bytes sent, by protocol; of HTTP: the bodies to visitors.", "protocol"),
		protocols)
	registered := o.counters("registrations_total", "Registrations, by kind and result.", "kind", "result")
	for _, k := range []Kind{KindNative, KindSecrez} {
		o.registered[k] = seriesOf(registered, results, string(k))
	}
	o.exchanges = seriesOf(o.counters("http_exchanges_total", "HTTP exchanges with couriers, by class of the status.", "status"),
		exchangeLabels)
	o.duration = o.histogram("http_exchange_duration_seconds", "From the request's header to the end of the response.",
		[]float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300})
	o.circuitTime = o.histogram("circuit_duration_seconds", "How long circuits lasted.", []float64{.1, 1, 10, 60, 600, 3600, 86400})
	o.refusals = seriesOf(o.counters("refusals_total", "Refusals, by reason.", "reason"), reasons)
	return o
}

func (o *Observer) counters(name, help string, labels ...string) func(...string) prometheus.Counter {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}, labels)
	o.collectors = append(o.collectors, v)
	return v.WithLabelValues
}

func (o *Observer) gauges(name, help string, labels ...string) func(...string) prometheus.Gauge {
	v := prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help}, labels)
	o.collectors = append(o.collectors, v)
	return v.WithLabelValues
}

func (o *Observer) histogram(name, help string, buckets []float64) prometheus.Histogram {
	h := prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: namespace, Name: name, Help: help, Buckets: buckets})
	o.collectors = append(o.collectors, h)
	return h
}
