package registry

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	clusterFolder = "cluster" // in the data folder: the engine's files of a node, and its mark

	defaultReplicas = 3
	maxNodeName     = 63

	// A node that falls silent is dropped after routePings+1 intervals.
	routePing  = time.Second
	routePings = 2

	// A reader notices within twice the heartbeat that the node that fed it is gone.
	readHeartbeat = time.Second
	readExpiry    = 5 * time.Second

	// observePause is how often a node asks how the log is doing.
	observePause = 2 * time.Second

	// joinAttempt bounds each question to a cluster that is not formed yet.
	joinAttempt = time.Second

	// fetchMax bounds what a writer fetches before it lets the reader catch up.
	fetchMax = 1024
)

// Cluster makes a registry one of several with the same records. Each is a node with a data folder of its own; they write
// with the agreement of a majority, and all of them have everything in memory. All have the same Identity.
type Cluster struct {
	// Name is what the nodes have in common, Node what only this one is called. Both have 1 to 63 of a to z, 0 to 9 and "-".
	// A node keeps its name for as long as it has its data folder.
	Name, Node string

	// Listen is the address at which other nodes connect, such as "192.0.2.1:8435". Advertise is where they find it, if not
	// there. Peers are those of all nodes; this one's own may be among them. They should be the same list on every node: as
	// many as it has are waited for when the cluster is first formed.
	Listen, Advertise string
	Peers             []string

	// TLS is how nodes prove to each other that they are of the cluster. It must ask for a certificate of the other side, and
	// trust nothing but the cluster's own. There are no connections between nodes without it.
	TLS *tls.Config

	// URL is a NATS cluster of somebody else's, to be used in place of one that the nodes form: "tls://host:4222", several
	// joined by ",". Only a server on this machine may be reached without TLS. Credentials is the file to log in with, if it
	// asks for that, Authority that with the certificate of the authority of its own (PEM). Empty: one that the system knows. Listen,
	// Advertise, Peers and TLS are not used then.
	URL, Credentials, Authority string

	// Origin is what [MakeOrigin] has given where the cluster is to begin with what a single registry held; the same on every
	// node. One of them has that registry's data folder, and all wait until it has brought everything. Nil: it begins empty.
	Origin []byte

	// Waiting is told, again and again, what the node waits for at the start. It must return soon. Nil: nobody is told.
	Waiting func(Wait)
}

// Wait is what a node waits for when it starts.
type Wait struct {
	// Reached is how many nodes are in reach, this one included, Of how many there should be. With a URL both are zero.
	Reached, Of int

	// Origin says that they have not got yet all that a single hub had, and Brought how much they have, in messages of the engine,
	// if this node is the one that brings it. Zero: it is not, or has not begun.
	Origin  bool
	Brought uint64
}

// ErrForeign says that a data folder is not what the configuration takes it for: a node's of a cluster, or another one's.
var ErrForeign = errors.New("registry: the data folder is of another kind")

func (c *Cluster) check() error {
	if !isNodeName(c.Name) || !isNodeName(c.Node) {
		return fmt.Errorf("registry: the names of a cluster and a node have 1 to %d of a to z, 0 to 9 and \"-\", not %q and %q",
			maxNodeName, c.Name, c.Node)
	}
	if c.URL != "" {
		return c.checkURL()
	}
	if c.TLS == nil || c.TLS.ClientAuth != tls.RequireAndVerifyClientCert || c.TLS.ClientCAs == nil || c.TLS.RootCAs == nil ||
		c.TLS.InsecureSkipVerify || len(c.TLS.Certificates) == 0 {
		return errors.New("registry: nodes must prove themselves to each other: TLS with certificates on both sides is needed")
	}
	if _, _, err := hostPort(c.Listen); err != nil {
		return err
	}
	for _, peer := range append([]string{c.Advertise}, c.Peers...) {
		if peer == "" {
			continue
		}
		if _, port, err := hostPort(peer); err != nil || port == 0 {
			return fmt.Errorf("registry: %q is no address of a node such as 192.0.2.1:8435", peer)
		}
	}
	return nil
}

func (c *Cluster) checkURL() error {
	for one := range strings.SplitSeq(c.URL, ",") {
		u, err := url.Parse(strings.TrimSpace(one))
		if err != nil || u.Host == "" {
			return errors.New("registry: the url of the NATS cluster is not like tls://host:4222")
		}
		ip := net.ParseIP(u.Hostname())
		local := u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
		if u.Scheme != "tls" && (u.Scheme != "nats" || !local) {
			return errors.New("registry: the NATS cluster must be reached with TLS: its url begins with tls://")
		}
	}
	return nil
}

