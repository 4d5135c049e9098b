package main

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/secretstack/secretstack/hub"
	"github.com/secretstack/secretstack/hub/cluster/credential"
	"github.com/secretstack/secretstack/hub/registry"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/multiserver"
	"github.com/secretstack/secretstack/muxrpc"
)

const (
	nodePort      = 8435            // of a node's engine; the next one is for its links
	lookupTimeout = 2 * time.Second // for the name of a node
	longestNode   = 63
)

// credentialFile is where a node has its credential unless it is told another place.
func (g *globals) credentialFile() string { return filepath.Join(g.root, "cluster") }

// cluster is what makes the hub a node. Nil: it is alone.
func (s *hubSettings) cluster(ctx context.Context, g *globals) (*hub.Cluster, error) {
	if s.Cluster == "" {
		return nil, s.withoutCluster()
	}
	c := &hub.Cluster{Replicas: s.Replicas, URL: s.NATSURL, URLCredentials: s.NATSCredentials, URLAuthority: s.NATSCA}
	var err error
	if c.Credential, err = s.credential(g); err != nil {
		return nil, err
	}
	if c.Name, err = s.nodeName(g); err != nil {
		return nil, err
	}
	if err := s.checkNATS(); err != nil {
		return nil, err
	}
	if c.Peers, err = s.peers(); err != nil {
		return nil, err
	}
	if err := s.place(ctx, c); err != nil {
		return nil, err
	}
	if c.URL == "" && !slices.Contains(c.Peers, c.Advertise) {
		c.Peers = append(c.Peers, c.Advertise)
	}
	if c.Replicas == 0 && c.URL == "" && len(c.Peers) < 3 {
		c.Replicas = 1
	}
	if c.Replicas != 0 && c.Replicas != 1 && c.Replicas != 3 && c.Replicas != 5 {
		return nil, usagef("--replicas takes 1, 3 or 5, not %d", c.Replicas)
	}
	if c.URL == "" && len(c.Peers) < 2 { // its engine would wait for another for ever
		return nil, usagef("--join names no node but this one: a cluster has at least two, and three to go on when one is away")
	}
	return c, nil
}

// peers are the addresses of all nodes, as they are given. There are none where others run the NATS cluster.
func (s *hubSettings) peers() (all []string, err error) {
	switch {
	case s.NATSURL != "" && len(s.Join) > 0:
		return nil, usagef("--join is for nodes that form a cluster by themselves: leave it out with --nats-url")
	case s.NATSURL == "" && len(s.Join) == 0:
		return nil, usagef("--cluster needs --join with the addresses of all nodes, such as hub-1:%[1]d,hub-2:%[1]d,hub-3:%[1]d", nodePort)
	}
	for _, text := range s.Join {
		peer, err := nodeAddress(text)
		if err != nil {
			return nil, usagef("--join takes addresses of nodes such as hub-1:%d, not %q", nodePort, text)
		}
		all = append(all, peer)
	}
	return all, nil
}

// checkNATS sees that the files for a NATS cluster of somebody else's can be used: connecting would try again for ever.
func (s *hubSettings) checkNATS() error {
	if s.NATSURL == "" && (s.NATSCA != "" || s.NATSCredentials != "") {
		return usagef("--nats-ca and --nats-credentials are for --nats-url")
	}
	if s.NATSCredentials != "" {
		if _, err := os.ReadFile(s.NATSCredentials); err != nil {
			return usagef("--nats-credentials: %w", err)
		}
	}
	if s.NATSCA == "" {
		return nil
	}
	text, err := os.ReadFile(s.NATSCA)
	if err != nil {
		return usagef("--nats-ca: %w", err)
	}
	if !x509.NewCertPool().AppendCertsFromPEM(text) {
		return usagef("--nats-ca: there is no certificate in %s", s.NATSCA)
	}
	return nil
}

// nodeSettings are those that are for nodes alone, by their names, as they are written.
func (s *hubSettings) nodeSettings() map[string]string {
	all := pflag.NewFlagSet("", pflag.ContinueOnError)
	s.flags(all)
	written := map[string]string{}
	for _, name := range []string{
		"cluster", "join", "node", "credential", "advertise", "advertise-links", "advertise-couriers", "listen-nodes",
		"listen-links", "replicas", "nats-url", "nats-credentials", "nats-ca",
	} {
		written[name] = all.Lookup(name).Value.String()
	}
	return written
}

// withoutCluster refuses what is for nodes alone.
func (s *hubSettings) withoutCluster() error {
	none := hubSettings{}
	for name := range differing(s.nodeSettings(), none.nodeSettings()) {
		return usagef("--%s is for a node of a cluster: name that with --cluster", name)
	}
	return nil
}

// differing names what is written otherwise in another place, in order.
func differing(a, b map[string]string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, name := range slices.Sorted(maps.Keys(a)) {
			if a[name] != b[name] && !yield(name) {
				return
			}
		}
	}
}

