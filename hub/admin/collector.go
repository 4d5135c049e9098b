package admin

import (
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/secretstack/secretstack/hub/admission"
	"github.com/secretstack/secretstack/hub/circuits"
	"github.com/secretstack/secretstack/hub/mailbox"
	"github.com/secretstack/secretstack/hub/port"
	"github.com/secretstack/secretstack/hub/registry"
)

// collector asks the hub, at each scrape, for what it knows of itself.
type collector struct {
	hub       Hub
	admission *admission.Admission

	ready, draining, started                      *prometheus.Desc
	couriers                                      *prometheus.Desc
	pools, sockets, waiting, requests             *prometheus.Desc
	tunnels                                       *prometheus.Desc
	unproved, accepted, turnedAway                *prometheus.Desc
	circuits, circuitEvents, circuitBytes         *prometheus.Desc
	records, retired, writes, failures            *prometheus.Desc
	writable, freeDisk                            *prometheus.Desc
	certificate                                   *prometheus.Desc
	rules, invites, members, limited, evicted     *prometheus.Desc
	mailboxes, envelopes, mailBytes, mailEvents   *prometheus.Desc
	nodes, majority                               *prometheus.Desc
	nodeCouriers, nodePeers, nodeSilent, nodeSkew *prometheus.Desc
	replicaLag, replicaCurrent                    *prometheus.Desc
	nodeCircuits, nodeTunnels                     *prometheus.Desc
	nodeQuestions, nodeLinks                      *prometheus.Desc
}

func newCollector(hub Hub, a *admission.Admission) *collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(prometheus.BuildFQName(namespace, "", name), help, labels, nil)
	}
	return &collector{
		hub:            hub,
		admission:      a,
		ready:          desc("ready", "1 when /readyz says so."),
		draining:       desc("draining", "1 when nobody new is taken."),
		started:        desc("start_time_seconds", "When the hub began to serve, in seconds since 1970."),
		couriers:       desc("couriers", "Couriers that are online, by kind.", "kind"),
		pools:          desc("pools", "Couriers that have a port for raw tunnel sockets."),
		sockets:        desc("pool_sockets", "Raw tunnel sockets of all pools."),
		waiting:        desc("http_waiting", "Visitors that wait for a courier's connection."),
		requests:       desc("http_exchanges_active", "HTTP exchanges with couriers under way."),
		unproved:       desc("unproved_connections", "Open connections whose peers have proved no key; HTTP is among them."),
		accepted:       desc("accepted_connections_total", "Connections to the port that were let in, whatever they speak."),
		turnedAway:     desc("turned_away_connections_total", "Connections to the port that were closed, by reason.", "reason"),
		circuits:       desc("circuits", "Circuits, by how far they are.", "state"),
		circuitEvents:  desc("circuits_total", "What has become of circuits.", "event"),
		circuitBytes:   desc("circuit_bytes_total", "Bytes through circuits, in both directions."),
		tunnels:        desc("tunnels", "Tunnels through the room."),
		records:        desc("registry_records", "Keys that have an id."),
		retired:        desc("registry_retired", "Ids that were given up."),
		writes:         desc("registry_writes_total", "Writes to the registry's log."),
		failures:       desc("registry_write_errors_total", "How often writing has failed, so that the engine was replaced."),
		writable:       desc("registry_writable", "1 when registrations can be written."),
		freeDisk:       desc("registry_free_bytes", "Bytes that may be written to the registry's disk."),
		mailboxes:      desc("mailboxes", "Mailboxes in which something waits."),
		envelopes:      desc("mailbox_envelopes", "Envelopes that wait, by box.", "box"),
		mailBytes:      desc("mailbox_bytes", "Bytes of envelopes that wait, by box.", "box"),
		mailEvents:     desc("mailbox_events_total", "What has become of envelopes.", "event"),
		rules:          desc("rules", "Allow and deny rules."),
		invites:        desc("invites", "Invites, with those that are kept for the sake of their members."),
		members:        desc("members", "Keys that have redeemed an invite."),
		limited:        desc("rate_limited_total", "Refusals because of a rate, by what there was too much of.", "kind"),
		evicted:        desc("rate_buckets_evicted_total", "Rates forgotten early, because too many addresses or keys were active."),
		nodes:          desc("nodes", "Nodes that are connected, this one included."),
		majority:       desc("nodes_majority", "1 when this node reaches the majority of nodes."),
		nodeCouriers:   desc("node_couriers", "Couriers that are connected to a node, as it says.", "node"),
		nodePeers:      desc("node_peers", "Connections with a proven key at a node, as it says.", "node"),
		nodeSilent:     desc("node_silent_seconds", "How long a node has said nothing.", "node"),
		nodeSkew:       desc("node_clock_skew_seconds", "How much the clock of a node is ahead of this one's.", "node"),
		replicaLag:     desc("replica_lag", "Writes to the registry that a node does not have yet.", "node"),
		replicaCurrent: desc("replica_current", "1 when a node has all records, or nearly.", "node"),
		nodeCircuits:   desc("node_circuits", "Open circuits across nodes: out, the visitor is here; in, the courier is.", "direction"),
		nodeTunnels:    desc("node_tunnels", "Open tunnels of the room across nodes: out, who opened it is here; in, the attendant is.", "direction"),
		nodeQuestions:  desc("node_questions_total", "Questions about couriers put to other nodes, by what came of them.", "result"),
		nodeLinks:      desc("node_links_total", "Connections between nodes for what they carry.", "event"),
		certificate:    desc("certificate_expiry_timestamp_seconds", "When a certificate runs out, in seconds since 1970; 0: there is none.", "name"),
	}
}

