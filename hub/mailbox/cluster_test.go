package mailbox

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/secretstack/secretstack/hub/cluster/credential"
	"github.com/secretstack/secretstack/hub/registry"
	"github.com/secretstack/secretstack/internal/testkit"
	"github.com/secretstack/secretstack/keys"
)

var freeAddresses = testkit.FreeAddresses

// cluster opens the registries of some nodes.
func cluster(t *testing.T, n int) []*registry.Registry {
	t.Helper()
	c, err := credential.New("test", identity(t, "hub"))
	if err != nil {
		t.Fatal(err)
	}
	addresses := freeAddresses(t, n)
	var cfgs []registry.Config
	for i, address := range addresses {
		name := fmt.Sprintf("node-%d", i+1)
		cfg := registryConfig(t, t.TempDir())
		cfg.Cluster = &registry.Cluster{Name: "test", Node: name, Listen: address, Peers: addresses, TLS: nodeTLS(t, c, name)}
		cfgs = append(cfgs, cfg)
	}
	return together(t, cfgs)
}

func nodeTLS(t *testing.T, c *credential.Credential, name string) *tls.Config {
	t.Helper()
	cfg, err := c.TLS(identity(t, name), name)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// together opens registries at the same time: each waits for the others.
func together(t *testing.T, cfgs []registry.Config) []*registry.Registry {
	t.Helper()
	all := make([]*registry.Registry, len(cfgs))
	var wg sync.WaitGroup
	for i, cfg := range cfgs {
		wg.Go(func() {
			r, err := registry.Open(context.Background(), cfg)
			if err != nil {
				t.Error(err)
				return
			}
			all[i] = r
		})
	}
	wg.Wait()
	t.Cleanup(func() {
		for _, r := range all {
			if r != nil {
				_ = r.Close()
			}
		}
	})
	if t.Failed() {
		t.FailNow()
	}
	return all
}

// persistent does something until the cluster takes it.
func persistent(t *testing.T, do func() error) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		err := do()
		if err == nil {
			return
		}
		if !errors.Is(err, ErrUnavailable) || time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

func TestMailboxesAreTheSameOnAllNodes(t *testing.T) {
	var all []*Mailboxes
	arrived := make(chan keys.PublicKey, 64)
	for i, r := range cluster(t, 3) {
		cfg := Config{Registry: r, Secret: secret(), Logger: testLogger(), Limits: Limits{MaxPerSender: 3}}
		if i == 2 {
			cfg.Arrived = func(recipient keys.PublicKey) { arrived <- recipient }
		}
		persistent(t, func() error {
			m, err := Open(t.Context(), cfg)
			if err == nil {
				t.Cleanup(func() { closed(t, m) })
				all = append(all, m)
			}
			return err
		})
	}
	alice, bob := key(t, "alice"), key(t, "bob")
	persistent(t, func() error { return all[0].Allow(t.Context(), alice, Policy{Keys: []keys.PublicKey{bob}}) })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	live := make(chan Envelope, 64)
	var reader sync.WaitGroup
	defer reader.Wait()
	defer cancel()
	reader.Go(func() {
		for e, err := range all[2].Waiting(ctx, alice, true) {
			if err == nil {
				live <- e
			}
		}
	})
	for n := range uint64(3) {
		persistent(t, func() error {
			_, err := all[n%2].Deposit(ctx, Deposit{Sender: bob, Recipient: alice, Envelope: envelope(n, 1024)})
			if errors.Is(err, ErrNoMailbox) { // this node has not heard of it yet
				return ErrUnavailable
			}
			return err
		})
		select {
		case e := <-live:
			if got := numbers([]Envelope{e}); got != fmt.Sprintf("[%d]", n) {
				t.Errorf("node 3 gives %s, want %d", got, n)
			}
			if got := <-arrived; !got.Equal(alice) {
				t.Errorf("mail for %v is said to have come", got)
			}
		case <-ctx.Done():
			t.Fatal("node 3 does not hear of it")
		}
	}
	count := func(n int) {
		t.Helper()
		for i, m := range all {
			persistent(t, func() error {
				if mails, _ := m.Count(alice); mails.Count != n {
					return fmt.Errorf("%w: node %d counts %d, want %d", ErrUnavailable, i+1, mails.Count, n)
				}
				return nil
			})
		}
	}
	count(3)
	_, err := all[1].Deposit(ctx, Deposit{Sender: bob, Recipient: alice, Envelope: envelope(9, 1024)})
	if !errors.Is(err, ErrSenderFull) {
		t.Errorf("what came over other nodes does not count: %v", err)
	}
	persistent(t, func() error {
		for e, err := range all[1].Waiting(ctx, alice, false) {
			if err == nil {
				err = all[1].Acknowledge(ctx, alice, e.ID)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	count(0)
	for _, m := range all {
		if got := waiting(t, m, alice); got != nil {
			t.Errorf("there is still %v", got)
		}
	}
}

// What a node hears while it counts is not in what it has counted, or is there twice.
func TestACountBesideNewsIsNotSure(t *testing.T) {
	m := opened(t, Limits{})
	if counted, sure := m.counted(); !counted || !sure {
		t.Errorf("nothing happened, and the count is %t, %t", counted, sure)
	}
	var b tag
	text, err := json.Marshal(news{Node: "another", Box: key(t, "alice"), Sender: b[:], Size: 1024})
	if err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var node sync.WaitGroup
	node.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				m.hear(&nats.Msg{Data: text})
			}
		}
	})
	testkit.Eventually(t, "a count is not sure", func() bool {
		counted, sure := m.counted()
		return counted && !sure
	})
	close(stop)
	node.Wait()
	m.countAnew()
	if mails, _ := m.Count(key(t, "alice")); mails.Count != 0 {
		t.Errorf("%d envelopes are counted that are not there", mails.Count)
	}
}
