package secretstack

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/multiserver"
	"github.com/secretstack/secretstack/muxrpc"
)

// globalKey is the key of the settings that all plugins share.
const globalKey = "global"

// DefaultInactivity is how long a connection without a byte either way is kept unless the configuration says otherwise.
const DefaultInactivity = 10 * time.Minute

const (
	// DefaultMaxPeers is how many connections an app has open before it turns others away.
	DefaultMaxPeers = 16384
	// DefaultMaxPeersPerKey is how many of them have the same key.
	DefaultMaxPeersPerKey = 16
	// DefaultMaxBuffered is how many bytes the sessions of an app together hold of what their peers have sent.
	DefaultMaxBuffered = 256 << 20
)

// Config says who an app is, where it listens and within what limits. The zero value starts an app with a new identity
// on the public network, listening on a free port of every interface.
//
// What the fields leave open is taken from Settings, where the places of the JavaScript original are known.
type Config struct {
	// Identity is the key pair that names the app. Nil: global.keys or global.seed of Settings; without those the file
	// "secret" in Dir, made when missing; without Dir a new identity that is forgotten when the app ends.
	Identity *keys.Identity
	// AppKey names the network: apps with different app keys cannot connect. Zero: multiserverShs.cap, global.caps.shs
	// or global.appKey of Settings; without those keys.MainNet().
	AppKey keys.AppKey
	// Dir is the folder of the identity and of the plugins' state. Empty: global.path of Settings; without it plugins
	// get folders that are removed when the app ends.
	Dir string
	// Host is the address to listen on when Connections leaves it open. Empty: global.host of Settings; without it all
	// interfaces.
	Host string
	// Port is the TCP port to listen on when Connections leaves it open. Zero: global.port of Settings; without it a
	// free port.
	Port int
	// Connections says what to listen on and what to dial with. Nil: global.connections of Settings; without it "net"
	// in all scopes with "shs", and each transport that a plugin adds in its own default way.
	Connections *multiserver.Config
	// Inactivity is how long a connection without a byte either way is kept; connections with oneself are exempt.
	// Zero: timers.inactivity (ms) of Settings; without it DefaultInactivity. Negative: for ever.
	Inactivity time.Duration
	// HandshakeTimeout bounds the whole handshake of a connection. Zero: timers.handshake or timeout (ms) of Settings;
	// without it the default of package multiserver.
	HandshakeTimeout time.Duration
	// MaxPending is how many incoming connections may be unproven at a time. Zero: the default of package multiserver.
	MaxPending int
	// MaxPeers is how many connections may be open before those who connect to us are turned away. Zero: DefaultMaxPeers.
	// Negative: any number.
	MaxPeers int
	// MaxPeersPerKey is how many of them may have the same key; one more that comes in ends the oldest of those that
	// came in, which a peer that has lost its connections may still have. The app's own key is exempt. Zero:
	// DefaultMaxPeersPerKey. Negative: any number.
	MaxPeersPerKey int
	// MaxBuffered is how many bytes all sessions together hold of what their peers have sent and nobody has taken yet, the
	// first 64 KiB of each aside: see [muxrpc.Budget]. Zero: DefaultMaxBuffered. Negative: any number.
	MaxBuffered int
	// Limits bound every session; each field documents its zero value. CloseTimeout is also the grace of [App.Close].
	Limits muxrpc.Limits
	// Logger gets what went wrong and why. Nil: slog.Default().
	Logger *slog.Logger
	// Settings are JSON-shaped: a section for each plugin, and the global ones. Nil: empty.
	Settings Settings
}

// Settings are the JSON-shaped part of a configuration, in either of two shapes. That of secret-stack 8 has a section
// "global" that every plugin sees, and one for each plugin under its camel-cased name, which nobody else sees:
//
//	{"global": {"host": "::1", "timers": {"inactivity": 60000}}, "greeter": {"word": "hi"}}
//
// That of secret-stack 6 is flat: without "global" and with one of caps, appKey, keys, seed, path, host, port, timers,
// timeout or connections at the top, everything that is no plugin's section is global.
//
// Values may be anything that encoding/json encodes. Settings are merged deeply: objects are joined, anything else is
// replaced, null replaces nothing.
type Settings map[string]any

// settings are Settings of one app, normalised: both shapes have become the same, values are JSON's own types.
type settings struct {
	flat     bool
	global   map[string]any
	sections map[string]any
}