func isNodeName(s string) bool {
	return len(s) > 0 && len(s) <= maxNodeName && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

func hostPort(address string) (host string, port int, err error) {
	host, text, err := net.SplitHostPort(address)
	if err == nil {
		port, err = strconv.Atoi(text)
	}
	if err != nil || port < 0 || port > 65535 {
		return "", 0, fmt.Errorf("registry: %q is no address such as 192.0.2.1:8435", address)
	}
	return host, port, nil
}

// rightFolder sees that the data folder is of the kind that the configuration takes it for, and makes a node's part of it.
func (c Config) rightFolder() error {
	alone, err := exists(filepath.Join(c.Dir, engineFolder))
	if err != nil {
		return err
	}
	shared, err := exists(filepath.Join(c.Dir, clusterFolder))
	if err != nil {
		return err
	}
	origin, err := exists(filepath.Join(c.Dir, originName))
	switch {
	case err != nil:
		return err
	case c.Cluster == nil && shared:
		return fmt.Errorf("%w: %s is a node's of a cluster. Start the hub as one, or restore a backup into an empty folder",
			ErrForeign, c.Dir)
	case c.Cluster == nil && origin:
		return fmt.Errorf("%w: a cluster is to begin with what is in %s. Start the hub as a node of it. To go on alone instead, remove "+
			"the file %q there", ErrForeign, c.Dir, originName)
	case c.Cluster != nil && alone && !shared && (!origin || len(c.Cluster.Origin) == 0):
		return fmt.Errorf("%w: %s is a single hub's, whose records are not the cluster's", ErrForeign, c.Dir)
	case c.Cluster == nil:
		return nil
	}
	if err := os.MkdirAll(c.store(), 0o700); err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return nil
}

func exists(path string) (bool, error) {
	_, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return true, nil
}

// syncFolders makes sure that the files of the engine can be found again.
func (e *engine) syncFolders() error {
	if e.server == nil {
		return nil
	}
	return syncFolders(e.dir)
}

// apply makes a server one of the cluster's. The key is that of a user who may remove nodes.
func (c *Cluster) apply(o *server.Options, operator string) {
	system := server.NewAccount(server.DEFAULT_SYSTEM_ACCOUNT)
	o.Accounts, o.SystemAccount = []*server.Account{system}, system.Name
	o.Nkeys = []*server.NkeyUser{{Nkey: operator, Account: system}}
	host, port, _ := hostPort(c.Listen) // checked
	o.ServerName = c.Node
	o.JetStream = true
	// It opens the port for nodes only after one for clients. Nobody can use that: it asks for a node's certificate.
	o.DontListen, o.Host, o.Port = false, "127.0.0.1", server.RANDOM_PORT
	o.TLS, o.TLSVerify, o.TLSConfig, o.TLSTimeout = true, true, c.TLS.Clone(), 5
	o.Cluster = server.ClusterOpts{
		Name: c.Name, Host: host, Port: port, Advertise: c.Advertise, TLSConfig: c.TLS.Clone(), TLSTimeout: 5,
		PingInterval: routePing, MaxPingsOut: routePings,
	}
	for _, peer := range c.Peers {
		o.Routes = append(o.Routes, &url.URL{Scheme: "nats-route", Host: peer})
	}
}

// portFree sees that the engine can have its port: it would only log that it cannot.
func (c *Cluster) portFree(ctx context.Context) error {
	var config net.ListenConfig
	ln, err := config.Listen(ctx, "tcp", c.Listen)
	if err != nil {
		return fmt.Errorf("registry: other nodes' connections: %w", err)
	}
	return ln.Close()
}

// dial reaches somebody else's cluster, now or later.
func (c *Cluster) dial(complain nats.ErrHandler) (*nats.Conn, error) {
	opts := []nats.Option{
		nats.Name(c.Node), nats.MaxReconnects(-1), nats.ReconnectWait(500 * time.Millisecond), nats.PingInterval(2 * routePing),
		nats.MaxPingsOutstanding(routePings), nats.ErrorHandler(complain), nats.ReconnectBufSize(-1),
		nats.RetryOnFailedConnect(true), nats.IgnoreAuthErrorAbort(),
	}
	if c.Credentials != "" {
		opts = append(opts, nats.UserCredentials(c.Credentials))
	}
	if c.Authority != "" {
		opts = append(opts, nats.RootCAs(c.Authority))
	}
	return nats.Connect(c.URL, opts...)
}

// ClusterStatus is how the nodes are doing, as one of them sees it.
type ClusterStatus struct {
	Name, Node string

	// Leader is the node that puts writes in their order. Empty: this node knows none, and nothing can be written here.
	Leader string

	// Alone says that no majority of nodes can be reached. What is known is served, and nothing is written.
	Alone bool

	// Replicas are the nodes that hold records, lists or mail, as those say that lead them. It is from before when there is no
	// Leader.
	Replicas []Replica

	// Lag is how many writes there are that this node has not read yet.
	Lag uint64
}

// Replica is a node that holds records, lists or mail.
type Replica struct {
	Node    string
	Current bool          // it has all that is acknowledged and that it is to hold, or nearly
	Offline bool          // it cannot be reached
	Lag     uint64        // writes that it does not have yet
	Seen    time.Duration // how long ago it was heard of; zero for a leader
}

// observe keeps asking how the log is doing, until the run ends.
func (r *Registry) observe(n *run) {
	ticker := time.NewTicker(observePause)
	defer ticker.Stop()
	for {
		s, end, err := n.clusterStatus(n.life)
		if n.life.Err() != nil {
			return
		}
		_, _, applied := r.dir.counts()
		if end > applied {
			s.Lag = end - applied
		}
		r.observed(s, err)
		select {
		case <-n.life.Done():
			return
		case <-ticker.C:
		}
	}
}

// observed takes over what is known of the cluster.
func (r *Registry) observed(s ClusterStatus, err error) {
	s.Name, s.Node, s.Alone = r.cfg.Cluster.Name, r.cfg.Cluster.Node, err != nil
	r.mu.Lock()
	before := r.alone
	r.alone = err
	if err != nil {
		s.Replicas = r.cluster.Replicas
	}
	r.cluster = s
	r.mu.Unlock()
	switch {
	case err != nil && before == nil:
		r.cfg.Logger.Warn("registry: no majority of nodes can be reached: nothing is written until it can", "err", err)
	case err == nil && before != nil:
		r.cfg.Logger.Info("registry: a majority of nodes is there again")
	}
}

// clusterStatus asks the leader of the log.
func (e *engine) clusterStatus(ctx context.Context) (s ClusterStatus, end uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, observePause)
	defer cancel()
	stream, err := e.js.Stream(ctx, logStream)
	if err == nil && stream.CachedInfo().Cluster != nil && stream.CachedInfo().Cluster.Leader == "" {
		err = errors.New("the log has no leader")
	}
	if err != nil {
		return s, 0, fmt.Errorf("%w: no majority of nodes: %w", ErrUnavailable, err)
	}
	info := stream.CachedInfo()
	if info.Cluster == nil {
		return s, info.State.LastSeq, nil // a single server of somebody else's
	}
	s.Leader = info.Cluster.Leader
	s.add(info.Cluster)
	if err := e.addOthers(ctx, &s); err != nil {
		// Whoever waits for a node before he takes another away must not be told that it has everything.
		for i := range s.Replicas {
			s.Replicas[i].Current = false
		}
	}
	return s, info.State.LastSeq, nil
}

