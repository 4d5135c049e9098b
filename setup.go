package secretstack

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/multiserver"
	"github.com/secretstack/secretstack/muxrpc"
)

// errStarted is returned by what belongs into Init and is called later.
var errStarted = errors.New("secretstack: the app has started; this belongs into Init")

// Setup connects a plugin with one app. What registers something is for Init: later it returns an error, or is logged as
// one where it returns nothing, and has no effect. Go, Export and what returns something may be called as long as the app lives.
type Setup struct {
	app   *App
	entry entry
}

// App returns the app. During Init it can be kept, not yet used.
func (s *Setup) App() *App { return s.app }

// Identity returns the app's key pair, for what a plugin signs.
func (s *Setup) Identity() *keys.Identity { return s.app.cfg.identity }

// AppKey returns the key of the app's network, for a plugin that runs handshakes of its own.
func (s *Setup) AppKey() keys.AppKey { return s.app.cfg.appKey }

// Logger returns the app's logger with the plugin's name.
func (s *Setup) Logger() *slog.Logger {
	if s.entry.name == "" {
		return s.app.log
	}
	return s.app.log.With("plugin", s.entry.name)
}

// Config fills the struct or map that into points to with the plugin's own section of the settings. What the section
// does not say stays as it is, so put the defaults there before.
func (s *Setup) Config(into any) error {
	if s.entry.name == "" {
		return nil
	}
	if err := decodeInto(s.app.cfg.settings.section(s.entry.name), into); err != nil {
		return fmt.Errorf("secretstack: settings of plugin %q: %w", s.entry.label(), err)
	}
	return nil
}

// Global fills the struct or map that into points to with the settings that all plugins share. The app's secrets are
// not among them.
func (s *Setup) Global(into any) error {
	if err := decodeInto(s.app.cfg.settings.shared(), into); err != nil {
		return fmt.Errorf("secretstack: global settings: %w", err)
	}
	return nil
}

// Dir returns the plugin's own folder, for what it keeps; it makes it when missing. Without [Config.Dir] that is a
// folder which is removed when the app ends.
func (s *Setup) Dir() (string, error) {
	root, err := s.app.stateDir()
	if err != nil {
		return "", err
	}
	name := s.entry.name
	if name == "" {
		name = "plugins"
	}
	dir := filepath.Join(root, name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("secretstack: folder of plugin %q: %w", s.entry.label(), err)
	}
	return dir, nil
}

// Handle mounts a method under the plugin's name. It makes *Setup a [muxrpc.Registrar]: use muxrpc.HandleAsync and its
// siblings, whose handlers are typed.
func (s *Setup) Handle(m muxrpc.Method) error {
	if s.app.hasStarted() {
		return errStarted
	}
	m.Name = prefixed(s.entry.mount, m.Name)
	if err := s.app.mux.Handle(m); err != nil {
		return fmt.Errorf("secretstack: plugin %q: %w", s.entry.label(), err)
	}
	return nil
}

// Serves reports whether the app has the method, by its full dotted name, so far.
func (s *Setup) Serves(method string) bool {
	return s.app.mux.Manifest().Lookup(splitName(method)...) != ""
}

// Hook wraps a method of any plugin, by its full dotted name; the hook that was added last sees a call first. The
// method may belong to a plugin that comes later; Start fails when nobody mounts it.
func (s *Setup) Hook(method string, h muxrpc.Hook) error {
	if s.app.hasStarted() {
		return errStarted
	}
	s.app.hooks = append(s.app.hooks, hook{by: s.entry.label(), method: method, wrap: h})
	return nil
}

// AuthHook wraps the decision about callers who have proved their key; the hook that was added last is asked first,
// and asks the others by calling next. The decision about everybody is Access{}.
func (s *Setup) AuthHook(h func(next AuthFunc) AuthFunc) error {
	return s.Hook(authMethod, authHook(h))
}

// OnListening registers a function that is called once, when the app listens. It must not block.
func (s *Setup) OnListening(f func()) { register(s, "OnListening", &s.app.onListening, f) }

// OnConnect registers a function that is called for every new connection, either way, before anything that the peer
// sends is read and before Connect returns. It must not block: what takes time belongs into [Setup.Go].
func (s *Setup) OnConnect(f func(p *Peer)) { register(s, "OnConnect", &s.app.onConnect, f) }

// OnDisconnect registers a function that is called once for every connection that OnConnect is called for, after it has
// ended. It must not block.
func (s *Setup) OnDisconnect(f func(p *Peer)) {
	register(s, "OnDisconnect", &s.app.onDisconnect, f)
}

// OnClose registers a function that is called once when the app begins to close, before its connections are: sources
// that go on for ever should end now. Those registered last are called first. It must not block for long.
func (s *Setup) OnClose(f func()) { register(s, "OnClose", &s.app.onClose, f) }

// Transport adds a transport. defaults say how it listens and dials where the configuration says nothing about it;
// without them it does neither.
func (s *Setup) Transport(t multiserver.Transport, defaults ...multiserver.Config) error {
	if s.app.hasStarted() {
		return errStarted
	}
	if t == nil || t.Name() == "" {
		return fmt.Errorf("secretstack: plugin %q: a transport needs a name", s.entry.label())
	}
	s.app.transports = append(s.app.transports, t)
	for _, d := range defaults {
		s.app.cfg.addDefaults(d)
	}
	return nil
}

// Transform adds a transform. It should ask [Setup.Authorize] about the peers that connect.
func (s *Setup) Transform(t multiserver.Transform) error {
	if s.app.hasStarted() {
		return errStarted
	}
	if t == nil || t.Name() == "" {
		return fmt.Errorf("secretstack: plugin %q: a transform needs a name", s.entry.label())
	}
	s.app.transforms = append(s.app.transforms, t)
	return nil
}

// Authorize asks the app's auth hooks about a caller that has proved its key and dialled from the address remote. What
// it returns is for multiserver.ConnConfig.Auth; an error means that the caller must be turned away.
func (s *Setup) Authorize(ctx context.Context, key keys.PublicKey, remote string) (auth any, err error) {
	return s.app.authorize(ctx, key, remote)
}

// Go runs f in a goroutine of its own once the app has started. ctx ends when the app begins to close; f must return
// then, for [App.Close] waits for it. After that f is not run at all.
func (s *Setup) Go(f func(ctx context.Context)) { s.app.background(s.entry.label(), f) }

// Export offers a value to the other plugins of the app, who get it with [Find].
func (s *Setup) Export(v any) {
	s.app.mu.Lock()
	defer s.app.mu.Unlock()
	s.app.exports = append(s.app.exports, v)
}

// Find returns the first value of type T that a plugin of the app has exported. A plugin that needs another's value in
// Init must name that plugin in [Info.Needs] or [Info.After].
func Find[T any](a *App) (value T, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, v := range a.exports {
		if value, ok := v.(T); ok {
			return value, true
		}
	}
	return value, false
}

// register adds a function to a list of the app's, by the method of Setup with the given name. Lists are replaced, so
// that they can be called without the lock.
func register[F any](s *Setup, method string, list *[]F, f F) {
	if !added(s.app, list, f) {
		s.Logger().Error("secretstack: " + method + " was called after Init, and has no effect")
	}
}

// added reports whether it was not too late.
func added[F any](a *App, list *[]F, f F) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.state > starting {
		return false
	}
	*list = append(slices.Clip(*list), f)
	return true
}
