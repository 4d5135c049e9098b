package hub

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/secretstack/secretstack/circuit"
	"github.com/secretstack/secretstack/hub/admin"
	"github.com/secretstack/secretstack/hub/cluster"
	"github.com/secretstack/secretstack/hub/cluster/credential"
	"github.com/secretstack/secretstack/hub/native"
	"github.com/secretstack/secretstack/hub/registry"
	"github.com/secretstack/secretstack/hub/vhost"
	"github.com/secretstack/secretstack/internal/pause"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/secrez"
)

// nodeSecretFile holds a node's own identity, in the data folder.
const nodeSecretFile = "node-secret"

// nodeNameFile holds its name, there too.
const nodeNameFile = "node-name"

// Cluster makes a hub one of several processes that are one hub, docs/PROTOCOL.md §15. Their Config says the same about who may
// use the hub, and about Domain.
//
// Couriers are found and reached whichever node they are connected to, by circuits and by HTTP at their ids, and have one
// mailbox, whose quotas are approximate. They are in one room. Couriers of Secrez are reached by HTTP from every node too.
type Cluster struct {
	// Credential is what the operator has given to every node. The hub's identity is in it.
	Credential *credential.Credential
	// Name is what this node alone is called: 1 to 63 of a to z, 0 to 9 and "-".
	Name string
	// Listen is where other nodes' engines connect, Links where other nodes do: "192.0.2.1:8435" and "192.0.2.1:8436". Advertise and
	// AdvertiseLinks are where they find them, if not there.
	Listen, Advertise     string
	Links, AdvertiseLinks string
	// Public is where couriers find this node and no other: "net:192.0.2.1:8433". Nodes that drain send their couriers there.
	// Empty: they are sent back at once to where they have found the hub.
	Public string
	// Peers are the addresses of all nodes' engines, the same on every node.
	Peers []string
	// Replicas is how many nodes hold everything: 1, 3 or 5. Zero: 3.
	Replicas int
	// URL is a NATS cluster to be used in place of embedded engines, URLCredentials the file to log in with, URLAuthority that with
	// the certificate of the authority that its own are from. Empty: one that the system knows.
	URL, URLCredentials, URLAuthority string
	// Waiting is told, again and again, what the node waits for while New does. It must return soon. Nil: nobody is told.
	Waiting func(registry.Wait)
	// Limits bound what nodes ask of each other.
	Limits cluster.Limits
}

func (c *Cluster) check() error {
	switch {
	case c == nil:
		return nil
	case c.Credential == nil:
		return fmt.Errorf("%w: Cluster.Credential: a node needs one", ErrConfig)
	case c.Name == "":
		return fmt.Errorf("%w: Cluster.Name: a node needs a name of its own", ErrConfig)
	case !hasPort(c.Links):
		return fmt.Errorf("%w: Cluster.Links: %q is no address such as 192.0.2.1:8436", ErrConfig, c.Links)
	case !hasPort(c.Listen) && (c.Listen != "" || c.URL == ""):
		return fmt.Errorf("%w: Cluster.Listen: %q is no address such as 192.0.2.1:8435", ErrConfig, c.Listen)
	}
	return nil
}

func hasPort(address string) bool {
	_, _, err := net.SplitHostPort(address)
	return err == nil
}

// same reports whether another configuration makes the same node.
func (c *Cluster) same(other *Cluster) bool {
	if c == nil || other == nil {
		return c == other
	}
	a, b := *c, *other
	a.Waiting, b.Waiting = nil, nil
	return reflect.DeepEqual(a, b)
}

// nodes is what a hub has as a node of a cluster. Without one, everything of it is empty.
type nodes struct {
	identity *keys.Identity // this node's
	links    net.Listener   // the node's, as soon as there is one
	node     *cluster.Node

	out, in               atomic.Int64 // circuits across nodes: visitors, couriers that are here
	tunnelsOut, tunnelsIn atomic.Int64 // tunnels of the room: who has opened them, attendants that are here

	telling sync.Mutex // puts what is told of one courier in order

	mu        sync.Mutex
	elsewhere map[circuit.TokenName]*ticket               // circuits that other nodes have; guarded by mu
	web       map[[keys.PublicKeySize]byte]*remoteCourier // couriers at other nodes that were visited lately; guarded by mu
}