// flatKeys are the keys that tell the flat shape of secret-stack 6.
var flatKeys = [...]string{"caps", "appKey", "keys", "seed", "path", "host", "port", "timers", "timeout", "connections"}

func newSettings(layers ...Settings) (*settings, error) {
	merged := map[string]any{}
	for _, layer := range layers {
		values, err := jsonObject(layer)
		if err != nil {
			return nil, err
		}
		mergeInto(merged, values)
	}
	return shape(merged)
}

// jsonObject turns settings into JSON's own types, which also makes them a copy.
func jsonObject(s Settings) (map[string]any, error) {
	text, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("secretstack: settings: %w", err)
	}
	values := map[string]any{}
	if err := json.Unmarshal(text, &values); err != nil {
		return nil, fmt.Errorf("secretstack: settings: %w", err)
	}
	return values, nil
}

// mergeInto lays src over dst: objects are joined, other values replaced, null replaces nothing.
func mergeInto(dst, src map[string]any) {
	for key, value := range src {
		if value == nil {
			continue
		}
		below, both := dst[key].(map[string]any)
		above, ok := value.(map[string]any)
		if both && ok {
			mergeInto(below, above)
			continue
		}
		dst[key] = value
	}
}

// shape sorts merged settings of either shape into the global ones and the sections.
func shape(merged map[string]any) (*settings, error) {
	s := &settings{global: map[string]any{}, sections: map[string]any{}}
	if global, ok := merged[globalKey]; ok {
		object, ok := global.(map[string]any)
		if !ok {
			return nil, errors.New(`secretstack: settings: "global" is not an object`)
		}
		s.global = object
	} else {
		s.flat = isFlat(merged)
	}
	for key, value := range merged {
		if key == globalKey {
			continue
		}
		s.sections[key] = value
		if s.flat {
			s.global[key] = value
		}
	}
	return s, nil
}

func isFlat(merged map[string]any) bool {
	for _, key := range flatKeys {
		if _, ok := merged[key]; ok {
			return true
		}
	}
	return false
}

// section returns the section of the plugin with the camel-cased name; its key may be in another spelling.
func (s *settings) section(name string) any {
	if value, ok := s.sections[name]; ok {
		return value
	}
	for _, key := range slices.Sorted(maps.Keys(s.sections)) {
		if camelCase(key) == name {
			return s.sections[key]
		}
	}
	return nil
}

// hide removes the plugins' sections from flat global settings: each plugin sees its own section, nobody else's.
func (s *settings) hide(entries []entry) {
	if !s.flat {
		return
	}
	for key := range s.global {
		if find(entries, key) >= 0 {
			delete(s.global, key)
		}
	}
}

// shared returns a copy of the global settings without what is secret in them.
func (s *settings) shared() map[string]any {
	global := maps.Clone(s.global)
	for _, secret := range [...]string{"keys", "seed", "appKey"} {
		delete(global, secret)
	}
	copied, err := jsonObject(global)
	if err != nil {
		return map[string]any{} // values from JSON always go back to JSON
	}
	if caps, ok := copied["caps"].(map[string]any); ok {
		delete(caps, "shs") // the app key
	}
	return copied
}

// decodeInto fills into with a value of the settings; what the value does not say stays as it is.
func decodeInto(value, into any) error {
	if value == nil {
		return nil
	}
	text, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, into)
}

// kinds are what settings can be, in the words of an error.
const (
	isText   = "text"
	isObject = "an object"
	isMillis = "a number of milliseconds"
)

// knownKinds says what the global settings that the app itself reads have to be. What else they must be is said where
// they are read.
var knownKinds = [...]struct {
	path []string
	kind string
}{
	{[]string{"path"}, isText},
	{[]string{"host"}, isText},
	{[]string{"seed"}, isText},
	{[]string{"appKey"}, isText},
	{[]string{"keys"}, isObject},
	{[]string{"keys", "private"}, isText},
	{[]string{"caps"}, isObject},
	{[]string{"caps", "shs"}, isText},
	{[]string{"timeout"}, isMillis},
	{[]string{"timers"}, isObject},
	{[]string{"timers", "inactivity"}, isMillis},
	{[]string{"timers", "handshake"}, isMillis},
	{[]string{"connections"}, isObject},
}

