package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/secretstack/secretstack/hub/cluster/credential"
	"github.com/secretstack/secretstack/hub/registry/claim"
	"github.com/secretstack/secretstack/internal/testkit"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/secrez"
)

var (
	freeAddresses = testkit.FreeAddresses
	eventually    = testkit.Eventually
)

// nodes are the registries of one cluster, in one process.
type nodes struct {
	tb   testing.TB
	cfgs []Config
	all  []*Registry
}

func nodeTLS(tb testing.TB, c *credential.Credential, n int) *tls.Config {
	tb.Helper()
	cfg, err := c.TLS(identity(tb, 1<<62+uint64(n)), fmt.Sprintf("node-%d", n+1))
	if err != nil {
		tb.Fatal(err)
	}
	return cfg
}

func clusterOf(tb testing.TB, n int) *nodes {
	tb.Helper()
	c, err := credential.New("test", hubIdentity(tb))
	if err != nil {
		tb.Fatal(err)
	}
	addresses := freeAddresses(tb, n)
	ns := &nodes{tb: tb, all: make([]*Registry, n)}
	for i := range n {
		cfg := config(tb, tb.TempDir())
		cfg.Limits.WriteTimeout = 5 * time.Second // what who is left alone waits in vain
		cfg.Cluster = &Cluster{
			Name: "test", Node: fmt.Sprintf("node-%d", i+1), Listen: addresses[i], Peers: addresses, TLS: nodeTLS(tb, c, i),
		}
		ns.cfgs = append(ns.cfgs, cfg)
	}
	tb.Cleanup(func() {
		for i := range ns.all {
			ns.stop(i)
		}
	})
	return ns
}

// start opens the registries of some nodes, at the same time.
func (ns *nodes) start(which ...int) {
	ns.tb.Helper()
	var wg sync.WaitGroup
	for _, i := range which {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
			defer cancel()
			r, err := Open(ctx, ns.cfgs[i])
			if err != nil {
				ns.tb.Errorf("node %d: %v", i+1, err)
				return
			}
			ns.all[i] = r
		})
	}
	wg.Wait()
	if ns.tb.Failed() {
		ns.tb.FailNow()
	}
}

func (ns *nodes) stop(i int) {
	if ns.all[i] != nil {
		closed(ns.tb, ns.all[i])
		ns.all[i] = nil
	}
}

// persist registers with a node until that works, as couriers do.
func persist(tb testing.TB, r *Registry, reg Registration) Record {
	tb.Helper()
	var rec Record
	eventually(tb, "a registration", func() bool {
		var err error
		rec, err = r.Register(tb.Context(), reg)
		if err != nil && !errors.Is(err, ErrUnavailable) {
			tb.Fatal(err)
		}
		return err == nil
	})
	return rec
}

// same waits until nodes agree on all records.
func (ns *nodes) same(records []Record) {
	ns.tb.Helper()
	for i, r := range ns.all {
		if r == nil {
			continue
		}
		eventually(ns.tb, fmt.Sprintf("node %d knows all", i+1), func() bool {
			for _, want := range records {
				got, ok := r.LookupKey(want.Key)
				byID, known := r.Lookup(want.ID)
				if !ok || !known || got.ID != want.ID || !byID.Key.Equal(want.Key) {
					return false
				}
			}
			return r.Count() == len(records)
		})
	}
}