// sink is where the metrics of a scrape go.
type sink chan<- prometheus.Metric

func (s sink) gauge(desc *prometheus.Desc, value float64, labels ...string) {
	s <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
}

func (s sink) count(desc *prometheus.Desc, value float64, labels ...string) {
	s <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, value, labels...)
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(descs chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, descs) }

// Collect implements prometheus.Collector.
func (c *collector) Collect(metrics chan<- prometheus.Metric) {
	m, st := sink(metrics), c.hub.Status()
	m.gauge(c.ready, flag(len(st.reasons()) == 0))
	m.gauge(c.draining, flag(st.Draining))
	m.gauge(c.started, float64(c.hub.About().Started.Unix()))
	for kind, n := range countKinds(c.hub.Couriers()) {
		m.gauge(c.couriers, float64(n), string(kind))
	}
	m.gauge(c.pools, float64(st.Pools))
	m.gauge(c.sockets, float64(st.Sockets))
	m.gauge(c.waiting, float64(st.Waiting))
	m.gauge(c.requests, float64(st.Requests))
	m.gauge(c.tunnels, float64(st.Tunnels))
	c.collectPort(m, st.Port)
	c.collectCircuits(m, st.Circuits)
	c.collectMailboxes(m, st.Mailboxes)
	c.collectRegistry(m, st.Registry)
	c.collectAdmission(m, c.admission.Stats())
	if st.Cluster != nil {
		c.collectNodes(m, st.Cluster)
	}
	for name, expires := range firstExpiry(st.Certificates) {
		m.gauge(c.certificate, float64(max(expires.Unix(), 0)), name)
	}
}

func (c *collector) collectPort(m sink, st port.Stats) {
	m.gauge(c.unproved, float64(st.Unproved))
	m.count(c.accepted, float64(st.Accepted))
	m.count(c.turnedAway, float64(st.Denied), "denied")
	m.count(c.turnedAway, float64(st.Crowded), "crowded")
	m.count(c.turnedAway, float64(st.Malformed), "malformed")
	m.count(c.turnedAway, float64(st.MadeRoom), "made_room")
}

