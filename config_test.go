package secretstack_test

import (
	"encoding/base64"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"testing"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/internal/memnet"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/multiserver"
)

// seen is what a plugin named foo sees of its configuration.
type seen struct {
	own    map[string]any
	global map[string]any
}

func see(t *testing.T, defaults secretstack.Settings, cfg secretstack.Config) seen {
	t.Helper()
	var s seen
	look := plugin("foo", func(setup *secretstack.Setup) error {
		if err := setup.Config(&s.own); err != nil {
			return err
		}
		return setup.Global(&s.global)
	})
	other := plugin("bar", func(*secretstack.Setup) error { return nil })
	stack := stackOf(t, secretstack.Options{Bare: true, Settings: defaults}, look, other, memnet.Plugin(memnet.New()))
	start(t, stack, cfg)
	return s
}

func withSettings(t *testing.T, s secretstack.Settings) secretstack.Config {
	cfg := memConfig(t, "alice")
	cfg.Settings = s
	return cfg
}

func TestPluginSeesItsOwnSectionAndTheGlobalOneOnly(t *testing.T) {
	got := see(t, nil, withSettings(t, secretstack.Settings{
		"global": map[string]any{"x": 1},
		"foo":    map[string]any{"y": 2},
		"bar":    map[string]any{"z": 3},
	}))
	want := seen{own: map[string]any{"y": 2.0}, global: map[string]any{"x": 1.0}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the plugin sees %v, want %v", got, want)
	}
}

func TestFlatSettingsOfOlderStacksLoad(t *testing.T) {
	got := see(t, nil, withSettings(t, secretstack.Settings{
		"appKey": "KG3zQ7KwbZcbjXqQ2xBzqUMdU9x8cYN3GDQWfrG2Yb8=",
		"host":   "localhost",
		"foo":    map[string]any{"y": 2},
		"bar":    map[string]any{"z": 3},
		"other":  true,
	}))
	want := seen{
		own:    map[string]any{"y": 2.0},
		global: map[string]any{"host": "localhost", "other": true}, // the app key is the app's secret
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the plugin sees %v, want %v", got, want)
	}
}

