package main

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
)

func TestNotesNameTheInstalledVersions(t *testing.T) {
	var notes strings.Builder
	for _, r := range allRows("js", "") {
		for _, p := range r.Peers {
			notes.WriteString(p.Name + " " + p.Note + "\n")
		}
	}
	wants := []string{"secret-handshake", "pull-box-stream", "muxrpc", "multiserver"}
	for file, names := range map[string][]string{"js/package.json": wants, "secrez/package.json": {"@secrez/hub"}} {
		versions := dependencies(t, file)
		for _, name := range names {
			if want := name + " " + versions[name]; !strings.Contains(notes.String(), want) {
				t.Errorf("no note names %q", want)
			}
		}
	}
	for file, modules := range map[string][][2]string{
		"go.mod":     {{"tailscale.com", "tailscale.com/derp/derpserver"}, {"github.com/libp2p/go-libp2p", "go-libp2p"}},
		"frp/go.mod": {{"github.com/fatedier/frp", "frp"}},
	} {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range modules {
			_, rest, _ := strings.Cut(string(raw), "\t"+m[0]+" v")
			version, _, _ := strings.Cut(rest, "\n")
			version, _, _ = strings.Cut(version, " ")
			if want := m[1] + " " + version; version == "" || !strings.Contains(notes.String(), want) {
				t.Errorf("no note names %q", want)
			}
		}
	}
}

func dependencies(t *testing.T, file string) map[string]string {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var manifest struct{ Dependencies map[string]string }
	if err := json.Unmarshal(raw, &manifest); err != nil {
		t.Fatal(err)
	}
	return manifest.Dependencies
}

func TestLockfilesNameNoRegistry(t *testing.T) {
	for _, file := range []string{"js/package-lock.json", "secrez/package-lock.json"} {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, word := range []string{`"resolved": "http`, "registry"} {
			if strings.Contains(string(raw), word) {
				t.Errorf("%s contains %q", file, word)
			}
		}
	}
}

func TestItemsHaveTheSizeThatTheRowNames(t *testing.T) {
	for _, n := range []int{0, 1, 899_999, 900_000} {
		raw, err := json.Marshal(newItem(n))
		if err != nil || len(raw) != itemSize {
			t.Errorf("item %d is %d bytes (%v): %s", n, len(raw), err, raw)
		}
	}
}
