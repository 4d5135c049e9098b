package multiserver

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Config says what to listen on and what may be dialled, in the JSON form of
// the section "connections" of a secret-stack configuration. The keys of the
// maps are names of transports.
type Config struct {
	Incoming map[string][]Incoming `json:"incoming,omitempty"`
	Outgoing map[string][]Outgoing `json:"outgoing,omitempty"`
}

// DefaultConfig is what JavaScript uses when nothing is configured: net with
// shs, in the scopes device, local and public, and dialling the same. An empty
// host means every interface and a port of 0 a random one.
func DefaultConfig(host string, port uint16) Config {
	in := Incoming{Scope: Scopes{Device, Local, Public}, Transform: shsName, Host: host, Port: port}
	return Config{
		Incoming: map[string][]Incoming{"net": {in}},
		Outgoing: map[string][]Outgoing{"net": {{Transform: shsName}}},
	}
}

// Incoming is one thing to listen on.
type Incoming struct {
	// Scope says for whom it is; none means Device. With one scope and no
	// Host, it listens on the address that stands for that scope only; with
	// several, on every interface, IPv6 and IPv4.
	Scope Scopes
	// Transform is the name of the transform that proves the peers' keys.
	Transform string
	// Host is the name or address to listen on, and to be reached at.
	Host string
	// Port is the port to listen on; 0 means a random one from 49152 to 65535.
	Port uint16
	// External holds the hosts by which the public scope reaches this machine,
	// when they are not its own. One that is a whole transport part, such as
	// "net:example.org:443" or "wss://example.org/path", is advertised as is.
	External Hosts
	// Options holds all other fields, which belong to the transport: see
	// [Incoming.Decode].
	Options map[string]json.RawMessage

	// Interfaces lists this machine's network interfaces; nil means
	// [SystemInterfaces]. The Server fills it in.
	Interfaces func() ([]Interface, error)
}

// Outgoing is one transform with which a transport may be dialled.
type Outgoing struct {
	Transform string `json:"transform"`
}

// UnmarshalJSON reads an entry and keeps the fields it does not know.
func (in *Incoming) UnmarshalJSON(b []byte) error {
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal(b, &fields); err != nil {
		return fmt.Errorf("multiserver: an incoming connection must be an object, such as {\"scope\":\"public\",\"transform\":\"shs\",\"port\":8008}")
	}
	*in = Incoming{}
	for _, f := range []struct {
		name string
		into any
	}{
		{"scope", &in.Scope}, {"transform", &in.Transform}, {"host", &in.Host}, {"external", &in.External},
	} {
		if err := takeField(fields, f.name, f.into); err != nil {
			return err
		}
	}
	if err := in.takePort(fields); err != nil {
		return err
	}
	if len(fields) > 0 {
		in.Options = fields
	}
	return nil
}

func (in *Incoming) takePort(fields map[string]json.RawMessage) error {
	raw, ok := fields["port"]
	delete(fields, "port")
	if !ok || string(raw) == "null" {
		return nil
	}
	n, err := strconv.ParseFloat(string(bytes.TrimSpace(raw)), 64)
	if err != nil || n != math.Trunc(n) || n < 0 || n > math.MaxUint16 {
		return fmt.Errorf("multiserver: port %s is not a number from 0 to 65535 (0 means a random one)", shorten(string(raw)))
	}
	in.Port = uint16(n)
	return nil
}

// takeField decodes and removes one field; null means absent.
func takeField(fields map[string]json.RawMessage, name string, into any) error {
	raw, ok := fields[name]
	if !ok {
		return nil
	}
	delete(fields, name)
	if string(raw) == "null" {
		return nil
	}
	if err := json.Unmarshal(raw, into); err != nil {
		if strings.HasPrefix(err.Error(), "multiserver: ") {
			return err
		}
		return fmt.Errorf("multiserver: %q cannot be %s", name, shorten(string(raw)))
	}
	return nil
}