// addOthers takes in how the nodes are doing that hold lists and mail. Each of these is led by itself.
func (e *engine) addOthers(ctx context.Context, s *ClusterStatus) error {
	names, err := e.streams(ctx)
	if err != nil {
		return err
	}
	for _, name := range names {
		if name == logStream || !isOurs(name) {
			continue
		}
		stream, err := e.js.Stream(ctx, name)
		if err != nil {
			return err
		}
		if c := stream.CachedInfo().Cluster; c != nil {
			s.add(c)
		}
	}
	return nil
}

// isOurs reports whether a stream is one of a registry's.
func isOurs(name string) bool {
	return name == logStream || strings.HasPrefix(name, bucketPrefix) || strings.HasPrefix(name, queuePrefix)
}

// add takes in how the nodes are doing that hold a stream.
func (s *ClusterStatus) add(c *jetstream.ClusterInfo) {
	s.addReplica(Replica{Node: c.Leader, Current: true})
	for _, p := range c.Replicas {
		s.addReplica(Replica{Node: p.Name, Current: p.Current, Offline: p.Offline, Lag: p.Lag, Seen: p.Active})
	}
}

func (s *ClusterStatus) addReplica(r Replica) {
	i := slices.IndexFunc(s.Replicas, func(other Replica) bool { return other.Node == r.Node })
	switch {
	case r.Node == "": // it is being elected
	case i < 0:
		s.Replicas = append(s.Replicas, r)
	default:
		known := &s.Replicas[i]
		known.Current, known.Offline = known.Current && r.Current, known.Offline || r.Offline
		known.Lag += r.Lag
		known.Seen = min(known.Seen, r.Seen)
	}
}

