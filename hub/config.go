package hub

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/secretstack/secretstack/hub/admission"
	"github.com/secretstack/secretstack/hub/cert"
	"github.com/secretstack/secretstack/hub/circuits"
	"github.com/secretstack/secretstack/hub/mailbox"
	"github.com/secretstack/secretstack/hub/registry"
	"github.com/secretstack/secretstack/hub/vhost"
	"github.com/secretstack/secretstack/internal/netaddr"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/muxrpc"
)

// DefaultPort is the port where people expect a hub.
const DefaultPort = 8433

// ErrConfig says that a configuration is not usable. The text says what is wrong with which field.
var ErrConfig = errors.New("hub: the configuration is not usable")

// Config says what a hub is called, where it is, and who may use it. Dir is needed. [Hub.Reload] can change the fields that
// say so while the hub runs.
type Config struct {
	// Dir is the data folder: the hub's identity, its registry and its lists. One process has it at a time.
	Dir string
	// Identity is the hub's key pair. Nil: that in the file "secret" in Dir, made when missing.
	Identity *keys.Identity
	// AppKey is the network whose peers can connect. Zero: the main network.
	AppKey keys.AppKey
	// Name is what the hub calls itself. Empty: Domain. Version is told to peers and to Secrez's programs. Empty: none.
	Name    string
	Version string

	// Listen are the addresses that New opens and Serve serves, such as ":8433" or "192.0.2.1:443". Empty: none; then
	// Serve is given listeners, or the hub is mounted in somebody else's HTTP server.
	Listen []string
	// Listeners are those of Listen, which [Listen] has opened before there was anything else. New owns them, whatever it
	// returns. Nil: New opens them.
	Listeners []net.Listener
	// Domain is the name by which the internet reaches the hub; couriers' HTTP is at <id>.<Domain>. Empty: the hub is reached
	// by its address, and couriers' HTTP at <id>.localhost, from this machine only.
	Domain string
	// Secure says that URLs begin with https although the hub does not speak TLS itself, because a proxy in front of it does.
	Secure bool
	// PublicPort is the port in URLs. Zero: the port that the hub listens on; with Secure and without TLS, the usual one.
	PublicPort uint16
	// TLS ends TLS on the hub's port, beside what comes in the clear. Nil: that of Certificates, without which TLS is refused.
	TLS *tls.Config
	// Certificates are told about in the hub's status, and loaded again by Reload. The caller closes them after the hub. Nil:
	// there are none to tell about.
	Certificates Certificates

	// TrustedProxies are the networks of the proxies in front of the hub whose PROXY headers, X-Forwarded-For and
	// X-Forwarded-Proto are believed. RequireProxyHeader refuses their connections that do not begin with a PROXY header: it must
	// be set when they hand on their clients' bytes without looking into them.
	TrustedProxies     []netip.Prefix
	RequireProxyHeader bool

	// Landing is where a browser that comes to the hub itself is led. Empty: to the welcome document.
	Landing string
	// Code opens the counts of the v1 API, for whoever has it. Empty: nobody gets them.
	Code string
	// TunnelPorts are the ports for the raw tunnel sockets of Secrez's couriers, TunnelAddress where they are opened, and
	// MaxSockets how many sockets each courier may have. Zero: the system chooses ports; all addresses; 4.
	TunnelPorts   vhost.PortRange
	TunnelAddress string
	MaxSockets    int
	// TunnelHost is where these couriers find the ports, if not where they have found the v1 API. Empty: there.
	TunnelHost string

	// Mode is who may visit and publish. Zero: everybody. Rules are added to those that an operator has stored. Reload
	// changes both.
	Mode  admission.Mode
	Rules []admission.Rule
	// Limits bound everything. Reload changes Limits.Admission.
	Limits Limits

	// DrainTo is where couriers are told to go when the hub drains: an address of another process with the same key. Empty:
	// to other nodes, and without any they come back to where they have found this one, after DrainPause. Reload changes both.
	DrainTo string
	// DrainPause is about how long the hub will be away. Zero: 2 seconds.
	DrainPause time.Duration

	// Control opens a socket in the folder "control" in Dir, by which the owner of the folder asks the running hub for
	// backups and the like. It is not for systems without unix sockets.
	Control bool

	// Cluster makes the hub one of several processes that are one hub. Nil: it is alone.
	Cluster *Cluster

	// Logger gets what operators should know; never a message, a token or a payload. Nil: slog.Default().
	Logger *slog.Logger
}

// Certificates are what package hub/cert provides: certificates from files, or automatic ones.
type Certificates interface {
	TLSConfig() *tls.Config
	Status() []cert.Status
	Reload() error
}

