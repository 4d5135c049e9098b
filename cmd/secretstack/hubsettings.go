package main

import (
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
	"github.com/spf13/pflag"

	"github.com/secretstack/secretstack/hub"
	"github.com/secretstack/secretstack/hub/admission"
	"github.com/secretstack/secretstack/hub/vhost"
	"github.com/secretstack/secretstack/multiserver"
)

// hubSettings are the flags of the hub and, under the same names, what its configuration file says.
type hubSettings struct {
	Port       uint16   `toml:"port"`
	Address    string   `toml:"address"`
	Listen     []string `toml:"listen"`
	Domain     string   `toml:"domain"`
	Name       string   `toml:"name"`
	Secure     bool     `toml:"secure"`
	PublicPort uint16   `toml:"public-port"`

	Landing       string `toml:"landing"`
	MaxSockets    int    `toml:"max-sockets"`
	Code          string `toml:"code"`
	TunnelPorts   string `toml:"tunnel-ports"`
	TunnelAddress string `toml:"tunnel-address"`
	TunnelHost    string `toml:"tunnel-host"`

	TLS           bool     `toml:"tls"`
	Email         string   `toml:"email"`
	DNS           []string `toml:"dns"`
	ACMEDirectory string   `toml:"acme-directory"`
	ACMEKeyID     string   `toml:"acme-key-id"`
	ACMEMACKey    string   `toml:"acme-mac-key"`
	Cert          string   `toml:"cert"`
	Key           string   `toml:"key"`

	TrustedProxies     []string `toml:"trusted-proxy"`
	RequireProxyHeader bool     `toml:"require-proxy-header"`

	Admission string   `toml:"admission"`
	Rules     []string `toml:"rule"`
	Admin     string   `toml:"admin"`

	Cluster           string   `toml:"cluster"`
	Join              []string `toml:"join"`
	Node              string   `toml:"node"`
	Credential        string   `toml:"credential"`
	Advertise         string   `toml:"advertise"`
	AdvertiseLinks    string   `toml:"advertise-links"`
	AdvertiseCouriers string   `toml:"advertise-couriers"`
	ListenNodes       string   `toml:"listen-nodes"`
	ListenLinks       string   `toml:"listen-links"`
	Replicas          int      `toml:"replicas"`
	NATSURL           string   `toml:"nats-url"`
	NATSCredentials   string   `toml:"nats-credentials"`
	NATSCA            string   `toml:"nats-ca"`

	Drain      duration `toml:"drain"`
	DrainTo    string   `toml:"drain-to"`
	DrainPause duration `toml:"drain-pause"`

	LogJSON bool           `toml:"log-json"`
	Limits  map[string]any `toml:"limits"`
}

func defaultHubSettings() hubSettings {
	return hubSettings{Port: hub.DefaultPort, MaxSockets: 4, Admission: string(admission.ModeOpen), Drain: duration(10 * time.Second)}
}

