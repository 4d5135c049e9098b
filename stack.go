package secretstack

import (
	"context"
	"fmt"
	"slices"
	"sync"
)

// Options describe a stack. The zero value is a stack with the transport "net" and the transform "shs".
type Options struct {
	// Bare leaves out "net" and "shs": plugins must bring a transport and a transform, as [NetPlugin] and [SHSPlugin] do.
	Bare bool
	// Settings are what every app of the stack starts from; those of the app's own Config go over them. Nil: empty.
	Settings Settings
	// AdmitFalse treats an auth hook that answers false as secret-stack 6 does: the caller gets the access of
	// everybody. The default refuses it, as secret-stack 8 does.
	AdmitFalse bool
}

// Stack is a list of plugins from which apps are started. Its methods may be called at any time by anybody.
type Stack struct {
	opts Options

	mu      sync.Mutex
	entries []entry // replaced, never changed in place
}

// New makes a stack. What Use adds to it belongs to the apps that Start starts afterwards.
func New(opts Options) *Stack {
	s := &Stack{opts: opts}
	if !opts.Bare {
		_ = s.Use(NetPlugin(), SHSPlugin()) // their names are good, and none is taken yet
	}
	return s
}

// Use adds plugins; a [Plugins] list counts as what is in it. It fails, and adds none, when a name is taken, reserved or
// has no ASCII letter or digit. Apps that have started do not change.
func (s *Stack) Use(plugins ...Plugin) error {
	flat, err := flatten(plugins)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	entries := slices.Clone(s.entries)
	for _, p := range flat {
		e, err := newEntry(p)
		if err != nil {
			return err
		}
		if e.name != "" && find(entries, e.name) >= 0 {
			return fmt.Errorf("secretstack: plugin named %q is already loaded", e.label())
		}
		entries = append(entries, e)
	}
	s.entries = entries
	return nil
}

// Plugins describes the plugins of the stack, in the order of Use.
func (s *Stack) Plugins() []Info {
	entries := s.current()
	infos := make([]Info, len(entries))
	for i, e := range entries {
		infos[i] = e.info
	}
	return infos
}

func (s *Stack) current() []entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.entries
}

// Start makes an app: it initialises the plugins, each after those it needs, and returns once the app listens. It
// fails when a plugin is missing that another needs, when a plugin's Init fails, and when an address cannot be listened
// on. When ctx ends, the app closes itself as [App.Close] does.
func (s *Stack) Start(ctx context.Context, cfg Config) (*App, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("secretstack: %w", err)
	}
	entries := s.current()
	if err := checkNeeds(entries); err != nil {
		return nil, err
	}
	r, err := cfg.resolve(s.opts.Settings, entries)
	if err != nil {
		return nil, err
	}
	a := newApp(r, s.opts.AdmitFalse)
	if err := a.start(ctx, inOrder(entries)); err != nil {
		_ = a.Close(ctx) // tells the plugins that were initialised already
		return nil, err
	}
	return a, nil
}
