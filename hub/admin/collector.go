package admin

import (
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/secretstack/secretstack/hub/admission"
	"github.com/secretstack/secretstack/hub/registry"
)

// collector asks the hub, at each scrape, for what it knows of itself.
type collector struct {
	hub       Hub
	admission *admission.Admission

	ready, draining, started                  *prometheus.Desc
	couriers                                  *prometheus.Desc
	pools, sockets, waiting, requests         *prometheus.Desc
	circuits, tunnels                         *prometheus.Desc
	records, retired, writes, failures        *prometheus.Desc
	writable, freeDisk                        *prometheus.Desc
	certificate                               *prometheus.Desc
	rules, invites, members, limited, evicted *prometheus.Desc
}

func newCollector(hub Hub, a *admission.Admission) *collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(prometheus.BuildFQName(namespace, "", name), help, labels, nil)
	}
	return &collector{
		hub:         hub,
		admission:   a,
		ready:       desc("ready", "1 when /readyz says so."),
		draining:    desc("draining", "1 when nobody new is taken."),
		started:     desc("start_time_seconds", "When the hub began to serve, in seconds since 1970."),
		couriers:    desc("couriers", "Couriers that are online, by kind.", "kind"),
		pools:       desc("pools", "Couriers that have a port for raw tunnel sockets."),
		sockets:     desc("pool_sockets", "Raw tunnel sockets of all pools."),
		waiting:     desc("http_waiting", "Visitors that wait for a courier's connection."),
		requests:    desc("http_exchanges_active", "HTTP exchanges with couriers under way."),
		circuits:    desc("circuits", "Circuits with both ends joined."),
		tunnels:     desc("tunnels", "Tunnels through the room."),
		records:     desc("registry_records", "Keys that have an id."),
		retired:     desc("registry_retired", "Ids that were given up."),
		writes:      desc("registry_writes_total", "Writes to the registry's log."),
		failures:    desc("registry_write_errors_total", "How often writing has failed, so that the engine was replaced."),
		writable:    desc("registry_writable", "1 when registrations can be written."),
		freeDisk:    desc("registry_free_bytes", "Bytes that may be written to the registry's disk."),
		rules:       desc("rules", "Allow and deny rules."),
		invites:     desc("invites", "Invites, with those that are kept for the sake of their members."),
		members:     desc("members", "Keys that have redeemed an invite."),
		limited:     desc("rate_limited_total", "Refusals because of a rate, by what there was too much of.", "kind"),
		evicted:     desc("rate_buckets_evicted_total", "Rates forgotten early, because too many addresses or keys were active."),
		certificate: desc("certificate_expiry_timestamp_seconds", "When a certificate runs out, in seconds since 1970.", "name"),
	}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(descs chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, descs) }

// Collect implements prometheus.Collector.
func (c *collector) Collect(metrics chan<- prometheus.Metric) {
	gauge := func(desc *prometheus.Desc, value float64, labels ...string) {
		metrics <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
	}
	st := c.hub.Status()
	gauge(c.ready, flag(len(st.reasons()) == 0))
	gauge(c.draining, flag(st.Draining))
	gauge(c.started, float64(c.hub.About().Started.Unix()))
	for kind, n := range countKinds(c.hub.Couriers()) {
		gauge(c.couriers, float64(n), string(kind))
	}
	gauge(c.pools, float64(st.Pools))
	gauge(c.sockets, float64(st.Sockets))
	gauge(c.waiting, float64(st.Waiting))
	gauge(c.requests, float64(st.Requests))
	gauge(c.circuits, float64(st.Circuits))
	gauge(c.tunnels, float64(st.Tunnels))
	c.collectRegistry(metrics, st.Registry)
	c.collectAdmission(metrics, c.admission.Stats())
	for name, expires := range firstExpiry(st.Certificates) {
		gauge(c.certificate, float64(expires.Unix()), name)
	}
}

func (c *collector) collectRegistry(metrics chan<- prometheus.Metric, st registry.Status) {
	metric := func(desc *prometheus.Desc, kind prometheus.ValueType, value float64) {
		metrics <- prometheus.MustNewConstMetric(desc, kind, value)
	}
	metric(c.records, prometheus.GaugeValue, float64(st.Records))
	metric(c.retired, prometheus.GaugeValue, float64(st.Retired))
	metric(c.writes, prometheus.CounterValue, float64(st.Writes))
	metric(c.failures, prometheus.CounterValue, float64(st.Failures))
	metric(c.writable, prometheus.GaugeValue, flag(st.Err == nil))
	if st.Free >= 0 {
		metric(c.freeDisk, prometheus.GaugeValue, float64(st.Free))
	}
}

func (c *collector) collectAdmission(metrics chan<- prometheus.Metric, st admission.Stats) {
	metric := func(desc *prometheus.Desc, kind prometheus.ValueType, value float64, labels ...string) {
		metrics <- prometheus.MustNewConstMetric(desc, kind, value, labels...)
	}
	metric(c.rules, prometheus.GaugeValue, float64(st.Rules))
	metric(c.invites, prometheus.GaugeValue, float64(st.Invites))
	metric(c.members, prometheus.GaugeValue, float64(st.Members))
	metric(c.evicted, prometheus.CounterValue, float64(st.Evicted))
	for kind, n := range st.Limited {
		metric(c.limited, prometheus.CounterValue, float64(n), kind.String())
	}
}

// countKinds counts couriers by kind; kinds that nobody is of are counted too.
func countKinds(couriers []Courier) map[Kind]int {
	count := make(map[Kind]int, len(kinds))
	for _, k := range kinds {
		count[k] = 0
	}
	for i := range couriers {
		if _, known := count[couriers[i].Kind]; known {
			count[couriers[i].Kind]++
		}
	}
	return count
}

// firstExpiry tells for each name when the first of its certificates runs out: a name can have several, a series only one.
func firstExpiry(certificates []Certificate) map[string]time.Time {
	expiry := map[string]time.Time{}
	for _, cert := range certificates {
		name := strings.ToValidUTF8(cert.Name, "")
		if first, known := expiry[name]; !known || cert.Expires.Before(first) {
			expiry[name] = cert.Expires
		}
	}
	return expiry
}

func flag(on bool) float64 {
	if on {
		return 1
	}
	return 0
}

// newRegistry makes the metrics of one hub. They are its own: two hubs in one process do not share any.
func newRegistry(hub Hub, a *admission.Admission, o *Observer) (*prometheus.Registry, error) {
	r := prometheus.NewRegistry()
	all := append([]prometheus.Collector{
		newCollector(hub, a),
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	}, o.collectors...)
	for _, c := range all {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Namespace: namespace, Name: "build_info", Help: "1, with the version.",
		ConstLabels: prometheus.Labels{"version": hub.About().Version},
	})
	build.Set(1)
	return r, r.Register(build)
}