// flags adds the settings to a set of flags. Those of the Secrez hub keep their letters.
func (s *hubSettings) flags(flags *pflag.FlagSet) {
	flags.Uint16VarP(&s.Port, "port", "p", s.Port, "port to listen on (0: a free one)")
	flags.StringVarP(&s.Address, "address", "a", s.Address, "address to listen on (default: all)")
	flags.StringArrayVar(&s.Listen, "listen", s.Listen, "another address and port to listen on, such as :80; may be repeated")
	flags.StringVarP(&s.Domain, "domain", "d", s.Domain, "name by which the internet reaches this hub; couriers are at ID.DOMAIN")
	flags.StringVar(&s.Name, "name", s.Name, "name that the hub gives itself (default: its domain)")
	flags.BoolVarP(&s.Secure, "secure", "s", s.Secure, "URLs begin with https, because a proxy in front of the hub ends TLS")
	flags.Uint16Var(&s.PublicPort, "public-port", s.PublicPort, "port in URLs (default: the port, or that of the proxy's scheme)")

	flags.StringVarP(&s.Landing, "landing", "l", s.Landing, "address to which browsers are led that come to the hub itself")
	flags.IntVarP(&s.MaxSockets, "max-sockets", "m", s.MaxSockets, "tunnel sockets that each courier of Secrez may have")
	flags.StringVarP(&s.Code, "code", "c", s.Code, "code that opens the counts of the v1 API (default: nobody gets them)")
	flags.StringVar(&s.TunnelPorts, "tunnel-ports", s.TunnelPorts, "ports for tunnel sockets, such as 40000-40999 (default: any)")
	flags.StringVar(&s.TunnelAddress, "tunnel-address", s.TunnelAddress, "address for tunnel sockets (default: all)")
	flags.StringVar(&s.TunnelHost, "tunnel-host", s.TunnelHost, "host at which couriers find their tunnel ports (default: the hub's)")

	flags.BoolVar(&s.TLS, "tls", s.TLS, "get certificates for the domain, and renew them; you agree to the authority's terms")
	flags.StringVar(&s.Email, "email", s.Email, "your address, for the certificate authority")
	flags.StringArrayVar(&s.DNS, "dns", s.DNS, "address and port where the hub answers for _acme-challenge.DOMAIN, for *.DOMAIN; may be repeated")
	flags.StringVar(&s.ACMEDirectory, "acme-directory", s.ACMEDirectory, "certificate authority (default: Let's Encrypt)")
	flags.StringVar(&s.Cert, "cert", s.Cert, "file with a certificate, instead of --tls")
	flags.StringVar(&s.Key, "key", s.Key, "file with its private key")

	flags.StringArrayVar(&s.TrustedProxies, "trusted-proxy", s.TrustedProxies, "address or network of a proxy in front of the hub that says who visitors are; may be repeated")
	flags.BoolVar(&s.RequireProxyHeader, "require-proxy-header", s.RequireProxyHeader, "refuse connections of these proxies without a PROXY header")

	flags.StringVar(&s.Admission, "admission", s.Admission, "who may publish: open (everybody), invite, closed (those allowed; visit, too)")
	flags.StringArrayVar(&s.Rules, "rule", s.Rules, "rule such as 'deny 192.0.2.0/24' or 'allow KEY'; may be repeated")
	flags.StringVar(&s.Admin, "admin", s.Admin, "address of the admin listener, such as "+defaultAdmin+" (default: none)")

	flags.StringVar(&s.Cluster, "cluster", s.Cluster, "name of the cluster of which this hub is a node (default: it is alone)")
	flags.StringSliceVar(&s.Join, "join", s.Join, "addresses of all nodes of the cluster, the same on each, such as hub-1,hub-2,hub-3")
	flags.StringVar(&s.Node, "node", s.Node, "name of this node (default: that of the machine)")
	flags.StringVar(&s.Credential, "credential", s.Credential, "file that makes this machine a node (default: \"cluster\" in --root)")
	flags.StringVar(&s.Advertise, "advertise", s.Advertise, "address at which other nodes find this one (default: that of --join which is this machine's)")
	flags.StringVar(&s.AdvertiseLinks, "advertise-links", s.AdvertiseLinks, "the same for what nodes carry for couriers (default: the port after that)")
	flags.StringVar(&s.AdvertiseCouriers, "advertise-couriers", s.AdvertiseCouriers, "address at which couriers find this node and no other: those of a node that drains go there")
	flags.StringVar(&s.ListenNodes, "listen-nodes", s.ListenNodes, "address to listen on for other nodes (default: that of --advertise; all if it is a name)")
	flags.StringVar(&s.ListenLinks, "listen-links", s.ListenLinks, "the same for what nodes carry for couriers (default: the port after that)")
	flags.IntVar(&s.Replicas, "replicas", s.Replicas, "how many nodes hold everything: 1, 3 or 5 (default: 3; 1 if there are fewer nodes)")
	flags.StringVar(&s.NATSURL, "nats-url", s.NATSURL, "NATS cluster of your own to be used in place of --join, such as tls://nats-1:4222,tls://nats-2:4222")
	flags.StringVar(&s.NATSCredentials, "nats-credentials", s.NATSCredentials, "file to log in there with")
	flags.StringVar(&s.NATSCA, "nats-ca", s.NATSCA, "file with the certificate of the authority of that cluster (default: those of the system)")

	flags.Var(&s.Drain, "drain", "how long what runs may take to finish when the hub ends")
	flags.StringVar(&s.DrainTo, "drain-to", s.DrainTo, "address of another process of this hub to which couriers go when it ends")
	flags.BoolVar(&s.LogJSON, "log-json", s.LogJSON, "log in JSON")
}

// readHubSettings reads a configuration file, over which the flags go that were given; without a path there are only these.
func readHubSettings(path string, given *pflag.FlagSet) (hubSettings, error) {
	s := defaultHubSettings()
	if path != "" {
		if err := s.read(path); err != nil {
			return s, err
		}
	}
	over := pflag.NewFlagSet("", pflag.ContinueOnError)
	s.flags(over)
	var err error
	given.Visit(func(f *pflag.Flag) {
		to := over.Lookup(f.Name)
		if to == nil {
			return // a flag of every command
		}
		if from, ok := f.Value.(pflag.SliceValue); ok {
			err = errors.Join(err, to.Value.(pflag.SliceValue).Replace(from.GetSlice()))
			return
		}
		err = errors.Join(err, to.Value.Set(f.Value.String()))
	})
	return s, err
}