// credential loads what makes this machine a node.
func (s *hubSettings) credential(g *globals) (*credential.Credential, error) {
	file := cmp.Or(s.Credential, g.credentialFile())
	c, err := credential.Load(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("there is no credential %s: copy it from another node, or make the cluster's first with: secretstack hub cluster init %s",
			file, s.Cluster)
	case err != nil:
		return nil, err
	case c.Name() != s.Cluster:
		return nil, usagef("--cluster: %s is the credential of cluster %q, not of %q", file, c.Name(), s.Cluster)
	}
	return c, nil
}

// nodeName is what somebody has chosen, what the node was called before, or the name of the machine.
func (s *hubSettings) nodeName(g *globals) (string, error) {
	before, err := hub.NodeName(g.hubDir())
	switch {
	case err != nil:
		return "", err
	case s.Node != "" && before != "" && s.Node != before:
		return "", usagef("--node: the data in %s are those of node %q: start that, or another one with an empty folder", g.hubDir(), before)
	case s.Node != "" || before != "":
		name := cmp.Or(s.Node, before)
		if name != nodeNameOf(name) {
			return "", usagef("--node takes 1 to %d of a to z, 0 to 9 and \"-\", not %q", longestNode, name)
		}
		return name, nil
	}
	host, err := os.Hostname()
	if name := nodeNameOf(host); err == nil && name != "" {
		return name, nil
	}
	return "", usagef("this machine has no name that a node could have: choose one with --node")
}

// nodeNameOf makes a node's name of a host's.
func nodeNameOf(host string) string {
	label, _, _ := strings.Cut(strings.ToLower(host), ".")
	name := strings.Map(func(r rune) rune {
		if 'a' <= r && r <= 'z' || '0' <= r && r <= '9' {
			return r
		}
		return '-'
	}, label)
	return name[:min(len(name), longestNode)]
}

// couriersAddress is how couriers write an address of the hub with a key: that of a host, with a port or without, or one in their
// own words, such as "wss://hub-1.example.org".
func couriersAddress(text string, hubKey keys.PublicKey) (string, error) {
	if place, err := withPort(text, hub.DefaultPort); err == nil {
		text = "net:" + place
	}
	_, err := multiserver.Parse(text + "~shs:" + hubKey.Base64())
	return text, err
}

// nodeAddress adds the usual port to a host, if none is given.
func nodeAddress(text string) (string, error) { return withPort(text, nodePort) }

// withPort adds a port to a host, if none is given.
func withPort(text string, usual int) (string, error) {
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		host, port = strings.Trim(text, "[]"), strconv.Itoa(usual)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || host == "" || strings.ContainsAny(host, " /@") {
		return "", fmt.Errorf("%q is no address", text)
	}
	if strings.Contains(host, ":") && net.ParseIP(host) == nil {
		return "", fmt.Errorf("%q is no address", text)
	}
	return net.JoinHostPort(host, port), nil
}

// place says where a node listens, and where others find it.
func (s *hubSettings) place(ctx context.Context, c *hub.Cluster) (err error) {
	for flag, address := range map[string]string{
		"advertise-links": s.AdvertiseLinks, "listen-nodes": s.ListenNodes, "listen-links": s.ListenLinks,
	} {
		if _, _, err := net.SplitHostPort(address); address != "" && err != nil {
			return usagef("--%s takes an address such as 192.0.2.1:%d, not %q", flag, nodePort, address)
		}
	}
	if s.Advertise == "" {
		c.Advertise, err = ownAddress(ctx, c.Name, c.Peers)
	} else if c.Advertise, err = nodeAddress(s.Advertise); err != nil {
		err = usagef("--advertise takes an address such as hub-1:%d, not %q", nodePort, s.Advertise)
	}
	if err != nil {
		return err
	}
	next, err := nextPort(c.Advertise)
	if err != nil {
		return err
	}
	c.AdvertiseLinks = cmp.Or(s.AdvertiseLinks, next)
	if s.AdvertiseCouriers != "" {
		if c.Public, err = couriersAddress(s.AdvertiseCouriers, c.Credential.Identity().Public()); err != nil {
			return usagef("--advertise-couriers takes an address such as hub-1.example.org:%d, not %q", hub.DefaultPort, s.AdvertiseCouriers)
		}
	}
	c.Listen = cmp.Or(s.ListenNodes, listenAt(c.Advertise))
	if next, err = nextPort(c.Listen); err != nil {
		return err
	}
	c.Links = cmp.Or(s.ListenLinks, next)
	return nil
}

func nextPort(address string) (string, error) {
	host, port, err := net.SplitHostPort(address)
	n, wrong := strconv.ParseUint(port, 10, 16)
	if err != nil || wrong != nil || n == 65535 {
		return "", usagef("%q is no address of a node such as 192.0.2.1:%d, with a free port after it", address, nodePort)
	}
	return net.JoinHostPort(host, strconv.FormatUint(n+1, 10)), nil
}

// listenAt is the address itself, or its port on all addresses if it is a name: what it means may not be known yet.
func listenAt(address string) string {
	host, port, _ := net.SplitHostPort(address)
	if net.ParseIP(host) == nil {
		host = ""
	}
	return net.JoinHostPort(host, port)
}