// checkKinds fails for the first of the known settings that is something else.
func (s *settings) checkKinds() error {
	for _, known := range knownKinds {
		value := at(s.global, known.path...)
		if value != nil && !isKind(value, known.kind) {
			return fmt.Errorf("secretstack: settings: %s is not %s", strings.Join(known.path, "."), known.kind)
		}
	}
	return nil
}

func isKind(value any, kind string) (ok bool) {
	switch kind {
	case isText:
		_, ok = value.(string)
	case isObject:
		_, ok = value.(map[string]any)
	case isMillis:
		_, ok = millis(value)
	}
	return ok
}

// millis reads milliseconds, or the decimal text of them, as JavaScript does.
func millis(value any) (time.Duration, bool) {
	ms, ok := value.(float64)
	if text, isString := value.(string); isString {
		parsed, err := strconv.ParseFloat(text, 64)
		ms, ok = parsed, err == nil && !math.IsNaN(parsed)
	}
	const most = 1e12 // 31 years
	return time.Duration(min(max(ms, -1), most) * float64(time.Millisecond)), ok
}

// at returns the value at a path of global settings, or nil.
func at(value any, path ...string) any {
	for _, key := range path {
		object, _ := value.(map[string]any)
		value = object[key]
	}
	return value
}

func first(values ...any) any {
	for _, v := range values {
		if v != nil {
			return v
		}
	}
	return nil
}

// resolved is a configuration with nothing left open.
type resolved struct {
	identity   *keys.Identity
	appKey     keys.AppKey
	dir        string
	host       string
	port       uint16
	conns      multiserver.Config
	configured bool          // conns were configured, so that net has no default
	inactivity time.Duration // 0: for ever
	handshake  time.Duration // 0: multiserver's default
	maxPending int
	maxPeers   int
	maxPerKey  int
	budget     *muxrpc.Budget
	limits     muxrpc.Limits
	log        *slog.Logger
	settings   *settings
}

func (c *Config) resolve(defaults Settings, entries []entry) (*resolved, error) {
	s, err := newSettings(defaults, c.Settings)
	if err != nil {
		return nil, err
	}
	s.hide(entries)
	if err := s.checkKinds(); err != nil {
		return nil, err
	}
	r := &resolved{dir: c.Dir, maxPending: c.MaxPending, maxPeers: bound(c.MaxPeers, DefaultMaxPeers), limits: c.Limits, log: c.Logger, settings: s}
	if r.log == nil {
		r.log = slog.Default()
	}
	r.maxPerKey = bound(c.MaxPeersPerKey, DefaultMaxPeersPerKey)
	r.budget = muxrpc.NewBudget(bound(c.MaxBuffered, DefaultMaxBuffered))
	if r.dir == "" {
		r.dir, _ = s.global["path"].(string)
	}
	if r.identity, err = c.resolveIdentity(s, r.dir); err != nil {
		return nil, err
	}
	if r.appKey, err = c.resolveAppKey(s); err != nil {
		return nil, err
	}
	if err := c.resolveConnections(s, r); err != nil {
		return nil, err
	}
	r.inactivity = c.resolveInactivity(s)
	r.handshake = c.resolveHandshake(s)
	return r, nil
}

// bound returns a limit: zero stands for a default, and negative for none.
func bound(limit, byDefault int) int {
	switch {
	case limit == 0:
		return byDefault
	case limit < 0:
		return math.MaxInt
	}
	return limit
}

func (c *Config) resolveIdentity(s *settings, dir string) (*keys.Identity, error) {
	if c.Identity != nil {
		return c.Identity, nil
	}
	if private := at(s.global, "keys", "private"); private != nil {
		return identityFrom("keys.private", private, 64)
	}
	if seed := first(at(s.section("multiserverShs"), "seed"), s.global["seed"]); seed != nil {
		return identityFrom("seed", seed, 32)
	}
	if dir != "" {
		return keys.LoadOrCreate(filepath.Join(dir, "secret"), keys.FileOptions{})
	}
	return keys.Generate()
}

// identityFrom reads a base64 seed, or a base64 private key, which begins with its seed.
func identityFrom(name string, value any, size int) (*keys.Identity, error) {
	raw, err := secretBytes(value)
	if err != nil || len(raw) != size {
		return nil, fmt.Errorf("secretstack: settings: %s is not %d bytes in base64", name, size)
	}
	return keys.FromSeed(raw[:32])
}

