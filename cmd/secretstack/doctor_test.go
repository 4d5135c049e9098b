package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/secretstack/secretstack/keys"
)

func TestTheDoctorSaysWhatIsThereAndWhatIsNot(t *testing.T) {
	root := t.TempDir()
	r := command(t, "", "doctor", "--root", root)
	if r.code != exitOK || !strings.Contains(r.out, "warn  identity: there is none") || !strings.Contains(r.out, "warn  courier: none") {
		t.Errorf("an empty folder: %d, %s%s", r.code, r.out, r.err)
	}
	if r := command(t, "", "doctor", "more"); r.code != exitUsage {
		t.Errorf("an argument: %d", r.code)
	}
	command(t, "", "keys", "--root", root)
	if r := command(t, "", "doctor", "--root", root); !strings.Contains(r.out, "ok    identity: @") {
		t.Errorf("an identity: %s", r.out)
	}
	if runtime.GOOS == "windows" {
		return
	}
	if err := os.Chmod(filepath.Join(root, "secret"), 0o644); err != nil { //nolint:gosec // that is what is wrong
		t.Fatal(err)
	}
	r = command(t, "", "doctor", "--root", root)
	if r.code != exitFailed || !strings.Contains(r.out, "fail  identity: ") || !strings.Contains(r.out, "chmod 600") {
		t.Errorf("others can read it: %d, %s", r.code, r.out)
	}
}

func TestTheDoctorLooksAtCourierAndHub(t *testing.T) {
	hubRoot := shortDir(t)
	t.Setenv(envRoot, hubRoot)
	n := start(t, "hub", "-p", "0", "-a", "127.0.0.1", "--root", hubRoot)
	h := newHome(t, "--hub", n.Addresses[0])
	wanted := func(r result) bool { return r.code == exitOK && strings.Contains(r.out, "with a mailbox") }
	r := h.try("", "doctor")
	for deadline := time.Now().Add(time.Minute); !wanted(r) && time.Now().Before(deadline); r = h.try("", "doctor") {
		time.Sleep(10 * time.Millisecond) // the courier is on its way to the hub
	}
	if !wanted(r) || !strings.Contains(r.out, "ok    courier: running since") {
		t.Fatalf("%d, %s%s", r.code, r.out, r.err)
	}
	r = command(t, "", "doctor", "--root", hubRoot)
	if r.code != exitOK || !strings.Contains(r.out, "ok    hub here: running since") || !strings.Contains(r.out, "ok    hub here: it answers at") {
		t.Errorf("the hub: %d, %s%s", r.code, r.out, r.err)
	}
	if strings.Contains(r.out, "warn  identity") || strings.Contains(r.out, "warn  courier") {
		t.Errorf("a courier is missed in the folder of a hub: %s", r.out)
	}
	if r = command(t, "", "hub", "cluster", "remove", "hub-4", "--root", hubRoot); r.code != exitFailed || !strings.Contains(r.err, "no node of a cluster") {
		t.Errorf("a node is removed at a hub that is alone: %d, %s", r.code, r.err)
	}
	h.stop()
	r = h.try("", "doctor", "--json")
	var findings []finding
	if err := json.Unmarshal([]byte(r.out), &findings); err != nil || r.code != exitFailed {
		t.Fatalf("%v, %d, %s", err, r.code, r.out)
	}
	found := false
	for _, f := range findings {
		found = found || f.About == "courier" && f.State == broken && strings.Contains(f.Advice, "secretstack courier")
	}
	if !found {
		t.Errorf("a courier that is stopped: %+v", findings)
	}
}

func TestTheDoctorKnowsAWrongHubAndAWrongClock(t *testing.T) {
	id, err := keys.Generate()
	if err != nil {
		t.Fatal(err)
	}
	other, err := keys.Generate()
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"key":%q}`, id.Public().String())
	}))
	at := strings.TrimPrefix(server.URL, "http://") + "~shs:"
	look := func(address string, late time.Duration) (bool, string) {
		var out bytes.Buffer
		d := &doctor{g: &globals{streams: streams{out: &out}}, now: func() time.Time { return time.Now().Add(late) }}
		good := d.reach(t.Context(), "hub", address, broken)
		_ = d.report()
		return good, out.String()
	}
	for _, c := range []struct {
		address string
		late    time.Duration
		good    bool
		says    string
	}{
		{"net:" + at + id.Public().Base64(), 0, true, ""},
		{"ws://" + at + id.Public().Base64(), 0, true, ""},
		{server.URL, 0, true, ""},
		{"onion:example.onion:80~shs:" + id.Public().Base64(), 0, true, ""},
		{"net:" + at + other.Public().Base64(), 0, false, "fail  hub: another key answers there"},
		{"net:" + at + id.Public().Base64(), time.Hour, true, "warn  hub: its clock differs from ours by"},
	} {
		if good, says := look(c.address, c.late); good != c.good || !strings.HasPrefix(says, c.says) || c.says == "" && says != "" {
			t.Errorf("%s, %v late: %v, %s", c.address, c.late, good, says)
		}
	}
	server.Close()
	if good, says := look("net:"+at+id.Public().Base64(), 0); good || !strings.Contains(says, "fail  hub: it cannot be reached") {
		t.Errorf("%v, %s", good, says)
	}
}