func TestNodesOfAClusterShareTheirRecords(t *testing.T) {
	t.Parallel()
	ns := clusterOf(t, 3)
	ns.start(0, 1, 2)
	const owners = 60
	records := make([]Record, owners)
	var wg sync.WaitGroup
	for i := range owners { // each at two nodes at the same time
		first := make(chan Record, 1)
		wg.Go(func() { first <- persist(t, ns.all[i%3], native(t, identity(t, uint64(i)))) })
		wg.Go(func() {
			records[i] = persist(t, ns.all[(i+1)%3], native(t, identity(t, uint64(i))))
			if other := <-first; other.ID != records[i].ID {
				t.Errorf("owner %d got %v and %v", i, other.ID, records[i].ID)
			}
		})
	}
	wg.Wait()
	ns.same(records)

	owner := identity(t, 1)
	reset := statement(t, owner, claim.Statement{Action: claim.Reset, ID: records[1].ID, Sequence: records[1].Sequence + 1})
	now := persist(t, ns.all[2], reset)
	if now.ID == records[1].ID {
		t.Fatal("the reset gives the old id")
	}
	eventually(t, "the old id is retired everywhere", func() bool {
		return ns.all[0].Retired(records[1].ID) && ns.all[1].Retired(records[1].ID)
	})
	records[1] = now
	if err := ns.all[0].Verify(t.Context(), now.ID); err != nil {
		t.Error(err)
	}
	for i, r := range ns.all {
		eventually(t, "the cluster is seen", func() bool {
			s := r.Status()
			return s.Err == nil && s.Cluster.Leader != "" && len(s.Cluster.Replicas) == 3
		})
		ns.stop(i)
	}
	ns.start(2, 0, 1)
	ns.same(records)
}

func TestOneOfThreeNodesMayBeAway(t *testing.T) {
	t.Parallel()
	ns := clusterOf(t, 3)
	ns.start(0, 1, 2)
	var records []Record
	add := func(r *Registry) {
		t.Helper()
		records = append(records, persist(t, r, native(t, identity(t, uint64(len(records))))))
	}
	for i := range 3 {
		add(ns.all[i])
	}
	for away := range 3 {
		ns.stop(away)
		for i := range 3 {
			if i != away {
				add(ns.all[i])
			}
		}
		ns.same(records)
		ns.start(away)
		ns.same(records)
		add(ns.all[away])
	}
	ns.same(records)
}

func TestANodeThatIsLeftAloneServesWhatItKnows(t *testing.T) {
	t.Parallel()
	ns := clusterOf(t, 3)
	ns.start(0, 1, 2)
	owner := identity(t, 1)
	rec := persist(t, ns.all[1], native(t, owner))
	ns.same([]Record{rec})
	list, err := ns.all[0].Bucket(t.Context(), "list")
	if err != nil {
		t.Fatal(err)
	}
	ns.stop(1)
	ns.stop(2)

	r := ns.all[0]
	eventually(t, "the node says that it is alone", func() bool {
		s := r.Status()
		return errors.Is(s.Err, ErrUnavailable) && s.Cluster.Leader == ""
	})
	if got, ok := r.Lookup(rec.ID); !ok || !got.Key.Equal(owner.Public()) {
		t.Error("the look-up fails")
	}
	if got := register(t, r, native(t, owner)); got.ID != rec.ID {
		t.Errorf("a known courier gets %v", got.ID)
	}
	confirm := statement(t, owner, claim.Statement{Action: claim.Register, ID: rec.ID, Sequence: rec.Sequence})
	if got := register(t, r, confirm); got.ID != rec.ID {
		t.Errorf("a known courier that confirms its id gets %v", got.ID)
	}
	if _, err := r.Register(t.Context(), native(t, identity(t, 2))); !errors.Is(err, ErrUnavailable) {
		t.Errorf("a new courier: %v", err)
	}
	if _, err := list.Put(t.Context(), "key", nil); !errors.Is(err, ErrUnavailable) {
		t.Errorf("a list: %v", err)
	}
	ns.start(1)
	second := persist(t, r, native(t, identity(t, 2)))
	ns.same([]Record{rec, second})
	if s := r.Status(); s.Failures != 0 {
		t.Errorf("the engine was replaced %d times", s.Failures)
	}
	eventually(t, "the list can be written", func() bool {
		_, err := list.Put(t.Context(), "key", []byte("value"))
		return err == nil
	})
}

