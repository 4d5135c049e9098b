package secretstack

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/secretstack/secretstack/keys"
)

func TestTimersFollowEitherShape(t *testing.T) {
	timers := func(name string, ms any) map[string]any { return map[string]any{"timers": map[string]any{name: ms}} }
	global := func(m map[string]any) Settings { return Settings{"global": m} }
	for name, test := range map[string]struct {
		cfg                   Config
		inactivity, handshake time.Duration
	}{
		"nothing":           {Config{}, DefaultInactivity, 0},
		"8.x":               {Config{Settings: global(timers("inactivity", 100))}, 100 * time.Millisecond, 0},
		"8.x zero is never": {Config{Settings: global(timers("inactivity", 0))}, 0, 0},
		"8.x negative":      {Config{Settings: global(timers("inactivity", -1))}, 0, 0},
		"8.x as text":       {Config{Settings: global(timers("inactivity", "100"))}, 100 * time.Millisecond, 0},
		"8.x very long":     {Config{Settings: global(timers("inactivity", 1e300))}, 1e12 * time.Millisecond, 0},
		"6.x":               {Config{Settings: timers("inactivity", 100)}, 100 * time.Millisecond, 0},
		"6.x zero":          {Config{Settings: timers("inactivity", 0)}, DefaultInactivity, 0},
		"field":             {Config{Inactivity: time.Second, Settings: global(timers("inactivity", 100))}, time.Second, 0},
		"field, never":      {Config{Inactivity: -1}, 0, 0},
		"handshake":         {Config{Settings: global(timers("handshake", 1500))}, DefaultInactivity, 1500 * time.Millisecond},
		"timeout overrides": {Config{Settings: Settings{"timeout": 10, "timers": map[string]any{"handshake": 20}}}, DefaultInactivity, 10 * time.Millisecond},
		"handshake field":   {Config{HandshakeTimeout: time.Second, Settings: Settings{"timeout": 10}}, DefaultInactivity, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := test.cfg.resolve(nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			if r.inactivity != test.inactivity || r.handshake != test.handshake {
				t.Errorf("inactivity %v, handshake %v; want %v, %v", r.inactivity, r.handshake, test.inactivity, test.handshake)
			}
		})
	}
}

func TestAppKeyComesFromWhereTheOriginalLooks(t *testing.T) {
	const one, two, three = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=", "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=", "AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM=.suffix"
	caps := map[string]any{"shs": two}
	for name, test := range map[string]struct {
		settings Settings
		want     byte // of which the key consists; 0: the main network
	}{
		"nowhere":        {nil, 0},
		"plugin":         {Settings{"multiserverShs": map[string]any{"cap": one}, "global": map[string]any{"caps": caps, "appKey": three}}, 1},
		"caps":           {Settings{"global": map[string]any{"caps": caps, "appKey": three}}, 2},
		"appKey":         {Settings{"global": map[string]any{"appKey": three}}, 3},
		"6.x caps":       {Settings{"caps": caps, "appKey": three}, 2},
		"6.x appKey":     {Settings{"appKey": three}, 3},
		"dashed section": {Settings{"multiserver-shs": map[string]any{"cap": one}}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := (&Config{Settings: test.settings}).resolve(nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			want := keys.MainNet()
			if test.want != 0 {
				raw := [32]byte{}
				for i := range raw {
					raw[i] = test.want
				}
				want, _ = keys.NewAppKey(raw[:])
			}
			if !r.appKey.Equal(want) {
				t.Error("another app key")
			}
		})
	}
}

// FuzzSettings feeds configurations that somebody might have written: they load or say what is wrong.
func FuzzSettings(f *testing.F) {
	f.Add(`{"global":{"host":"::1","port":8008,"timers":{"inactivity":0}},"foo":{"a":[1]}}`)
	f.Add(`{"caps":{"shs":"AQ=="},"keys":{"private":"x"},"seed":"","timers":3,"connections":{"incoming":{"net":[{"scope":["device"],"port":"x"}]}}}`)
	f.Add(`{"global":null}`)
	f.Add(`{"connections":{"incoming":{"net":{}},"outgoing":[]},"port":-1}`)
	f.Fuzz(func(t *testing.T, text string) {
		var s Settings
		if json.Unmarshal([]byte(text), &s) != nil {
			return
		}
		cfg := Config{Settings: s}
		if s["path"] != nil || at(map[string]any(s), "global", "path") != nil {
			cfg.Dir = t.TempDir() // not where the settings say
		}
		r, err := cfg.resolve(s, nil)
		if (r == nil) == (err == nil) {
			t.Errorf("%v, %v", r, err)
		}
	})
}

// FuzzCamelCase checks that names are made of ASCII letters and digits.
func FuzzCamelCase(f *testing.F) {
	for _, name := range []string{"foo-bar", "HTTPAuth", "über-foo", "", "--", "a.b:c d_e", "K"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		once := camelCase(name)
		for _, r := range once {
			if !isWord(r) {
				t.Errorf("%q becomes %q", name, once)
			}
		}
	})
}