func TestSettingsAreMergedDeeply(t *testing.T) {
	got := see(t, secretstack.Settings{
		"global": map[string]any{"nested": map[string]any{"a": 1, "both": map[string]any{"x": 1}}},
		"foo":    map[string]any{"q": 1, "arr": []int{1, 2, 3}, "kept": true},
	}, withSettings(t, secretstack.Settings{
		"global": map[string]any{"nested": map[string]any{"both": map[string]any{"y": 2}}},
		"foo":    map[string]any{"w": 2, "arr": []int{9}, "kept": nil},
	}))
	want := seen{
		own:    map[string]any{"q": 1.0, "w": 2.0, "arr": []any{9.0}, "kept": true},
		global: map[string]any{"nested": map[string]any{"a": 1.0, "both": map[string]any{"x": 1.0, "y": 2.0}}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the plugin sees %v, want %v", got, want)
	}
}

func TestConfigFillsAStructOverItsDefaults(t *testing.T) {
	type config struct {
		Word  string
		Times int
	}
	c := config{Word: "hello", Times: 3}
	cfg := memConfig(t, "alice")
	cfg.Settings["my-greeter"] = config{Word: "hi", Times: 3}
	start(t, memStack(t, plugin("myGreeter", func(s *secretstack.Setup) error { return s.Config(&c) })), cfg)
	if c != (config{Word: "hi", Times: 3}) {
		t.Errorf("config is %+v", c)
	}
}

// TestSectionsAreFoundByAnySpelling: "ssb2-b" becomes ssb2B, which by the same rules would become ssb2b.
func TestSectionsAreFoundByAnySpelling(t *testing.T) {
	for _, key := range []string{"ssb2-b", "ssb2B"} {
		var c struct{ X int }
		cfg := memConfig(t, "alice")
		cfg.Settings[key] = map[string]any{"x": 1}
		start(t, memStack(t, plugin("ssb2-b", func(s *secretstack.Setup) error { return s.Config(&c) })), cfg)
		if c.X != 1 {
			t.Errorf("the section %q is not found", key)
		}
	}
}

func TestSettingsThatDoNotFitAreErrors(t *testing.T) {
	var c struct{ Times int }
	look := plugin("foo", func(s *secretstack.Setup) error { return s.Config(&c) })
	for name, test := range map[string]struct {
		settings secretstack.Settings
		want     string
	}{
		"wrong type":       {secretstack.Settings{"foo": map[string]any{"times": "many"}}, `settings of plugin "foo"`},
		"global no object": {secretstack.Settings{"global": 3}, `"global" is not an object`},
		"not JSON":         {secretstack.Settings{"foo": func() {}}, "settings: json"},
		"bad seed":         {secretstack.Settings{"global": map[string]any{"seed": "abc"}}, "seed is not 32 bytes in base64"},
		"bad key":          {secretstack.Settings{"global": map[string]any{"keys": map[string]any{"private": "abc"}}}, "keys.private is not 64 bytes in base64"},
		"bad app key":      {secretstack.Settings{"appKey": "%"}, "not an app key"},
		"short app key":    {secretstack.Settings{"appKey": "YWJj"}, "app key"},
		"bad port":         {secretstack.Settings{"port": "eight"}, "port is not a number"},
		"bad connections":  {secretstack.Settings{"connections": 3}, "connections is not an object"},
		"bad path":         {secretstack.Settings{"global": map[string]any{"path": 3}}, "settings: path is not text"},
		"bad host":         {secretstack.Settings{"global": map[string]any{"host": []string{"::"}}}, "settings: host is not text"},
		"bad timers":       {secretstack.Settings{"global": map[string]any{"timers": 3}}, "settings: timers is not an object"},
		"bad inactivity":   {secretstack.Settings{"timers": map[string]any{"inactivity": "x"}}, "settings: timers.inactivity is not a number of milliseconds"},
		"bad handshake":    {secretstack.Settings{"timers": map[string]any{"handshake": true}}, "settings: timers.handshake is not a number of milliseconds"},
		"bad timeout":      {secretstack.Settings{"timeout": map[string]any{}}, "settings: timeout is not a number of milliseconds"},
		"bad keys":         {secretstack.Settings{"keys": "x"}, "settings: keys is not an object"},
		"bad caps":         {secretstack.Settings{"caps": "x"}, "settings: caps is not an object"},
		"app key, number":  {secretstack.Settings{"appKey": 3}, "settings: appKey is not text"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := withSettings(t, test.settings)
			cfg.Identity = nil
			_, err := memStack(t, look).Start(t.Context(), cfg)
			wantErr(t, err, test.want)
		})
	}
	cfg := memConfig(t, "alice")
	cfg.Port = 70000
	_, err := memStack(t).Start(t.Context(), cfg)
	wantErr(t, err, "port is not a number")
}

// TestConfigIsTheGlobalOneWithoutSecrets: what plugins and logs see must not hold the identity.
func TestConfigIsTheGlobalOneWithoutSecrets(t *testing.T) {
	seed := identity(t, "alice").Seed()
	cfg := withSettings(t, secretstack.Settings{"global": map[string]any{"seed": seed, "keys": nil, "x": 1}, "foo": 2})
	cfg.Identity = nil
	app := start(t, memStack(t), cfg)
	if !app.ID().Equal(identity(t, "alice").Public()) {
		t.Errorf("the app is %s", app.ID())
	}
	want := secretstack.Settings{"global": map[string]any{"x": 1.0}}
	if got := app.Config(); !reflect.DeepEqual(got, want) {
		t.Errorf("config is %v, want %v", got, want)
	}
}

func TestIdentityComesFromWhereTheOriginalLooks(t *testing.T) {
	alice, bob := identity(t, "alice"), identity(t, "bob")
	seed := base64.StdEncoding.EncodeToString(alice.Seed())
	private := base64.StdEncoding.EncodeToString(append(bob.Seed(), bob.Public().Bytes()...)) + ".ed25519"
	for name, test := range map[string]struct {
		settings secretstack.Settings
		want     keys.PublicKey
	}{
		"seed":               {secretstack.Settings{"global": map[string]any{"seed": seed}}, alice.Public()},
		"seed, flat":         {secretstack.Settings{"seed": seed}, alice.Public()},
		"seed of the plugin": {secretstack.Settings{"multiserverShs": map[string]any{"seed": seed}}, alice.Public()},
		"keys":               {secretstack.Settings{"keys": map[string]any{"private": private}}, bob.Public()},
		"keys win": {secretstack.Settings{"global": map[string]any{
			"keys": map[string]any{"private": private}, "seed": seed,
		}}, bob.Public()},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := withSettings(t, test.settings)
			cfg.Identity = nil
			if got := start(t, memStack(t), cfg).ID(); !got.Equal(test.want) {
				t.Errorf("the app is %s, want %s", got, test.want)
			}
		})
	}
}