func TestBucketsAreTheSameOnAllNodes(t *testing.T) {
	t.Parallel()
	ns := clusterOf(t, 3)
	ns.start(0, 1, 2)
	var lists []*Bucket
	for _, r := range ns.all {
		var list *Bucket
		eventually(t, "the bucket", func() (ok bool) {
			var err error
			list, err = r.Bucket(t.Context(), "list")
			return err == nil
		})
		lists = append(lists, list)
	}
	// Of those who create a key at the same time one wins, and of those who change it.
	var wg sync.WaitGroup
	var mu sync.Mutex
	won := map[string]int{}
	for round := range 10 {
		key := fmt.Sprintf("key %d", round)
		for i, list := range lists {
			wg.Go(func() {
				_, err := list.Create(t.Context(), key, []byte{byte(i)})
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					won[key]++
				case !errors.Is(err, ErrExists):
					t.Errorf("%s: %v", key, err)
				}
			})
		}
	}
	wg.Wait()
	for key, n := range won {
		if n != 1 {
			t.Errorf("%d have created %s", n, key)
		}
	}
	ns.stop(0)
	eventually(t, "the others have all", func() bool {
		n := 0
		for _, err := range lists[1].All(t.Context()) {
			if err != nil {
				return false
			}
			n++
		}
		return n == 10
	})
}