// secretBytes decodes base64 as the original does: anything from the first '.' on is a suffix.
func secretBytes(value any) ([]byte, error) {
	text, ok := value.(string)
	if !ok {
		return nil, errors.New("not a string")
	}
	text, _, _ = strings.Cut(text, ".")
	return base64.StdEncoding.DecodeString(text)
}

func (c *Config) resolveAppKey(s *settings) (keys.AppKey, error) {
	if !c.AppKey.IsZero() {
		return c.AppKey, nil
	}
	value := first(at(s.section("multiserverShs"), "cap"), at(s.global, "caps", "shs"), s.global["appKey"])
	if value == nil {
		return keys.MainNet(), nil
	}
	text, _ := value.(string)
	key, err := keys.ParseAppKey(text)
	if err != nil {
		return keys.AppKey{}, fmt.Errorf("secretstack: settings: %w", err)
	}
	return key, nil
}

func (c *Config) resolveInactivity(s *settings) time.Duration {
	switch {
	case c.Inactivity < 0:
		return 0
	case c.Inactivity > 0:
		return c.Inactivity
	}
	limit, given := millis(at(s.global, "timers", "inactivity"))
	switch {
	case given && limit > 0:
		return limit
	case given && !s.flat: // secret-stack 8: not positive means never; 6 takes the default instead
		return 0
	}
	return DefaultInactivity
}

func (c *Config) resolveHandshake(s *settings) time.Duration {
	if c.HandshakeTimeout > 0 {
		return c.HandshakeTimeout
	}
	for _, value := range []any{s.global["timeout"], at(s.global, "timers", "handshake")} {
		if limit, ok := millis(value); ok && limit > 0 {
			return limit
		}
	}
	return 0
}

// number reads a number or the decimal text of one.
func number(value any) (int, bool) {
	switch v := value.(type) {
	case float64:
		return int(v), v == float64(int(v))
	case string:
		n, err := strconv.Atoi(v)
		return n, err == nil
	}
	return 0, false
}

// resolveConnections takes what to listen on and to dial with; addDefaults fills in what is left open.
func (c *Config) resolveConnections(s *settings, r *resolved) error {
	switch connections := s.global["connections"]; {
	case c.Connections != nil:
		r.conns, r.configured = *c.Connections, true
	case connections != nil:
		if err := decodeInto(connections, &r.conns); err != nil {
			return fmt.Errorf("secretstack: settings: connections: %w", err)
		}
		r.configured = true
	}
	r.conns.Incoming = cloneMap(r.conns.Incoming)
	r.conns.Outgoing = cloneMap(r.conns.Outgoing)

	r.host = c.Host
	if r.host == "" {
		r.host, _ = s.global["host"].(string)
	}
	port, given := c.Port, true
	if value := s.global["port"]; port == 0 && value != nil {
		port, given = number(value)
	}
	if !given || port < 0 || port > math.MaxUint16 {
		return errors.New("secretstack: the port is not a number from 0 to 65535")
	}
	r.port = uint16(port)
	r.fillListening()
	return nil
}

// fillListening puts the host and the port into what the connections leave open: the host everywhere that listens on
// one, the port where net listens.
func (r *resolved) fillListening() {
	for transport, entries := range r.conns.Incoming {
		entries = slices.Clone(entries) // they are the caller's
		r.conns.Incoming[transport] = entries
		for i := range entries {
			if entries[i].Host == "" && transport != "unix" {
				entries[i].Host = r.host
			}
			if entries[i].Port == 0 && transport == "net" {
				entries[i].Port = r.port
			}
		}
	}
}

// cloneMap copies a map, and makes one of nil.
func cloneMap[V any](m map[string]V) map[string]V {
	copied := make(map[string]V, len(m))
	maps.Copy(copied, m)
	return copied
}

// addDefaults adds the entries for transports about which the configuration says nothing.
func (r *resolved) addDefaults(d multiserver.Config) {
	for name, entries := range d.Incoming {
		if _, ok := r.conns.Incoming[name]; !ok {
			r.conns.Incoming[name] = entries
		}
	}
	for name, entries := range d.Outgoing {
		if _, ok := r.conns.Outgoing[name]; !ok {
			r.conns.Outgoing[name] = entries
		}
	}
}