func (c *collector) collectCircuits(m sink, st circuits.Stats) {
	m.gauge(c.circuits, float64(st.Pending), "pending")
	m.gauge(c.circuits, float64(st.Open), "open")
	m.count(c.circuitEvents, float64(st.Offered), "offered")
	m.count(c.circuitEvents, float64(st.Joined), "joined")
	m.count(c.circuitEvents, float64(st.InKernel), "in_kernel")
	m.count(c.circuitEvents, float64(st.Failed), "failed")
	m.count(c.circuitEvents, float64(st.Limited), "limited")
	m.count(c.circuitEvents, float64(st.BadTokens), "bad_token")
	m.count(c.circuitEvents, float64(st.BadPreambles), "bad_preamble")
	m.count(c.circuitBytes, float64(st.Bytes))
}

func (c *collector) collectMailboxes(m sink, st mailbox.Stats) {
	m.gauge(c.mailboxes, float64(st.Mailboxes))
	m.gauge(c.envelopes, float64(st.Mail.Count), "mail")
	m.gauge(c.envelopes, float64(st.Requests.Count), "requests")
	m.gauge(c.mailBytes, float64(st.Mail.Bytes), "mail")
	m.gauge(c.mailBytes, float64(st.Requests.Bytes), "requests")
	m.count(c.mailEvents, float64(st.Deposited), "deposited")
	m.count(c.mailEvents, float64(st.Refused), "refused")
	m.count(c.mailEvents, float64(st.Acknowledged), "acknowledged")
	m.count(c.mailEvents, float64(st.Expired), "expired")
}

func (c *collector) collectRegistry(m sink, st registry.Status) {
	m.gauge(c.records, float64(st.Records))
	m.gauge(c.retired, float64(st.Retired))
	m.count(c.writes, float64(st.Writes))
	m.count(c.failures, float64(st.Failures))
	m.gauge(c.writable, flag(st.Err == nil))
	if st.Free >= 0 {
		m.gauge(c.freeDisk, float64(st.Free))
	}
}

func (c *collector) collectNodes(m sink, st *Cluster) {
	seen := 0
	for _, n := range st.Nodes {
		if n.Seen {
			seen++
			m.gauge(c.nodeCouriers, float64(n.Couriers), n.Name)
			m.gauge(c.nodePeers, float64(n.Peers), n.Name)
			m.gauge(c.nodeSilent, n.Silent, n.Name)
			m.gauge(c.nodeSkew, n.Skew, n.Name)
		}
		if n.Holds {
			m.gauge(c.replicaLag, float64(n.Lag), n.Name)
			m.gauge(c.replicaCurrent, flag(n.Current), n.Name)
		}
	}
	m.gauge(c.nodes, float64(seen))
	m.gauge(c.majority, flag(!st.Alone))
	m.gauge(c.nodeCircuits, float64(st.CircuitsOut), "out")
	m.gauge(c.nodeCircuits, float64(st.CircuitsIn), "in")
	m.gauge(c.nodeTunnels, float64(st.TunnelsOut), "out")
	m.gauge(c.nodeTunnels, float64(st.TunnelsIn), "in")
	t := st.Traffic
	m.count(c.nodeQuestions, float64(t.Asked-t.Offline-t.Unanswered), "answered")
	m.count(c.nodeQuestions, float64(t.Offline), "offline")
	m.count(c.nodeQuestions, float64(t.Unanswered), "failed")
	m.count(c.nodeLinks, float64(t.LinksOpened), "opened")
	m.count(c.nodeLinks, float64(t.LinksFailed), "failed")
	m.count(c.nodeLinks, float64(t.LinksTaken), "taken")
}

func (c *collector) collectAdmission(m sink, st admission.Stats) {
	m.gauge(c.rules, float64(st.Rules))
	m.gauge(c.invites, float64(st.Invites))
	m.gauge(c.members, float64(st.Members))
	m.count(c.evicted, float64(st.Evicted))
	for kind, n := range st.Limited {
		m.count(c.limited, float64(n), kind.String())
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