// TestWhatIsAcknowledgedIsReadAtEveryNode at once, also where it was not written, and from those that do not have it yet.
func TestWhatIsAcknowledgedIsReadAtEveryNode(t *testing.T) {
	t.Parallel()
	ns := clusterOf(t, 3)
	ns.start(0, 1, 2)
	var lists []*Bucket
	for _, r := range ns.all {
		eventually(t, "the bucket", func() bool {
			list, err := r.Bucket(t.Context(), "list")
			if err == nil {
				lists = append(lists, list)
			}
			return err == nil
		})
	}
	for i := range 60 {
		key := fmt.Sprint("key ", i)
		if i%7 == 6 { // the last message is gone
			if err := lists[i%3].Delete(t.Context(), fmt.Sprint("key ", i-1)); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := lists[i%3].Put(t.Context(), key, make([]byte, 200<<10)); err != nil {
			t.Fatal(err)
		}
		there := false
		for item, err := range lists[(i+1)%3].All(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			there = there || item.Key == key
		}
		if !there {
			t.Errorf("node %d does not have %s, which node %d has written", (i+1)%3+1, key, i%3+1)
		}
	}
}

func TestStrangersDoNotBecomeNodes(t *testing.T) {
	t.Parallel()
	ns := clusterOf(t, 2)
	ns.cfgs[0].Replicas, ns.cfgs[1].Replicas = 1, 1
	ns.start(0, 1)
	other, err := credential.New("test", hubIdentity(t))
	if err != nil {
		t.Fatal(err)
	}
	cfg := config(t, t.TempDir())
	cfg.Cluster = &Cluster{
		Name: "test", Node: "stranger", Listen: freeAddresses(t, 1)[0], Peers: ns.cfgs[0].Cluster.Peers, TLS: nodeTLS(t, other, 9),
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if r, err := Open(ctx, cfg); err == nil {
		t.Error("a node of another cluster is taken")
		closed(t, r)
	} else if !errors.Is(err, ErrUnavailable) {
		t.Error(err)
	}
	conn, err := net.Dial("tcp", ns.cfgs[0].Cluster.Listen)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := conn.Write([]byte("CONNECT {\"verbose\":true,\"tls_required\":false}\r\nPING\r\n")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4096)
	n, _ := conn.Read(buf)
	for n > 0 && err == nil {
		if string(buf[:min(n, 4)]) == "PONG" {
			t.Fatal("a node talks in the clear")
		}
		n, err = conn.Read(buf)
	}
}

func TestAFolderIsOfOneKind(t *testing.T) {
	single := config(t, t.TempDir())
	r := open1(t, single)
	register(t, r, native(t, identity(t, 1)))
	closed(t, r)
	ns := clusterOf(t, 2)
	ns.cfgs[0].Dir = single.Dir
	if _, err := Open(t.Context(), ns.cfgs[0]); !errors.Is(err, ErrForeign) {
		t.Errorf("a single hub's folder as a node's: %v", err)
	}
	ns = clusterOf(t, 2)
	ns.cfgs[0].Replicas, ns.cfgs[1].Replicas = 1, 1
	ns.start(0, 1)
	ns.stop(0)
	alone := config(t, ns.cfgs[0].Dir)
	if _, err := Open(t.Context(), alone); !errors.Is(err, ErrForeign) {
		t.Errorf("a node's folder as a single hub's: %v", err)
	}
}

func TestAClusterIsConfiguredCompletely(t *testing.T) {
	c, err := credential.New("test", hubIdentity(t))
	if err != nil {
		t.Fatal(err)
	}
	good := func() Config {
		cfg := config(t, t.TempDir())
		cfg.Cluster = &Cluster{Name: "test", Node: "a", Listen: "127.0.0.1:0", TLS: nodeTLS(t, c, 0)}
		return cfg
	}
	for name, spoil := range map[string]func(*Config){
		"no name":            func(c *Config) { c.Cluster.Name = "" },
		"a node with a dot":  func(c *Config) { c.Cluster.Node = "a.b" },
		"no TLS":             func(c *Config) { c.Cluster.TLS = nil },
		"TLS on trust":       func(c *Config) { c.Cluster.TLS.InsecureSkipVerify = true },
		"TLS without client": func(c *Config) { c.Cluster.TLS.ClientAuth = tls.NoClientCert },
		"no address":         func(c *Config) { c.Cluster.Listen = "" },
		"a peer's port":      func(c *Config) { c.Cluster.Peers = []string{"host"} },
		"two replicas":       func(c *Config) { c.Replicas = 2 },
		"replicas alone":     func(c *Config) { c.Cluster, c.Replicas = nil, 3 },
		"a plain url":        func(c *Config) { c.Cluster.URL = "nats://192.0.2.1:4222" },
		"one plain url":      func(c *Config) { c.Cluster.URL = "tls://192.0.2.1:4222,nats://192.0.2.2:4222" },
	} {
		cfg := good()
		spoil(&cfg)
		if _, err := cfg.withDefaults(); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	if _, err := good().withDefaults(); err != nil {
		t.Error(err)
	}
}

// TestNoIDHasTwoOwners has several nodes give ids at once, some of which are to one that is about to end.
func TestNoIDHasTwoOwners(t *testing.T) {
	t.Parallel()
	ns := clusterOf(t, 3)
	ns.start(0, 1, 2)
	given := map[secrez.ID]keys.PublicKey{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i := range uint64(300) {
		wg.Go(func() {
			owner := identity(t, i)
			rec, err := ns.all[i%3].Register(t.Context(), native(t, owner))
			if err != nil {
				return // it was not acknowledged
			}
			mu.Lock()
			defer mu.Unlock()
			if other, taken := given[rec.ID]; taken && !other.Equal(rec.Key) {
				t.Errorf("%v is given twice", rec.ID)
			}
			given[rec.ID] = rec.Key
		})
	}
	closing := ns.all[1]
	wg.Go(func() {
		eventually(t, "some are given", func() bool { mu.Lock(); defer mu.Unlock(); return len(given) > 0 })
		closed(t, closing)
	})
	wg.Wait()
	ns.all[1] = nil
	if len(given) == 0 {
		t.Fatal("nothing was acknowledged")
	}
	for _, i := range []int{0, 2} {
		eventually(t, "what was acknowledged is there", func() bool {
			for id, key := range given {
				if rec, ok := ns.all[i].Lookup(id); !ok || !rec.Key.Equal(key) {
					return false
				}
			}
			return true
		})
	}
}
