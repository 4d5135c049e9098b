package secretstack

import (
	"context"
	"fmt"

	"github.com/secretstack/secretstack/muxrpc"
)

// Plugin is one part of an application: methods that peers call, hooks, transports, background work, or any of these.
// A Plugin is a recipe too: what it needs while it runs is made by Init, which runs once for every app.
type Plugin interface {
	// Info says what the plugin is called, what it needs and what it permits. [Stack.Use] reads it once.
	Info() Info
	// Init prepares the plugin for one app. ctx ends when the app's start is given up; an error stops the start.
	Init(ctx context.Context, s *Setup) error
}

// Info describes a plugin. The zero value is a plugin without a name.
type Info struct {
	// Name is the plugin's name in any spelling; camel-cased ("foo-bar" becomes "fooBar") it is the prefix of the
	// plugin's methods and the key of its configuration. "global" is reserved. Empty: methods are mounted at the root,
	// and the plugin sees no configuration but the global one.
	Name string
	// Version is for people. Empty: unknown.
	Version string
	// Needs names the plugins without which this one does not work; [Stack.Start] fails when one is missing. They are
	// initialised first. Empty: none.
	Needs []string
	// After names plugins that are initialised before this one when they are there. Empty: none.
	After []string
	// Mount is the prefix of the plugin's methods where that is not its name. Empty: the name. Plugins may share one.
	Mount string
	// Permissions adds to the app's permission sets, by the name of the set; the entries get the plugin's prefix.
	// [Stack.Start] fails when one names no method that is mounted. "anonymous" is the set of everybody. Nil: adds nothing, and nobody but the app itself and the peers to whom an
	// auth hook gives more may call the plugin.
	Permissions map[string]muxrpc.Permissions
}

// Anonymous permits everybody to call the named methods of a plugin: a value for [Info.Permissions].
func Anonymous(methods ...string) map[string]muxrpc.Permissions {
	return map[string]muxrpc.Permissions{anonymous: {Allow: methods}}
}

// NewPlugin makes a plugin of a description and a function.
func NewPlugin(info Info, init func(ctx context.Context, s *Setup) error) Plugin {
	return funcPlugin{info, init}
}

type funcPlugin struct {
	info Info
	init func(ctx context.Context, s *Setup) error
}

func (p funcPlugin) Info() Info { return p.info }

func (p funcPlugin) Init(ctx context.Context, s *Setup) error { return p.init(ctx, s) }

// Plugins is a list of plugins where one is asked for; lists may be nested.
type Plugins []Plugin

// Info describes nothing: the plugins in the list describe themselves.
func (Plugins) Info() Info { return Info{} }

// Init does nothing: [Stack.Use] takes the plugins out of the list.
func (Plugins) Init(context.Context, *Setup) error { return nil }

// entry is a plugin in a stack, with its description read and checked.
type entry struct {
	plugin Plugin
	info   Info
	name   string // camel-cased; empty for a plugin without a name
	mount  string // camel-cased prefix of its methods; empty for the root
}

func newEntry(p Plugin) (entry, error) {
	info := p.Info()
	e := entry{plugin: p, info: info, name: camelCase(info.Name), mount: camelCase(info.Mount)}
	if e.name == globalKey {
		return entry{}, fmt.Errorf("secretstack: plugin named %q is reserved", info.Name)
	}
	if e.name == "" && info.Name != "" {
		return entry{}, fmt.Errorf("secretstack: plugin named %q: no letter or digit of ASCII in it", info.Name)
	}
	if f, ok := p.(funcPlugin); ok && f.init == nil {
		return entry{}, fmt.Errorf("secretstack: plugin %q has no init function", e.label())
	}
	if e.mount == "" {
		e.mount = e.name
	}
	return e, nil
}

// label names the plugin in errors and logs.
func (e *entry) label() string {
	if e.info.Name == "" {
		return "?"
	}
	return e.info.Name
}

// answers reports whether the plugin is the one that another calls name. That may be camel-cased already, which is not
// always the same the second time.
func (e *entry) answers(name string) bool {
	return e.name != "" && (e.name == name || e.name == camelCase(name))
}

// flatten takes plugins out of nested lists.
func flatten(plugins []Plugin) ([]Plugin, error) {
	var flat []Plugin
	for _, p := range plugins {
		switch p := p.(type) {
		case nil:
			return nil, fmt.Errorf("secretstack: a nil plugin")
		case Plugins:
			nested, err := flatten(p)
			if err != nil {
				return nil, err
			}
			flat = append(flat, nested...)
		default:
			flat = append(flat, p)
		}
	}
	return flat, nil
}

// inOrder sorts plugins so that each comes after those it needs and follows; otherwise the order is kept. A circle is
// broken where it was entered.
func inOrder(entries []entry) []entry {
	sorted := make([]entry, 0, len(entries))
	visited := make([]bool, len(entries))
	var visit func(i int)
	visit = func(i int) {
		if visited[i] {
			return
		}
		visited[i] = true
		for _, names := range [][]string{entries[i].info.Needs, entries[i].info.After} {
			for _, name := range names {
				if j := find(entries, name); j >= 0 {
					visit(j)
				}
			}
		}
		sorted = append(sorted, entries[i])
	}
	for i := range entries {
		visit(i)
	}
	return sorted
}

// checkNeeds fails for the first plugin that needs one which is not there.
func checkNeeds(entries []entry) error {
	for i := range entries {
		for _, name := range entries[i].info.Needs {
			if find(entries, name) < 0 {
				return fmt.Errorf("secretstack: plugin %q needs plugin %q but not found", entries[i].label(), name)
			}
		}
	}
	return nil
}

func find(entries []entry, name string) int {
	for i := range entries {
		if entries[i].answers(name) {
			return i
		}
	}
	return -1
}