// read reads a configuration file. What it does not know, it refuses.
func (s *hubSettings) read(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return usagef("--config: there is no file %s", path)
	}
	if err != nil {
		return usagef("--config: %w", err)
	}
	defer func() { _ = f.Close() }()
	err = toml.NewDecoder(f).DisallowUnknownFields().Decode(s)
	if missing, ok := errors.AsType[*toml.StrictMissingError](err); ok && len(missing.Errors) > 0 {
		row, _ := missing.Errors[0].Position()
		return usagef("--config: %s:%d: there is no setting %q", path, row, strings.Join(missing.Errors[0].Key(), "."))
	}
	if wrong, ok := errors.AsType[*toml.DecodeError](err); ok {
		row, _ := wrong.Position()
		return usagef("--config: %s:%d: %s", path, row, strings.TrimPrefix(wrong.Error(), "toml: "))
	}
	if err != nil {
		return usagef("--config: %s: %w", path, err)
	}
	return nil
}

// config is what the hub makes of the settings, certificates aside.
func (s *hubSettings) config() (cfg hub.Config, err error) {
	if err := checkDomain(s.Domain); err != nil {
		return cfg, err
	}
	if _, _, err := net.SplitHostPort(s.Admin); s.Admin != "" && err != nil {
		return cfg, usagef("--admin takes an address such as %s, not %q", defaultAdmin, s.Admin)
	}
	cfg = hub.Config{
		Version: version, Name: s.Name, Domain: s.Domain, Secure: s.Secure, PublicPort: s.PublicPort,
		Listen:  append([]string{net.JoinHostPort(s.Address, strconv.Itoa(int(s.Port)))}, s.Listen...),
		Landing: s.Landing, MaxSockets: s.MaxSockets, Code: s.Code, TunnelAddress: s.TunnelAddress, TunnelHost: s.TunnelHost,
		RequireProxyHeader: s.RequireProxyHeader, Mode: admission.Mode(s.Admission),
		DrainTo: s.DrainTo, DrainPause: time.Duration(s.DrainPause),
	}
	if s.MaxSockets < 1 {
		return cfg, usagef("--max-sockets must be at least 1")
	}
	if cfg.TunnelPorts, err = vhost.ParsePortRange(s.TunnelPorts); err != nil {
		return cfg, usagef("--tunnel-ports takes ports such as 40000-40999, not %q", s.TunnelPorts)
	}
	for _, text := range s.TrustedProxies {
		network, err := parseNetwork(text)
		if err != nil {
			return cfg, usagef("--trusted-proxy takes an address or a network such as 10.0.0.0/8, not %q", text)
		}
		cfg.TrustedProxies = append(cfg.TrustedProxies, network)
	}
	if _, err := admission.ParseMode(s.Admission); err != nil {
		return cfg, usagef("--admission takes open, invite or closed, not %q", s.Admission)
	}
	for _, text := range s.Rules {
		rule, err := admission.ParseRule(text)
		if err != nil {
			return cfg, usagef("--rule %q: %s", text, plain(err))
		}
		cfg.Rules = append(cfg.Rules, rule)
	}
	if s.DrainTo != "" {
		if _, err := multiserver.Parse(s.DrainTo); err != nil {
			return cfg, usagef("--drain-to: %s", plain(err))
		}
	}
	return cfg, setLimits(&cfg.Limits, s.Limits)
}

// parseNetwork reads a network, or an address as the network of itself.
func parseNetwork(text string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(text); err == nil {
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	network, err := netip.ParsePrefix(text)
	return network.Masked(), err
}

// logger writes to the error stream. A terminal shows what is wrong; a journal shows what happens, too.
func (s *hubSettings) logger(g *globals) *slog.Logger {
	level := slog.LevelInfo
	switch {
	case g.verbose:
		level = slog.LevelDebug
	case isTerminal(g.err):
		level = slog.LevelWarn
	}
	opts := &slog.HandlerOptions{Level: level}
	if s.LogJSON {
		return slog.New(slog.NewJSONHandler(g.err, opts))
	}
	return slog.New(slog.NewTextHandler(g.err, opts))
}