// NodeName tells what the node is called whose data folder is dir. Empty: there is none yet. Its error is why the folder cannot be
// read.
func NodeName(dir string) (string, error) {
	text, err := os.ReadFile(filepath.Join(dir, nodeNameFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("hub: the node's name: %w", err)
	}
	return strings.TrimSpace(string(text)), nil
}

// rememberNode sees that a data folder is always the same node's: the engine takes another name for another node.
func rememberNode(dir, name string) error {
	before, err := NodeName(dir)
	switch {
	case err != nil:
		return err
	case before == name:
		return nil
	case before != "":
		return fmt.Errorf("%w: Cluster.Name: the data folder is that of node %q, not of %q", ErrConfig, before, name)
	}
	if err := os.WriteFile(filepath.Join(dir, nodeNameFile), []byte(name+"\n"), 0o600); err != nil {
		return fmt.Errorf("hub: the node's name: %w", err)
	}
	return nil
}

// registryCluster is the registry's part of the configuration of a node.
func (h *Hub) registryCluster() (*registry.Cluster, error) {
	c := h.cfg.Cluster
	if c == nil {
		return nil, nil
	}
	if err := rememberNode(h.cfg.Dir, c.Name); err != nil {
		return nil, err
	}
	var config *tls.Config
	var err error
	h.nodes.identity, err = keys.LoadOrCreate(filepath.Join(h.cfg.Dir, nodeSecretFile), keys.FileOptions{})
	if err == nil {
		config, err = c.Credential.TLS(h.nodes.identity, c.Name)
	}
	if err != nil {
		return nil, fmt.Errorf("hub: %w", err)
	}
	return &registry.Cluster{
		Name: c.Credential.Name(), Node: c.Name, Listen: c.Listen, Advertise: c.Advertise, Peers: c.Peers, TLS: config,
		URL: c.URL, Credentials: c.URLCredentials, Authority: c.URLAuthority, Origin: c.Credential.Origin(), Waiting: c.Waiting,
	}, nil
}

// openLinks listens where other nodes open links: a port that is taken is to be seen before they are waited for.
func (h *Hub) openLinks(ctx context.Context) (err error) {
	if h.cfg.Cluster == nil {
		return nil
	}
	var config net.ListenConfig
	if h.nodes.links, err = config.Listen(ctx, "tcp", h.cfg.Cluster.Links); err != nil {
		return fmt.Errorf("hub: links of other nodes: %w", err)
	}
	return nil
}

// openCluster joins the other nodes.
func (h *Hub) openCluster(ctx context.Context) error {
	c := h.cfg.Cluster
	if c == nil {
		return nil
	}
	h.nodes.elsewhere = map[circuit.TokenName]*ticket{}
	h.nodes.web = map[[keys.PublicKeySize]byte]*remoteCourier{}
	appKey, err := c.Credential.AppKey()
	if err != nil {
		return fmt.Errorf("hub: %w", err)
	}
	h.nodes.node, err = cluster.Open(ctx, cluster.Config{
		Bus: h.registry, Name: c.Name, Identity: h.nodes.identity, AppKey: appKey, Listener: h.nodes.links,
		Advertise: c.AdvertiseLinks, Release: h.cfg.Version, Answer: h.answerNode, Serve: h.serveLink, Load: h.load, Drains: h.nodeDrains,
		Limits: c.Limits, Logger: h.log,
	})
	if err == nil {
		_ = h.background(h.watchRooms)
	}
	return err
}

// openRetry is how long opening rests after a failure.
const openRetry = time.Second

// patiently tries again what the other nodes can make fail: another one may have gone meanwhile.
func (h *Hub) patiently(open func(context.Context) error) func(context.Context) error {
	if h.cfg.Cluster == nil {
		return open
	}
	return func(ctx context.Context) (err error) {
		for {
			if err = open(ctx); !errors.Is(err, registry.ErrUnavailable) {
				return err
			}
			h.log.Warn("hub: waiting for the other nodes", "err", err)
			if !pause.Sleep(ctx, openRetry) {
				return err
			}
		}
	}
}

// closeCluster leaves the other nodes. Links that they have opened end.
func (h *Hub) closeCluster() error {
	switch {
	case h.nodes.links == nil:
		return nil
	case h.nodes.node == nil:
		return notClosed(h.nodes.links.Close())
	}
	h.nodes.mu.Lock()
	web := h.nodes.web
	h.nodes.web = nil
	h.nodes.mu.Unlock()
	for _, c := range web {
		_ = c.streams.Close()
	}
	return h.nodes.node.Close()
}

// Nodes lists the nodes of the cluster as this one sees them; nil without one.
func (h *Hub) Nodes() []cluster.Member {
	if h.nodes.node == nil {
		return nil
	}
	return h.nodes.node.Members()
}

// clusterStatus tells how the nodes are doing; nil without a cluster.
func (h *Hub) clusterStatus(stored *registry.ClusterStatus) *admin.Cluster {
	if h.nodes.node == nil || stored == nil {
		return nil
	}
	nodes := map[string]*admin.Node{}
	for _, m := range h.Nodes() {
		nodes[m.Node] = &admin.Node{
			Name: m.Node, Self: m.Self, Seen: true, Refused: !m.Works, Release: m.Release, Couriers: m.Couriers, Peers: m.Peers,
			Draining: m.Draining, Silent: m.Silent.Seconds(), Skew: m.Skew.Seconds(),
		}
	}
	for _, r := range stored.Replicas {
		n := nodes[r.Node]
		if n == nil {
			n = &admin.Node{Name: r.Node}
			nodes[r.Node] = n
		}
		n.Holds, n.Current, n.Lag, n.Leads = true, r.Current, r.Lag, r.Node == stored.Leader
	}
	c := &admin.Cluster{
		Name: stored.Name, Node: stored.Node, Alone: stored.Alone, CircuitsOut: int(h.nodes.out.Load()), CircuitsIn: int(h.nodes.in.Load()),
		TunnelsOut: int(h.nodes.tunnelsOut.Load()), TunnelsIn: int(h.nodes.tunnelsIn.Load()),
		Traffic: admin.NodeTraffic(h.nodes.node.Stats()),
	}
	for _, name := range slices.Sorted(maps.Keys(nodes)) {
		c.Nodes = append(c.Nodes, *nodes[name])
	}
	return c
}

// load is what this node tells the others of itself. It is asked for several times a second.
func (h *Hub) load() cluster.Load {
	couriers, peers := h.directory.counts()
	l := cluster.Load{Couriers: couriers, Peers: peers, Draining: h.isDraining(), Room: h.roomMark()}
	if !l.Draining {
		l.Public = h.cfg.Cluster.Public
	}
	return l
}

// present tells the other nodes whether a courier is here.
func (h *Hub) present(key keys.PublicKey) {
	if h.nodes.node == nil {
		return
	}
	h.nodes.telling.Lock()
	defer h.nodes.telling.Unlock()
	rec, known := h.registry.LookupKey(key)
	here := h.directory.courier(key) != nil || known && h.pools.Pool(rec.ID) != nil
	if here && !h.isDraining() {
		h.nodes.node.Publish(cluster.Courier, key)
	} else {
		h.nodes.node.Withdraw(cluster.Courier, key)
	}
}

// withdraw tells the other nodes that nobody is here any more.
func (h *Hub) withdraw() {
	for _, s := range h.directory.published() {
		h.present(s.peer.Key())
	}
	for _, g := range h.guests.list() {
		h.present(g.key)
	}
	here, _ := h.room.Here()
	for _, raw := range here {
		if key, err := keys.NewPublicKey(raw[:]); err == nil {
			h.attending(key)
		}
	}
}

// nodeQuestion is what nodes ask each other about a courier, an attendant, or themselves.
type nodeQuestion struct {
	Ask     string         `json:"ask"` // one of those below
	Visitor keys.PublicKey `json:"visitor,omitzero"`
	After   []byte         `json:"after,omitempty"` // of a room: the last key that is known
}

const (
	askReach   = "reach"   // nodeReach
	askCircuit = "circuit" // native.Connected
	askRoom    = "room"    // nodeRoom
)

// nodeReach is how a courier can be reached.
type nodeReach struct {
	Serves []string `json:"serves"`
	// Sockets says that HTTP goes through the few tunnel sockets that a courier of Secrez has.
	Sockets bool `json:"sockets,omitempty"`
}

// nodeRoom is a part of who is in a node's room.
type nodeRoom struct {
	Keys []byte `json:"keys"` // one after the other
	More bool   `json:"more,omitempty"`
}

// The refusals of questions and links.
const (
	nodeBadRequest   cluster.Refusal = "bad-request"
	nodeNoCircuits   cluster.Refusal = "no-circuits"
	nodeVisitorLimit cluster.Refusal = "visitor-limit"
	nodeTargetLimit  cluster.Refusal = "target-limit"
	nodeFull         cluster.Refusal = "full"
	nodeDraining     cluster.Refusal = "draining"
)

// answerNode answers another node's question about somebody who is here.
func (h *Hub) answerNode(_ context.Context, as cluster.Role, key keys.PublicKey, body []byte) ([]byte, error) {
	var q nodeQuestion
	if json.Unmarshal(body, &q) != nil {
		return nil, nodeBadRequest
	}
	switch {
	case as == cluster.Self && q.Ask == askRoom:
		return h.tellRoom(q.After)
	case as == cluster.Attendant && q.Ask == askReach:
		return []byte("{}"), nil
	case as != cluster.Courier:
		return nil, nodeBadRequest
	}
	rec, _ := h.registry.LookupKey(key)
	if h.admission.Reach(rec.ID, key) != nil {
		return nil, cluster.ErrOffline
	}
	s := h.directory.courier(key)
	if s == nil {
		return h.answerForGuest(rec.ID, q.Ask)
	}
	switch q.Ask {
	case askReach:
		return json.Marshal(nodeReach{Serves: s.offers().words()})
	case askCircuit:
		return h.offerToNode(s, q.Visitor)
	}
	return nil, nodeBadRequest
}

const (
	// drainPatience is how long a courier that no node has is looked for again while a node drains: it may be on its way to another.
	drainPatience = 3 * time.Second
	drainRetry    = 50 * time.Millisecond
)

// follow tries again what fails because a courier may be on its way from a node that drains, or has just ended, to another.
func (h *Hub) follow(ctx context.Context, try func() error) error {
	var until time.Time
	for {
		err := try()
		switch {
		case errors.Is(err, cluster.ErrUnreachable), errors.Is(err, nodeDraining):
		case errors.Is(err, cluster.ErrOffline) && h.nodes.node.Draining(ctx):
		default:
			return err
		}
		if until.IsZero() { // a node that has just ended may have cost the first try all its time
			until = time.Now().Add(drainPatience)
		}
		if time.Now().After(until) {
			return err
		}
		if !pause.Sleep(ctx, drainRetry) {
			return err
		}
	}
}

// shelters lists the addresses of the other nodes that couriers may go to: "" for one that has none of its own.
func (h *Hub) shelters() (all []string) {
	for _, m := range h.Nodes() {
		if !m.Self && m.Works && !m.Draining && m.Silent < shelterSilent {
			all = append(all, m.Public)
		}
	}
	return all
}

// shelterSilent is how long a node may have been silent to which couriers are sent.
const shelterSilent = 3 * time.Second

// leaveNodes tells the other nodes that this one is about to end, and then that nobody is here any more.
func (h *Hub) leaveNodes() {
	if h.nodes.node == nil {
		return
	}
	h.nodes.node.Announce()
	h.withdraw()
}

// answerForGuest answers a question about a courier of Secrez.
func (h *Hub) answerForGuest(id secrez.ID, what string) ([]byte, error) {
	switch {
	case h.pools.Pool(id) == nil:
		return nil, cluster.ErrOffline
	case what == askReach:
		return json.Marshal(nodeReach{Serves: []string{native.ServesHTTP}, Sockets: true})
	case what == askCircuit:
		return nil, nodeNoCircuits
	}
	return nil, nodeBadRequest
}

// ask puts a question to the node that has a courier. Without a cluster no node has it.
func (h *Hub) ask(ctx context.Context, key keys.PublicKey, q nodeQuestion, into any) (cluster.Place, error) {
	return h.askAs(ctx, cluster.Courier, key, q, into)
}

// askAs puts a question to a node that has somebody.
func (h *Hub) askAs(ctx context.Context, as cluster.Role, key keys.PublicKey, q nodeQuestion, into any) (cluster.Place, error) {
	if h.nodes.node == nil {
		return cluster.Place{}, cluster.ErrOffline
	}
	body, err := json.Marshal(q)
	if err != nil {
		return cluster.Place{}, err
	}
	var place cluster.Place
	var reply []byte
	ask := func() (err error) {
		place, reply, err = h.nodes.node.Ask(ctx, as, key, body)
		return err
	}
	if as == cluster.Self { // it goes nowhere
		err = ask()
	} else {
		err = h.follow(ctx, ask)
	}
	if err == nil && json.Unmarshal(reply, into) != nil {
		err = cluster.ErrUnreachable
	}
	if err != nil && !errors.Is(err, cluster.ErrOffline) {
		h.log.Debug("hub: another node was asked", "what", q.Ask, "err", err)
	}
	return place, err
}

// elsewhereReach tells how a courier can be reached at another node.
func (h *Hub) elsewhereReach(ctx context.Context, key keys.PublicKey) (cluster.Place, nodeReach, error) {
	var r nodeReach
	place, err := h.ask(ctx, key, nodeQuestion{Ask: askReach}, &r)
	return place, r, err
}

// linkRequest is what one node opens a link to another for.
type linkRequest struct {
	For string         `json:"for"`
	Key keys.PublicKey `json:"key,omitzero"` // for HTTP: of the courier; for a tunnel: of the target
	// For a tunnel: who opens it, and the argument of tunnel.connect.
	Origin  keys.PublicKey  `json:"origin,omitzero"`
	Request json.RawMessage `json:"request,omitempty"`
}

const (
	linkCircuit = "circuit" // bare: a preamble follows, as from an end
	linkHTTP    = "http"    // a connection on which the courier serves HTTP
	linkTunnel  = "tunnel"  // a tunnel of the room: packets
)

// dialNode opens a link. The context that it gives ends when the other node has gone.
func (h *Hub) dialNode(ctx context.Context, to cluster.Place, r linkRequest, bare bool) (net.Conn, context.Context, error) {
	body, err := json.Marshal(r)
	if err != nil {
		return nil, nil, err
	}
	return h.nodes.node.Dial(ctx, to, body, bare)
}

// serveLink serves what another node has opened a link for.
func (h *Hub) serveLink(ctx context.Context, _ keys.PublicKey, body []byte, accept func(error) (net.Conn, error)) {
	var r linkRequest
	err := json.Unmarshal(body, &r)
	switch {
	case err == nil && r.For == linkCircuit:
		if conn, err := accept(nil); err == nil {
			h.nodes.in.Add(1)
			defer h.nodes.in.Add(-1)
			defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
			h.circuits.Serve(conn)
		}
	case err == nil && r.For == linkHTTP:
		h.serveWebLink(ctx, r.Key, accept)
	case err == nil && r.For == linkTunnel:
		h.serveTunnelLink(ctx, r, accept)
	default:
		_, _ = accept(nodeBadRequest)
	}
}

// away tells a visitor's HTTP what it means that another node cannot be asked.
func away(err error) error {
	if errors.Is(err, cluster.ErrBusy) || errors.Is(err, nodeFull) {
		return vhost.ErrBusy
	}
	return vhost.ErrAway
}
