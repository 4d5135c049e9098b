package secretstack_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/internal/memnet"
	"github.com/secretstack/secretstack/muxrpc"
)

// noop registers an async method that answers its own name.
func noop(s *secretstack.Setup, names ...string) error {
	for _, name := range names {
		err := muxrpc.HandleAsync(s, name, func(context.Context, muxrpc.None) (string, error) { return name, nil })
		if err != nil {
			return err
		}
	}
	return nil
}

func TestMethodsAreMountedUnderTheCamelCasedName(t *testing.T) {
	stack := memStack(t, plugin("bar-baz", func(s *secretstack.Setup) error { return noop(s, "x", "sub.deep") }))
	app := start(t, stack, memConfig(t, "alice"))
	for _, path := range [][]string{{"barBaz", "x"}, {"barBaz", "sub", "deep"}} {
		if got := app.Manifest().Lookup(path...); got != muxrpc.TypeAsync {
			t.Errorf("manifest has %q at %v", got, path)
		}
	}
}

// TestCamelCaseFollowsTheOriginal goes by the names that the JavaScript package gives.
func TestCamelCaseFollowsTheOriginal(t *testing.T) {
	var vector struct{ Camel [][2]string }
	readVector(t, "07_camel.json", &vector)
	for _, pair := range vector.Camel {
		stack := memStack(t, plugin(pair[0], func(s *secretstack.Setup) error { return noop(s, "m") }))
		app := start(t, stack, memConfig(t, "alice"))
		if app.Manifest().Lookup(pair[1], "m") == "" {
			t.Errorf("%q: no method %s.m in %v", pair[0], pair[1], app.Manifest().Methods())
		}
	}
}

func TestUnnamedPluginsAreMountedAtTheRoot(t *testing.T) {
	var seen map[string]any
	stack := memStack(t, plugin("", func(s *secretstack.Setup) error {
		return errors.Join(s.Config(&seen), noop(s, "rootMethod"))
	}))
	app := start(t, stack, memConfig(t, "alice"))
	if app.Manifest().Lookup("rootMethod") != muxrpc.TypeAsync {
		t.Errorf("no rootMethod in %v", app.Manifest().Methods())
	}
	if seen != nil {
		t.Errorf("a plugin without a name has a section: %v", seen)
	}
}

func TestPluginsInListsAreUsedOneByOne(t *testing.T) {
	one := plugin("one", func(s *secretstack.Setup) error { return noop(s, "a") })
	two := plugin("two", func(s *secretstack.Setup) error { return noop(s, "b") })
	three := plugin("three", func(s *secretstack.Setup) error { return noop(s, "c") })
	stack := memStack(t, secretstack.Plugins{one, secretstack.Plugins{two, three}})
	app := start(t, stack, memConfig(t, "alice"))
	for _, name := range []string{"one.a", "two.b", "three.c"} {
		if app.Manifest().Lookup(strings.Split(name, ".")...) == "" {
			t.Errorf("no %s in %v", name, app.Manifest().Methods())
		}
	}
}

func TestUseRefusesPluginsThatCannotBe(t *testing.T) {
	good := plugin("foo", func(*secretstack.Setup) error { return nil })
	for _, test := range []struct {
		name    string
		plugins []secretstack.Plugin
		want    string
	}{
		{"reserved", []secretstack.Plugin{plugin("global", nil)}, `plugin named "global" is reserved`},
		{"reserved in another spelling", []secretstack.Plugin{plugin("Global", nil)}, `plugin named "Global" is reserved`},
		{"taken", []secretstack.Plugin{good, good}, `plugin named "foo" is already loaded`},
		{"taken in another spelling", []secretstack.Plugin{plugin("foo-bar", nil), plugin("fooBar", nil)}, `plugin named "fooBar" is already loaded`},
		{"no init", []secretstack.Plugin{secretstack.NewPlugin(secretstack.Info{Name: "bare"}, nil)}, `plugin "bare" has no init function`},
		{"no letters", []secretstack.Plugin{plugin("ü", nil)}, `plugin named "ü": no letter or digit`},
		{"nil", []secretstack.Plugin{nil}, "a nil plugin"},
		{"nil in a list", []secretstack.Plugin{secretstack.Plugins{good, nil}}, "a nil plugin"},
	} {
		t.Run(test.name, func(t *testing.T) {
			stack := secretstack.New(secretstack.Options{})
			wantErr(t, stack.Use(test.plugins...), test.want)
			if n := len(stack.Plugins()); n != 2 {
				t.Errorf("the stack has %d plugins, not its own two", n)
			}
		})
	}
}