// ownAddress finds this node among all: by its name, or by the addresses of this machine.
func ownAddress(ctx context.Context, name string, peers []string) (string, error) {
	var own []string
	for _, peer := range peers {
		if host, _, _ := net.SplitHostPort(peer); net.ParseIP(host) == nil && nodeNameOf(host) == name {
			own = append(own, peer)
		}
	}
	if len(own) == 0 {
		here := interfaceAddresses()
		for _, peer := range peers {
			host, _, _ := net.SplitHostPort(peer)
			if slices.ContainsFunc(addressesOf(ctx, host), func(a netip.Addr) bool { return a.IsLoopback() || slices.Contains(here, a) }) {
				own = append(own, peer)
			}
		}
	}
	switch len(own) {
	case 0:
		return "", usagef("no address of --join is that of this machine, node %q: say with --advertise where the other nodes find it", name)
	case 1:
		return own[0], nil
	}
	return "", usagef("%s are all addresses of this machine: say with --advertise which is that of node %q", strings.Join(own, " and "), name)
}

func interfaceAddresses() (list []netip.Addr) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	for _, a := range all {
		if network, err := netip.ParsePrefix(a.String()); err == nil {
			list = append(list, network.Addr())
		}
	}
	return list
}

func addressesOf(ctx context.Context, host string) []netip.Addr {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a.Unmap()}
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	list, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil // another node may not have been started yet
	}
	for i := range list {
		list[i] = list[i].Unmap()
	}
	return list
}

func newHubCluster(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cluster",
		Short: "make several machines one hub",
		Args:  argsBetween(0, 0, "no arguments but a command"),
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newHubClusterInit(g), newHubClusterRemove(g))
	return cmd
}

func newHubClusterInit(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "init NAME",
		Short: "make the credential of a new cluster",
		Long: `init makes the file "cluster" in --root: the credential that every node of the cluster needs a copy of. It holds the cluster's
secret and the hub's identity, which is that of the hub with this --root if there is one. Whoever has the file is the hub.

With the data of a hub in --root, which must be stopped, the cluster begins with all that it holds: ids, lists, invites and mail.
This machine brings it when it is started as a node, and the others wait for that.`,
		Example: "  secretstack hub cluster init eu",
		Args:    argsBetween(1, 1, "the name of the cluster"),
		RunE:    func(cmd *cobra.Command, args []string) error { return initCluster(cmd.Context(), g, args[0]) },
	}
}

func newHubClusterRemove(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "remove NODE",
		Short: "take a node out of the cluster that is stopped for good",
		Long: `remove asks the node that runs on this machine with the same --root to take another one out of the cluster, which must be stopped: it
does not count for the majority any more, and another node gets what it held. It knows the cluster's secret still. To start it again,
empty its folder.`,
		Example: "  secretstack hub cluster remove hub-3",
		Args:    argsBetween(1, 1, "the name of the node"),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, err := ask[muxrpc.None](cmd.Context(), g, "removeNode", args[0])
			return err
		},
	}
}

func initCluster(ctx context.Context, g *globals, name string) error {
	file := g.credentialFile()
	taken := fmt.Errorf("%s is there already and is not replaced: it may be that of a cluster", file)
	if _, err := os.Lstat(file); err == nil {
		return taken // before anything is changed
	}
	base, err := g.config(ctx, g.hubDir())
	if err != nil {
		return err
	}
	c, err := credential.New(name, base.Identity)
	if err != nil {
		return usagef("%s", plain(err))
	}
	origin, archive, made, err := hub.MakeOrigin(ctx, g.hubDir(), base.Identity)
	switch {
	case errors.Is(err, registry.ErrLocked):
		return fmt.Errorf("the hub with this --root is running: stop it first, so that the cluster begins with all that it holds: %w", err)
	case err != nil:
		return explainHub(err)
	case made:
		c.BeginsWith(origin)
	}
	if err := c.Save(file); errors.Is(err, fs.ErrExist) {
		return taken
	} else if err != nil {
		return err
	}
	if full, err := filepath.Abs(file); err == nil {
		file = full
	}
	if g.json {
		answer := map[string]any{"file": file, "cluster": name, "id": c.Identity().Public().Ref()}
		if made {
			answer["records"] = archive.Records
		}
		return g.printJSON(answer)
	}
	fmt.Fprintf(g.out, `%[1]s is the credential of cluster %[2]q, of the hub with the key
%[3]s. Whoever has it is the hub.

Copy it to the same place on each of the other nodes, readable by the hub's user alone:

  scp -p %[1]s HOST-2:%[1]s

and start the same on every node, with the addresses of all (the port is %[4]d where none is given, the one after it is used, too):

  secretstack hub --cluster %[2]s --join HOST-1,HOST-2,HOST-3
`, file, name, c.Identity().Public().String(), nodePort)
	if made {
		fmt.Fprintf(g.out, `
The cluster begins with what the hub here holds, %s among it: start a node here, for which the others wait. The hub does not run
alone here any more; to go back to that, remove %s and
%s.
`, counted(archive.Records, "id"), filepath.Join(g.hubDir(), "registry", "origin"), file)
	}
	return nil
}
