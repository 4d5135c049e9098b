package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/secretstack/secretstack/hub/registry/claim"
)

const (
	originOwners  = 150
	originLetters = 100
)

// furnished is a single registry's folder with records, a list and mail, from which some have been taken away.
func furnished(t *testing.T) (cfg Config, records []Record) {
	t.Helper()
	cfg = config(t, t.TempDir())
	r := open1(t, cfg)
	for i := range uint64(originOwners) {
		records = append(records, register(t, r, native(t, identity(t, i))))
	}
	list, err := r.Bucket(t.Context(), "list")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		if _, err := list.Put(t.Context(), fmt.Sprint("key ", i), []byte{byte(i)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := list.Delete(t.Context(), "key 5"); err != nil {
		t.Fatal(err)
	}
	mail, err := r.Queue(t.Context(), "mail")
	if err != nil {
		t.Fatal(err)
	}
	for i := range originLetters + 10 {
		if _, err := mail.Append(t.Context(), "box", "label", fmt.Appendf(nil, "%04d", i)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range uint64(10) {
		if _, err := mail.Delete(t.Context(), i+1); err != nil {
			t.Fatal(err)
		}
	}
	reset := claim.Statement{Action: claim.Reset, ID: records[0].ID, Sequence: records[0].Sequence + 1}
	records[0] = register(t, r, statement(t, identity(t, 0), reset))
	if _, _, err := MakeOrigin(t.Context(), cfg); !errors.Is(err, ErrLocked) {
		t.Errorf("of a registry that is open: %v", err)
	}
	closed(t, r)
	return cfg, records
}

// beginWith makes nodes begin with a single registry's folder, which the first one has.
func (ns *nodes) beginWith(cfg Config) {
	ns.tb.Helper()
	sum, info, err := MakeOrigin(ns.tb.Context(), cfg)
	if err != nil || info.Records != originOwners || !info.Hub.Equal(cfg.Identity.Public()) {
		ns.tb.Fatalf("%+v, %v", info, err)
	}
	for i := range ns.cfgs {
		ns.cfgs[i].Cluster.Origin = sum[:]
	}
	ns.cfgs[0].Dir = cfg.Dir
}

// haveTheRest looks at what is not in the log.
func (ns *nodes) haveTheRest() {
	ns.tb.Helper()
	for i, r := range ns.all {
		list, err := r.Bucket(ns.tb.Context(), "list")
		if err != nil {
			ns.tb.Fatal(err)
		}
		got := map[string]byte{}
		for item, err := range list.All(ns.tb.Context()) {
			if err != nil {
				ns.tb.Fatal(err)
			}
			got[item.Key] = item.Value[0]
		}
		want := map[string]byte{}
		for i := range 10 {
			if i != 5 {
				want[fmt.Sprint("key ", i)] = byte(i)
			}
		}
		if !maps.Equal(got, want) {
			ns.tb.Errorf("node %d has the list %v", i+1, got)
		}
		mail, err := r.Queue(ns.tb.Context(), "mail")
		if err != nil {
			ns.tb.Fatal(err)
		}
		var from uint64
		for n := range originLetters {
			m, err := mail.Next(ns.tb.Context(), "box", from)
			if err != nil || string(m.Data) != fmt.Sprintf("%04d", n+10) || m.Label != "label" {
				ns.tb.Fatalf("node %d: letter %d is %q, %v", i+1, n, m.Data, err)
			}
			from = m.Sequence + 1
		}
		if m, err := mail.Next(ns.tb.Context(), "box", from); !errors.Is(err, ErrNotFound) {
			ns.tb.Errorf("node %d has a letter more: %q, %v", i+1, m.Data, err)
		}
	}
}

// TestAClusterBeginsWithWhatASingleHubHad, though the node that brings it is interrupted, and brings it with another one at the same time.
func TestAClusterBeginsWithWhatASingleHubHad(t *testing.T) {
	t.Parallel()
	cfg, records := furnished(t)
	ns := clusterOf(t, 3)
	ns.beginWith(cfg)
	if _, err := Open(t.Context(), cfg); !errors.Is(err, ErrForeign) {
		t.Errorf("it is opened alone once more: %v", err)
	}
	again, _, err := MakeOrigin(t.Context(), cfg)
	if err != nil || !bytes.Equal(again[:], ns.cfgs[0].Cluster.Origin) {
		t.Errorf("made again it is another one: %v", err)
	}
	text, err := os.ReadFile(filepath.Join(cfg.Dir, originName))
	if err != nil {
		t.Fatal(err)
	}

	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	others := make(chan *Registry, 2)
	for i := range 2 {
		go func() {
			r, err := Open(ctx, ns.cfgs[i+1])
			if err != nil {
				t.Errorf("node %d: %v", i+2, err)
			}
			others <- r
		}()
	}
	first, interrupt := context.WithCancel(ctx)
	defer interrupt()
	ns.cfgs[0].Cluster.Waiting = func(w Wait) {
		if w.Brought > 10+originLetters+originOwners/2 {
			interrupt()
		}
	}
	if r, err := Open(first, ns.cfgs[0]); err == nil {
		t.Error("it was not interrupted")
		closed(t, r)
	}
	select {
	case <-others:
		t.Error("a node does not wait for all that the single hub had")
	default:
	}
	// Somebody has copied the whole folder to the second machine.
	if err := os.WriteFile(filepath.Join(ns.cfgs[1].Dir, originPart), text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(ns.cfgs[1].Dir, originPart), filepath.Join(ns.cfgs[1].Dir, originName)); err != nil {
		t.Fatal(err)
	}
	ns.cfgs[0].Cluster.Waiting = nil
	ns.start(0)
	for range 2 {
		r := <-others
		if r == nil {
			t.FailNow()
		}
		for i := range ns.cfgs {
			if ns.cfgs[i].Dir == r.cfg.Dir {
				ns.all[i] = r
			}
		}
	}
	ns.same(records)
	ns.haveTheRest()
	for i := range ns.cfgs {
		if _, err := os.Stat(filepath.Join(ns.cfgs[i].Dir, originName)); err == nil {
			t.Errorf("node %d keeps the file", i+1)
		}
	}
	records = append(records, persist(t, ns.all[1], native(t, identity(t, originOwners))))
	ns.same(records)
	var archive bytes.Buffer
	if _, err := ns.all[2].Backup(t.Context(), &archive); err != nil {
		t.Fatal(err)
	}
	alone := config(t, filepath.Join(t.TempDir(), "alone"))
	if _, err := Restore(t.Context(), &archive, alone.Dir); err != nil {
		t.Fatal(err)
	}
	if r := open1(t, alone); r.Count() != len(records) {
		t.Errorf("a node's backup makes a single hub with %d records", r.Count())
	}
}

func TestNodesBeginWithNothingElseThanTheirOrigin(t *testing.T) {
	t.Parallel()
	cfg, _ := furnished(t)
	ns := clusterOf(t, 1)
	ns.cfgs[0].Replicas = 1
	ns.beginWith(cfg)
	ns.cfgs[0].Cluster.Origin = bytes.Clone(ns.cfgs[0].Cluster.Origin)
	ns.cfgs[0].Cluster.Origin[0]++
	if _, err := Open(t.Context(), ns.cfgs[0]); !errors.Is(err, ErrForeign) {
		t.Errorf("what another cluster is to begin with: %v", err)
	}
	ns.cfgs[0].Cluster.Origin[0]--
	path := filepath.Join(cfg.Dir, originName)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, cut := range []int{1, len(text) / 2} {
		if err := os.WriteFile(path, text[:len(text)-cut], 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(t.Context(), ns.cfgs[0]); !errors.Is(err, ErrArchive) {
			t.Errorf("a file that is cut short: %v", err)
		}
	}
}