func TestSeveralPluginsWithoutANameMayBeUsed(t *testing.T) {
	first := plugin("", func(s *secretstack.Setup) error { return noop(s, "one") })
	second := plugin("", func(s *secretstack.Setup) error { return noop(s, "two") })
	start(t, memStack(t, first, second), memConfig(t, "alice"))
}

func TestStartFailsWhenANeededPluginIsMissing(t *testing.T) {
	stack := memStack(t, secretstack.NewPlugin(secretstack.Info{Name: "foo", Needs: []string{"bar"}}, func(context.Context, *secretstack.Setup) error { return nil }))
	_, err := stack.Start(t.Context(), memConfig(t, "alice"))
	wantErr(t, err, `secretstack: plugin "foo" needs plugin "bar" but not found`)

	unnamed := memStack(t, secretstack.NewPlugin(secretstack.Info{Needs: []string{"bar"}}, func(context.Context, *secretstack.Setup) error { return nil }))
	_, err = unnamed.Start(t.Context(), memConfig(t, "alice"))
	wantErr(t, err, `plugin "?" needs plugin "bar" but not found`)
}

func TestNeededPluginsMayComeLaterAndAreInitialisedFirst(t *testing.T) {
	var order []string
	record := func(info secretstack.Info) secretstack.Plugin {
		return secretstack.NewPlugin(info, func(context.Context, *secretstack.Setup) error {
			order = append(order, info.Name)
			return nil
		})
	}
	stack := memStack(t,
		record(secretstack.Info{Name: "a", Needs: []string{"c"}}),
		record(secretstack.Info{Name: "b", After: []string{"d", "not-there"}}),
		record(secretstack.Info{Name: "c", Needs: []string{"a"}}), // a circle
		record(secretstack.Info{Name: "d"}),
	)
	start(t, stack, memConfig(t, "alice"))
	if want := []string{"c", "a", "d", "b"}; !slices.Equal(order, want) {
		t.Errorf("initialised in the order %v, want %v", order, want)
	}
}

// TestUseAfterStartDoesNotChangeRunningApps is about factories: one stack, many apps.
func TestUseAfterStartDoesNotChangeRunningApps(t *testing.T) {
	stack := memStack(t)
	before := start(t, stack, memConfig(t, "alice"))
	late := secretstack.NewPlugin(secretstack.Info{Name: "late", Permissions: secretstack.Anonymous("m")},
		func(_ context.Context, s *secretstack.Setup) error { return noop(s, "m") })
	if err := stack.Use(late); err != nil {
		t.Fatal(err)
	}
	after := start(t, stack, memConfig(t, "bob"))
	if before.Manifest().Lookup("late", "m") != "" || slices.Contains(before.Permissions("anonymous").Allow, "late.m") {
		t.Error("the running app has the new plugin")
	}
	if after.Manifest().Lookup("late", "m") == "" || !slices.Contains(after.Permissions("anonymous").Allow, "late.m") {
		t.Error("the new app does not have the new plugin")
	}
}

func TestInitFailureEndsTheStart(t *testing.T) {
	leakCheck(t)
	closed := false
	stack := memStack(t,
		plugin("good", func(s *secretstack.Setup) error {
			s.OnClose(func() { closed = true })
			s.Go(func(context.Context) { t.Error("background work ran") })
			return nil
		}),
		plugin("bad", func(*secretstack.Setup) error { return errors.New("no luck") }))
	app, err := stack.Start(t.Context(), memConfig(t, "alice"))
	wantErr(t, err, `secretstack: plugin "bad": no luck`)
	if app != nil {
		t.Error("there is an app")
	}
	if !closed {
		t.Error("the plugin that had been initialised was not told")
	}
}

func TestTwoPluginsCannotMountOneMethod(t *testing.T) {
	mount := func(name string) secretstack.Plugin {
		return secretstack.NewPlugin(secretstack.Info{Name: name, Mount: "shared"}, func(_ context.Context, s *secretstack.Setup) error { return noop(s, "m") })
	}
	_, err := memStack(t, mount("a"), mount("b")).Start(t.Context(), memConfig(t, "alice"))
	wantErr(t, err, `plugin "b": muxrpc: invalid method: "shared.m" is taken`)
}

func TestPluginsMayShareAPrefix(t *testing.T) {
	mount := func(name, method string) secretstack.Plugin {
		return secretstack.NewPlugin(secretstack.Info{Name: name, Mount: "shared", Permissions: secretstack.Anonymous(method)},
			func(_ context.Context, s *secretstack.Setup) error { return noop(s, method) })
	}
	app := start(t, memStack(t, mount("a", "one"), mount("b", "two")), memConfig(t, "alice"))
	want := []string{"manifest", "shared.one", "shared.two"}
	if got := app.Permissions("anonymous").Allow; !slices.Equal(got, want) {
		t.Errorf("anonymous may call %v, want %v", got, want)
	}
}