// MarshalJSON writes the entry in the form that UnmarshalJSON reads.
func (in Incoming) MarshalJSON() ([]byte, error) {
	fields := map[string]any{"transform": in.Transform}
	for name, raw := range in.Options {
		fields[name] = raw
	}
	if len(in.Scope) > 0 {
		fields["scope"] = in.Scope
	}
	if in.Host != "" {
		fields["host"] = in.Host
	}
	if in.Port != 0 {
		fields["port"] = in.Port
	}
	if len(in.External) > 0 {
		fields["external"] = in.External
	}
	return json.Marshal(fields)
}

// Decode reads the transport's own options into a pointer to a struct with json
// tags, and refuses options that it has no field for, so that a misspelt one is
// noticed. Options of the JavaScript plugins that mean nothing here can be
// named in ignored.
func (in Incoming) Decode(into any, ignored ...string) error {
	options := map[string]json.RawMessage{}
	for name, raw := range in.Options {
		if !slices.Contains(ignored, name) {
			options[name] = raw
		}
	}
	b, err := json.Marshal(options)
	if err != nil {
		return fmt.Errorf("multiserver: options: %w", err)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("multiserver: in the options of a connection: %s", strings.TrimPrefix(err.Error(), "json: "))
	}
	return nil
}

// scopes is the entry's Scope with its default.
func (in Incoming) scopes() Scopes {
	if len(in.Scope) == 0 {
		return Scopes{Device}
	}
	return in.Scope
}

// BindHost returns the host to listen on, "" for every interface. A scope that
// has no address on this machine is an error: nothing could be listened on.
func (in Incoming) BindHost() (string, error) {
	scopes := in.scopes()
	if in.Host != "" || len(scopes) > 1 {
		return in.Host, nil
	}
	host, err := scopeHost(scopes[0], in.Interfaces)
	if err != nil {
		return "", err
	}
	if host == "" {
		return "", fmt.Errorf("multiserver: this machine has no address of scope %q: set \"host\" to what to listen on, or change the scope", scopes[0])
	}
	return host, nil
}

// AdvertisedHosts returns the hosts by which peers in the scope reach the
// entry, none when it is not for them. The public scope has External when that
// is set. A host that means every interface ("::", "0.0.0.0") is of no use to
// a peer, so that the scope's own is given instead. Zones are left out.
func (in Incoming) AdvertisedHosts(scope Scope) []string {
	switch {
	case !slices.Contains(in.scopes(), scope):
		return nil
	case scope == Public && len(in.External) > 0:
		return in.External
	case in.Host != "" && !unspecified(in.Host):
		return []string{WithoutZone(in.Host)}
	}
	host, err := scopeHost(scope, in.Interfaces)
	if err != nil || host == "" {
		return nil
	}
	return []string{WithoutZone(host)}
}

func unspecified(host string) bool {
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsUnspecified()
}

// ListenPort calls listen with addresses on the entry's host: one with the
// entry's port, or, when it has none, with random ports from 49152 to 65535
// until one is free.
func (in Incoming) ListenPort(listen func(address string) (net.Listener, error)) (net.Listener, error) {
	host, err := in.BindHost()
	if err != nil {
		return nil, err
	}
	if in.Port != 0 {
		return listen(net.JoinHostPort(host, strconv.Itoa(int(in.Port))))
	}
	const tries = 16
	for i := 1; ; i++ {
		ln, err := listen(net.JoinHostPort(host, strconv.Itoa(int(randomPort()))))
		if err == nil || i == tries || !addrInUse(err) {
			return ln, err
		}
	}
}

// CheckExternal refuses external hosts that a peer could not dial: each is a
// host without a port, or a whole part that the transport reads.
func CheckExternal(external Hosts, transport PartParser) error {
	for _, host := range external {
		if _, err := netip.ParseAddr(host); err == nil {
			continue
		}
		part := textPart(host)
		if _, err := transport.ParsePart(part, Strict); err == nil {
			continue
		} else if !errors.Is(err, ErrOtherPart) {
			return fmt.Errorf("external %q: %w", shorten(host), err)
		}
		if err := checkHost(host); err != nil || host == "" {
			return fmt.Errorf("external %q must be a host without a port, or a whole part such as %s:example.org:443", shorten(host), transport.Name())
		}
	}
	return nil
}