func TestIdentityIsKeptInDir(t *testing.T) {
	cfg := memConfig(t, "alice")
	cfg.Identity, cfg.Dir = nil, t.TempDir()
	stack := memStack(t)
	first := start(t, stack, cfg)
	if err := first.Close(t.Context()); err != nil {
		t.Error(err)
	}
	second := start(t, stack, cfg)
	if !first.ID().Equal(second.ID()) {
		t.Error("the app has another identity the second time")
	}
	info, err := os.Stat(filepath.Join(cfg.Dir, "secret"))
	if err != nil || info.Mode().Perm()&0o077 != 0 {
		t.Errorf("the secret file: %v, %v", info, err)
	}

	cfg.Dir = ""
	cfg.Settings = secretstack.Settings{"memory": map[string]any{"name": "x"}}
	third := start(t, stack, cfg)
	if third.ID().Equal(second.ID()) {
		t.Error("an app without a place to keep it has the same identity")
	}
}

func TestConnectionsHaveTheDefaultsOfTheOriginal(t *testing.T) {
	cfg := quiet(t, "alice")
	cfg.Host = ""
	cfg.Settings = secretstack.Settings{"host": "127.0.0.1", "port": "0"}
	app := start(t, stackOf(t, secretstack.Options{}), cfg)
	got, err := json.Marshal(app.Connections())
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"incoming":{"net":[{"host":"127.0.0.1","scope":["device","local","public"],"transform":"shs"}]},"outgoing":{"net":[{"transform":"shs"}]}}`
	if string(got) != want {
		t.Errorf("connections are %s, want %s", got, want)
	}
}

func TestConfiguredConnectionsReplaceTheDefault(t *testing.T) {
	cfg := quiet(t, "alice")
	cfg.Settings = secretstack.Settings{"connections": map[string]any{"outgoing": map[string]any{"net": []any{map[string]any{"transform": "shs"}}}}}
	app := start(t, stackOf(t, secretstack.Options{}), cfg)
	if got := app.Address("device"); got != "" {
		t.Errorf("the app listens at %s", got)
	}
	cfg.Settings = nil
	cfg.Connections = &multiserver.Config{}
	app = start(t, stackOf(t, secretstack.Options{}), cfg)
	if got := app.Address("device"); got != "" {
		t.Errorf("the app listens at %s", got)
	}
}

// TestWartUnknownNamesInConnectionsAreErrors: the original ignored entries for transports and transforms it had not.
func TestWartUnknownNamesInConnectionsAreErrors(t *testing.T) {
	cfg := quiet(t, "alice")
	cfg.Connections = &multiserver.Config{Incoming: map[string][]multiserver.Incoming{"carrier-pigeon": {{Transform: "shs"}}}}
	_, err := stackOf(t, secretstack.Options{}).Start(t.Context(), cfg)
	wantErr(t, err, `names the transport "carrier-pigeon"`)
}

// Host and Port fill in what the connections leave open, and nothing else.
func TestHostAndPortFillInWhatTheConnectionsLeaveOpen(t *testing.T) {
	given := &multiserver.Config{Incoming: map[string][]multiserver.Incoming{"net": {
		{Scope: multiserver.Scopes{multiserver.Device, multiserver.Local}, Transform: "shs"},
	}}}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := ln.Addr().(*net.TCPAddr).Port
	_ = ln.Close()
	cfg := quiet(t, "alice")
	cfg.Host, cfg.Port, cfg.Connections = "127.0.0.1", port, given
	app := start(t, stackOf(t, secretstack.Options{}), cfg)
	want := "net:127.0.0.1:" + strconv.Itoa(port) + "~shs:" + app.ID().Base64()
	if got := app.Address(multiserver.Local); got != want {
		t.Errorf("the app listens at %s, want %s", got, want)
	}
	if given.Incoming["net"][0].Host != "" {
		t.Error("the caller's configuration was changed")
	}
}