// TestPermissionsOfPluginsAreJoined is the original's test "merge": a union, with prefixes.
func TestPermissionsOfPluginsAreJoined(t *testing.T) {
	with := func(name string, sets map[string]muxrpc.Permissions, methods ...string) secretstack.Plugin {
		return secretstack.NewPlugin(secretstack.Info{Name: name, Permissions: sets},
			func(_ context.Context, s *secretstack.Setup) error { return noop(s, methods...) })
	}
	app := start(t, memStack(t,
		with("foo", map[string]muxrpc.Permissions{"anonymous": {Allow: []string{"s", "s"}, Deny: []string{"x"}}, "master": {Allow: []string{"a"}}}, "s", "x", "a.b"),
		with("bar-baz", map[string]muxrpc.Permissions{"anonymous": {Allow: []string{"t"}}, "master": {Deny: []string{"a"}}}, "t", "a"),
		with("", map[string]muxrpc.Permissions{"anonymous": {Allow: []string{"root"}}}, "root"),
	), memConfig(t, "alice"))
	for set, want := range map[string]muxrpc.Permissions{
		"anonymous": {Allow: []string{"manifest", "foo.s", "barBaz.t", "root"}, Deny: []string{"foo.x"}},
		"master":    {Allow: []string{"foo.a"}, Deny: []string{"barBaz.a"}},
	} {
		if got := app.Permissions(set); !reflect.DeepEqual(got, want) {
			t.Errorf("%s is %+v, want %+v", set, got, want)
		}
	}
}

func TestPermissionsForMethodsThatNobodyHasAreErrors(t *testing.T) {
	for name, p := range map[string]muxrpc.Permissions{
		"misspelt":          {Allow: []string{"hello", "helo"}},
		"misspelt, denied":  {Allow: []string{"hello"}, Deny: []string{"helo"}},
		"below a method":    {Allow: []string{"hello.there"}},
		"part of a name":    {Allow: []string{"hell"}},
		"empty":             {Allow: []string{""}},
		"of another plugin": {Allow: []string{"manifest"}},
	} {
		t.Run(name, func(t *testing.T) {
			greeter := secretstack.NewPlugin(secretstack.Info{Name: "greeter", Permissions: map[string]muxrpc.Permissions{"friends": p}},
				func(_ context.Context, s *secretstack.Setup) error { return noop(s, "hello") })
			_, err := memStack(t, greeter).Start(t.Context(), memConfig(t, "alice"))
			bad := slices.Concat(p.Deny, p.Allow[len(p.Allow)-1:])[0]
			wantErr(t, err, fmt.Sprintf(`plugin "greeter" has permissions ("friends") for the method "greeter.%s", which no plugin has`, bad))
		})
	}
}

// TestWartNilDenyIsNotAMethod: in the original, deny:null of a named plugin became the entry "foo.null".
func TestWartNilDenyIsNotAMethod(t *testing.T) {
	app := start(t, memStack(t, secretstack.NewPlugin(secretstack.Info{
		Name:        "foo",
		Permissions: map[string]muxrpc.Permissions{"master": {Allow: []string{"a"}, Deny: nil}},
	}, func(_ context.Context, s *secretstack.Setup) error { return noop(s, "a") })), memConfig(t, "alice"))
	if deny := app.Permissions("master").Deny; len(deny) != 0 {
		t.Errorf("denied: %v", deny)
	}
}

// TestWartEmptySetsAllowNothing: in the original, {} was full access.
func TestWartEmptySetsAllowNothing(t *testing.T) {
	app := start(t, memStack(t, secretstack.NewPlugin(secretstack.Info{
		Name:        "foo",
		Permissions: map[string]muxrpc.Permissions{"friends": {}, "foes": {Deny: []string{"m"}}},
	}, func(_ context.Context, s *secretstack.Setup) error { return noop(s, "m") })), memConfig(t, "alice"))
	for _, set := range []string{"friends", "foes", "unheard-of"} {
		if app.Permissions(set).Check([]string{"auth"}) == nil {
			t.Errorf("the set %q allows auth", set)
		}
	}
}