// Limits bound what anybody can cost. The zero value of each field means its default.
type Limits struct {
	// Admission bounds how often, and how many connections, for each address and each key.
	Admission admission.Limits
	// Registry bounds what is stored, and the waits for the disk.
	Registry registry.Limits
	// Mailboxes bounds what waits for couriers, and for how long.
	Mailboxes mailbox.Limits
	// Session bounds each connection with a proven key.
	Session muxrpc.Limits
	// Circuits bounds the circuits.
	Circuits circuits.Limits

	FirstBytes          time.Duration // for a connection to say what it speaks, TLS included; 0: 10 s
	MaxPending          int           // connections in that stage; 0: 1024
	MaxUnproved         int           // open connections that have proved no key; 0: 8192
	MaxUnprovedPer      int           // of these, those of one address; 0: 512
	HandshakeTimeout    time.Duration // for the secret handshake; 0: 5 s
	HeaderTimeout       time.Duration // for the header of a visitor's request; 0: 10 s
	VisitorIdle         time.Duration // between two requests of a visitor; 0: 2 min
	MaxPeers            int           // connections with a proven key; 0: 65536
	MaxPeersPerKey      int           // of these, those of one key; the oldest goes; 0: 16
	Inactivity          time.Duration // that such a connection may be without a byte either way; 0: 10 min
	ReplacedGrace       time.Duration // for what goes on over a connection when its courier has published on another; 0: 30 s
	NoticeTimeout       time.Duration // for a courier to take a notice; 0: 5 s
	MaxTunnels          int           // through the room; 0: 4096
	MaxTunnelsPerPeer   int           // opened by one peer; 0: 64
	TunnelIdle          time.Duration // that a tunnel may be without a byte either way; 0: 15 min
	MaxStreams          int           // for HTTP, open at once to one native courier; 0: 64
	StreamIdle          time.Duration // that an unused one is kept; 0: 10 s
	Queue               int           // visitors that may wait for a courier's connection; 0: 256; negative: none
	QueueWait           time.Duration // for how long; 0: 10 s
	SocketGrace         time.Duration // that a courier of Secrez may be without a socket; 0: 10 s
	SocketKeepAlive     time.Duration // silence before TCP asks whether one still lives; 0: 15 s
	MaxRequests         int           // of visitors to one courier at once; 0: 256
	MaxRequestHeader    int           // bytes; 0: 64 KiB
	MaxBody             int64         // bytes of a request's body; 0: any number
	MaxResponseHeader   int           // bytes; 0: 64 KiB
	ReplayBody          int64         // bytes up to which a body is kept to be sent again; 0: 16 KiB; negative: none is
	DialTimeout         time.Duration // to get a courier's connection; 0: 15 s
	SendTimeout         time.Duration // for a courier to take the next bytes; 0: 30 s
	ExpectTimeout       time.Duration // for a courier to say 100 Continue; 0: 1 s
	ResponseTimeout     time.Duration // for a courier to begin its answer; 0: 60 s
	BodyTimeout         time.Duration // for a courier to send the next bytes of its answer; 0: 5 min
	VisitorTimeout      time.Duration // for a visitor to send or take the next bytes; 0: 30 s
	UpgradeTimeout      time.Duration // of silence on an upgraded connection; 0: 10 min
	MinRate             int64         // bytes a second that a slow visitor must reach on the whole; 0: 256; negative: any
	MaxRegistrationBody int64         // bytes of a registration with the v1 API; 0: 64 KiB
	RegistrationTimeout time.Duration // for one of these, disk and ports included; 0: 15 s
}

// The defaults that are this package's own.
const (
	defaultMaxPeers      = 65536
	defaultMaxUnproved   = 8192
	defaultReplacedGrace = 30 * time.Second
	defaultNoticeTimeout = 5 * time.Second
	defaultDrainPause    = 2 * time.Second
)

func (c Config) withDefaults() Config {
	c.Domain = strings.ToLower(strings.TrimSuffix(c.Domain, "."))
	if c.AppKey.IsZero() {
		c.AppKey = keys.MainNet()
	}
	if c.Name == "" {
		c.Name = c.Domain
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.TLS == nil && c.Certificates != nil {
		c.TLS = c.Certificates.TLSConfig()
	}
	if c.Mode == "" {
		c.Mode = admission.ModeOpen
	}
	if c.DrainPause <= 0 {
		c.DrainPause = defaultDrainPause
	}
	if c.Limits.MaxPeers == 0 {
		c.Limits.MaxPeers = defaultMaxPeers
	}
	if c.Limits.MaxUnproved <= 0 {
		c.Limits.MaxUnproved = defaultMaxUnproved
	}
	if c.Limits.ReplacedGrace <= 0 {
		c.Limits.ReplacedGrace = defaultReplacedGrace
	}
	if c.Limits.NoticeTimeout <= 0 {
		c.Limits.NoticeTimeout = defaultNoticeTimeout
	}
	return c
}

// check finds what can be found wrong without opening anything.
func (c Config) check() error {
	wrong := func(format string, args ...any) error {
		return fmt.Errorf("%w: "+format, append([]any{ErrConfig}, args...)...)
	}
	if c.Dir == "" {
		return wrong("Dir: a hub needs a folder for its data")
	}
	if c.Domain != "" && !netaddr.IsHostName(c.Domain) {
		return wrong("Domain: %q is no host name such as hub.example.org", c.Domain)
	}
	if u, err := url.Parse(c.Landing); c.Landing != "" && (err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "") {
		return wrong("Landing: %q is no http or https address", c.Landing)
	}
	if _, err := admission.ParseMode(string(c.Mode)); err != nil {
		return wrong("Mode: %q is none of open, invite and closed", c.Mode)
	}
	for _, address := range c.Listen {
		if _, _, err := net.SplitHostPort(address); err != nil {
			return wrong("Listen: %q is no address such as :8433", address)
		}
	}
	return c.Cluster.check()
}