// join waits until the cluster can be written to, and opens the log or makes it. It waits for as long as ctx lasts: other nodes
// may be started much later.
func (r *Registry) join(ctx context.Context, n *run) (end, last uint64, err error) {
	if err := r.checkOrigin(); err != nil && !errors.Is(err, errOrigin) {
		return 0, 0, err
	}
	before := Wait{Reached: -1}
	for {
		if end, last, err = n.tryLog(ctx); err == nil {
			break
		}
		wait := Wait{Origin: errors.Is(err, errOrigin)}
		wait.Reached, wait.Of = n.reached()
		if wait != before {
			r.cfg.Logger.Info("registry: waiting for the other nodes", "reached", wait.Reached, "of", wait.Of, "err", err)
			before = wait
		}
		r.waits(wait)
		if refused := n.refused(); refused != nil {
			return 0, 0, refused
		}
		if wait.Origin {
			if err = r.bringOrigin(ctx, n, wait); err == nil {
				continue
			}
			if errors.Is(err, ErrForeign) || errors.Is(err, ErrArchive) || errors.Is(err, ErrDamaged) {
				return 0, 0, err
			}
		}
		select {
		case <-time.After(readPause):
		case <-r.life.Done():
			return 0, 0, ErrClosed
		case <-ctx.Done():
			return 0, 0, fmt.Errorf("%w: no majority of nodes: %w: %w", ErrUnavailable, context.Cause(ctx), err)
		}
	}
	r.forgetOrigin()
	n.wg.Go(func() { n.raiseReplicas(n.life) }) // nobody waits for that
	return end, last, nil
}

// waits tells what the node waits for.
func (r *Registry) waits(w Wait) {
	if r.cfg.Cluster.Waiting != nil {
		r.cfg.Cluster.Waiting(w)
	}
}

// reached counts the nodes that are connected to this one, itself included, and those that should be.
func (e *engine) reached() (nodes, of int) {
	if e.server == nil {
		return 0, 0
	}
	others := map[string]bool{}
	if routes, err := e.server.Routez(nil); err == nil {
		for _, route := range routes.Routes {
			others[route.RemoteID] = true
		}
	}
	delete(others, e.server.ID())
	return 1 + len(others), max(len(e.cluster.Peers), 1+len(others))
}

// refused says that somebody else's cluster does not let this node in: waiting would not help.
func (e *engine) refused() error {
	if e.server != nil {
		return nil
	}
	err := e.conn.LastError()
	if errors.Is(err, nats.ErrAuthorization) {
		return errors.New("registry: the NATS cluster refuses the credentials")
	}
	if untrusted, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return fmt.Errorf("registry: the NATS cluster is not trusted: %w", untrusted)
	}
	return nil
}

// tryLog is ensureLog for a cluster that is being formed, which answers at once or not at all.
func (e *engine) tryLog(ctx context.Context) (end, last uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, joinAttempt)
	defer cancel()
	return e.ensureLog(ctx)
}

// raiseReplicas puts what was made for fewer nodes on as many as are asked for. It is no failure that there are not so many.
func (e *engine) raiseReplicas(ctx context.Context) {
	names, err := e.streams(ctx)
	for _, name := range names {
		err = errors.Join(err, e.raise(ctx, name))
	}
	if err != nil {
		e.logger.Warn("registry: not everything is on as many nodes as it should be", "replicas", e.replicas, "err", err)
	}
}

func (e *engine) raise(ctx context.Context, name string) error {
	ctx, cancel := e.guard(ctx)
	defer cancel()
	s, err := e.js.Stream(ctx, name)
	if err != nil {
		return e.failure(ctx, "describe "+name, err)
	}
	config := s.CachedInfo().Config
	if !isOurs(name) || config.Replicas >= e.replicas {
		return nil
	}
	config.Replicas = e.replicas
	if strings.HasPrefix(name, queuePrefix) {
		config.AllowDirect = readsDirectly(e.replicas)
	}
	if _, err := e.js.UpdateStream(ctx, config); err != nil {
		return e.failure(ctx, "put "+name+" on more nodes", err)
	}
	return nil
}