// TestWartPermissionForAMethodAndOneBelowIt: in the original, foo and foo.bar together threw when a peer connected.
func TestWartPermissionForAMethodAndOneBelowIt(t *testing.T) {
	info := secretstack.Info{Name: "foo", Permissions: secretstack.Anonymous("bar", "bar.baz")}
	stack := memStack(t, secretstack.NewPlugin(info, func(_ context.Context, s *secretstack.Setup) error { return noop(s, "bar.baz") }))
	alice, bob := start(t, stack, memConfig(t, "alice")), start(t, stack, memConfig(t, "bob"))
	got, err := muxrpc.Call[string](t.Context(), connect(t, bob, alice), "foo.bar.baz")
	if err != nil || got != "bar.baz" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestExportedValuesAreFoundByType(t *testing.T) {
	type thing struct{ n int }
	var found *thing
	stack := memStack(t,
		secretstack.NewPlugin(secretstack.Info{Name: "user", Needs: []string{"maker"}}, func(_ context.Context, s *secretstack.Setup) error {
			found, _ = secretstack.Find[*thing](s.App())
			return nil
		}),
		plugin("maker", func(s *secretstack.Setup) error {
			s.Export(&thing{1})
			s.Export(&thing{2})
			return nil
		}))
	app := start(t, stack, memConfig(t, "alice"))
	if found == nil || found.n != 1 {
		t.Errorf("found %v", found)
	}
	if _, ok := secretstack.Find[error](app); ok {
		t.Error("found an error")
	}
}

func TestDirIsThePluginsOwn(t *testing.T) {
	root := t.TempDir()
	var kept, temporary string
	keep := func(into *string) secretstack.Plugin {
		return plugin("my-store", func(s *secretstack.Setup) (err error) {
			*into, err = s.Dir()
			return err
		})
	}
	cfg := memConfig(t, "alice")
	cfg.Dir = root
	start(t, memStack(t, keep(&kept)), cfg)
	if want := root + "/myStore"; kept != want {
		t.Errorf("the folder is %s, want %s", kept, want)
	}
	app := start(t, memStack(t, keep(&temporary)), memConfig(t, "alice"))
	if _, err := os.Stat(temporary); err != nil {
		t.Error(err)
	}
	if err := app.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(temporary); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder of an app without one is still there: %v", err)
	}
}

func TestRegisteringAfterInitFails(t *testing.T) {
	var kept *secretstack.Setup
	start(t, memStack(t, plugin("late", func(s *secretstack.Setup) error {
		kept = s
		return nil
	})), memConfig(t, "alice"))
	wantErr(t, noop(kept, "m"), "belongs into Init")
	wantErr(t, kept.Hook("manifest", func(next muxrpc.Handler) muxrpc.Handler { return next }), "belongs into Init")
	wantErr(t, kept.Transport(memnet.New()), "belongs into Init")
	wantErr(t, kept.Transform(memnet.Claim{Setup: kept}), "belongs into Init")
}

func TestFunctionsRegisteredAfterInitAreLoggedErrors(t *testing.T) {
	var kept *secretstack.Setup
	var text strings.Builder
	cfg := memConfig(t, "alice")
	cfg.Logger = slog.New(slog.NewTextHandler(&text, nil))
	app := start(t, memStack(t, plugin("late", func(s *secretstack.Setup) error {
		kept = s
		return nil
	})), cfg)
	called := func() { t.Error("a function that came late was called") }
	for name, register := range map[string]func(){
		"OnListening":  func() { kept.OnListening(called) },
		"OnConnect":    func() { kept.OnConnect(func(*secretstack.Peer) { called() }) },
		"OnDisconnect": func() { kept.OnDisconnect(func(*secretstack.Peer) { called() }) },
		"OnClose":      func() { kept.OnClose(called) },
	} {
		text.Reset()
		register()
		for _, want := range []string{"level=ERROR", name + " was called after Init", "plugin=late"} {
			if !strings.Contains(text.String(), want) {
				t.Errorf("%s: the log is %q, want %q in it", name, text.String(), want)
			}
		}
	}
	connect(t, app, app)
	if err := app.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestTransportsAndTransformsNeedNames(t *testing.T) {
	_, err := memStack(t, plugin("bad", func(s *secretstack.Setup) error { return s.Transport(nil) })).Start(t.Context(), memConfig(t, "alice"))
	wantErr(t, err, "a transport needs a name")
	_, err = memStack(t, plugin("bad", func(s *secretstack.Setup) error { return s.Transform(nil) })).Start(t.Context(), memConfig(t, "alice"))
	wantErr(t, err, "a transform needs a name")
}

func readVector(t testing.TB, name string, into any) {
	t.Helper()
	text, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, into); err != nil {
		t.Fatal(err)
	}
}