// fetch brings the directory up to the end of the log, as its leader knows it: what another node has written, or a write of
// our own that was given up as lost.
func (r *Registry) fetch(n *run) error {
	end, last, err := n.ensureLog(n.life)
	if err != nil {
		return err
	}
	for range fetchMax {
		applied, _ := r.dir.position()
		if r.dir.last() >= last {
			break
		}
		m, err := n.nextInLog(n.life, applied+1)
		if err == nil {
			err = r.applyMessage(m)
		}
		if err != nil {
			return err
		}
	}
	if r.dir.last() == last {
		r.dir.skip(end) // sequences that no message has
	}
	return nil
}

// nextInLog reads the first message of the log from a sequence on.
func (e *engine) nextInLog(ctx context.Context, sequence uint64) (message, error) {
	ctx, cancel := e.guard(ctx)
	defer cancel()
	s, err := e.js.Stream(ctx, logStream)
	if err != nil {
		return message{}, e.failure(ctx, "read", err)
	}
	m, err := s.GetMsg(ctx, sequence, jetstream.WithGetMsgSubject(logSubject))
	if err != nil {
		return message{}, e.failure(ctx, "read", err)
	}
	return message{subject: m.Subject, header: m.Header, data: m.Data, sequence: m.Sequence}, nil
}

// RemoveNode takes a node out of the cluster that is stopped for good: it does not count for the majority any more, and another
// node gets what it held, if there is one that does not hold that yet. A node that is removed by mistake, or is to be one again,
// needs an empty folder. Its error is ErrNotFound if there is no such node, ErrConflict if it is running, or why it cannot be done
// now.
func (r *Registry) RemoveNode(ctx context.Context, node string) error {
	n, err := r.engine()
	if err != nil {
		return err
	}
	switch {
	case n.cluster == nil:
		return errors.New("registry: this hub is alone, it is no node of a cluster")
	case n.server == nil:
		return errors.New("registry: nodes that use a NATS cluster need only be stopped")
	}
	ctx, cancel := n.guard(ctx)
	defer cancel()
	if node == n.cluster.Node || n.isConnected(node) {
		return fmt.Errorf("%w: node %s is running", ErrConflict, node)
	}
	conn, err := nats.Connect("", nats.InProcessServer(n.server), n.asOperator(), nats.NoReconnect())
	if err != nil {
		return n.failure(ctx, "remove node "+node, err)
	}
	defer conn.Close()
	m, err := conn.RequestWithContext(ctx, server.JSApiRemoveServer, fmt.Appendf(nil, `{"peer_id":%q}`, peerID(node)))
	var answer struct {
		Success bool                `json:"success"`
		Error   *jetstream.APIError `json:"error"`
	}
	if err == nil {
		err = json.Unmarshal(m.Data, &answer)
	}
	switch {
	case err != nil:
		return n.failure(ctx, "remove node "+node, err)
	case answer.Error != nil && answer.Error.ErrorCode == errNotMember:
		return fmt.Errorf("%w: no node is called %s", ErrNotFound, node)
	case answer.Error != nil:
		return n.failure(ctx, "remove node "+node, answer.Error)
	case !answer.Success:
		return n.failure(ctx, "remove node "+node, errors.New("the engine does not do it"))
	}
	return nil
}

// asOperator logs in to this node's engine as the user who may remove nodes.
func (e *engine) asOperator() nats.Option {
	return func(o *nats.Options) error {
		key, err := e.operator.PublicKey()
		o.Nkey, o.SignatureCB = key, e.operator.Sign
		return err
	}
}

// errNotMember is how the engine says that there is no such node.
const errNotMember = 10044

// isConnected reports whether there is a connection to another node.
func (e *engine) isConnected(node string) bool {
	routes, err := e.server.Routez(nil)
	return err == nil && slices.ContainsFunc(routes.Routes, func(route *server.RouteInfo) bool { return route.RemoteName == node })
}

// peerID is what the engine calls a node among those that vote.
func peerID(node string) string {
	const digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	sum := sha256.Sum256([]byte(node))
	id := sum[:8]
	for i, b := range id {
		id[i] = digits[int(b)%len(digits)]
	}
	return string(id)
}

// Conn gives the connection over which nodes talk to each other, with a channel that is closed when there is another one. It
// is nil while the engine is down, and always without a cluster.
func (r *Registry) Conn() (*nats.Conn, <-chan struct{}) {
	n, changed := r.current()
	if n == nil || r.cfg.Cluster == nil {
		return nil, changed
	}
	return n.conn, changed
}

// store is the folder that the engine of this registry has.
func (c Config) store() string {
	if c.Cluster != nil {
		return filepath.Join(c.Dir, clusterFolder)
	}
	return c.Dir
}
