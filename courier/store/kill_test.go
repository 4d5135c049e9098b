package store_test

import (
	"bufio"
	"context"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/secretstack/secretstack/courier/envelope"
	"github.com/secretstack/secretstack/courier/store"
)

const (
	killChild = "STORE_TEST_KILL_CHILD" // the store's path, for the process that is killed
	killTime  = "STORE_TEST_KILL_TIME"  // how long processes are killed, instead of five seconds
)

func TestMain(m *testing.M) {
	if path := os.Getenv(killChild); path != "" {
		fmt.Fprintln(os.Stderr, workUntilKilled(path))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// workUntilKilled changes a store and says on standard output what has been acknowledged.
func workUntilKilled(path string) error {
	ctx := context.Background()
	s, err := store.Open(ctx, path, store.Options{})
	if err != nil {
		return err
	}
	c, err := s.Contact(ctx, "bob")
	if err != nil {
		return err
	}
	t, first := &fatalTB{}, uint64(os.Getpid())<<20
	for i := first; ; i++ {
		sent, err := s.Queue(ctx, identity(t, alice), c.ID, store.Draft{Kind: envelope.Text, Body: []byte("x")})
		if err != nil {
			return err
		}
		fmt.Fprintf(os.Stdout, "queued %x\n", sent[0].Hash)
		m := text(t, bob, i, "y")
		if _, err := s.Receive(ctx, store.Mailbox, m); err != nil {
			return err
		}
		if _, err := s.Receive(ctx, store.Direct, text(t, bob, first, "y")); err != nil { // once more
			return err
		}
		hash := m.Hash()
		fmt.Fprintf(os.Stdout, "received %x\n", hash)
		waiting, err := s.Waiting(ctx, c.ID, 0, 1)
		if err != nil {
			return err
		}
		state := []store.State{store.AtHub, store.Delivered}[i%2]
		if err := s.Settle(ctx, store.Settlement{ID: waiting[0].ID, State: state, Note: ""}); err != nil {
			return err
		}
		if state == store.Delivered && waiting[0].Kind == envelope.Text {
			fmt.Fprintf(os.Stdout, "delivered %x\n", waiting[0].Hash)
		}
		if _, err := s.QueueReceipts(ctx, identity(t, alice)); err != nil {
			return err
		}
	}
}

// fatalTB lets the child use the tests' helpers.
type fatalTB struct{ testing.TB }

func (*fatalTB) Helper() {}

func (*fatalTB) Fatal(args ...any) {
	fmt.Fprintln(os.Stderr, args...)
	os.Exit(1)
}

// TestNothingAcknowledgedIsLostByKilling kills a process that writes, again and again, and looks after each time.
func TestNothingAcknowledgedIsLostByKilling(t *testing.T) {
	path := filepath.Join(t.TempDir(), "courier.db")
	s, err := store.Open(t.Context(), path, store.Options{})
	check(t, err)
	c := add(t, s, bob, "bob")
	check(t, s.Close())
	said := map[string]map[string]bool{"queued": {}, "received": {}, "delivered": {}}
	howLong := 5 * time.Second
	if text := os.Getenv(killTime); text != "" {
		howLong, err = time.ParseDuration(text)
		check(t, err)
	}
	done := 0
	for deadline := time.Now().Add(howLong); done < 10 || time.Now().Before(deadline); done++ {
		killOnce(t, path, rand.IntN(8), said)
		checkKilled(t, path, c.ID, said)
	}
	t.Logf("%d kills: %d queued, %d received, %d delivered", done, len(said["queued"]), len(said["received"]), len(said["delivered"]))
}

// killOnce lets a process work until it has acknowledged some changes, and kills it.
func killOnce(t *testing.T, path string, after int, said map[string]map[string]bool) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), killChild+"="+path)
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	check(t, err)
	check(t, cmd.Start())
	lines := bufio.NewScanner(out)
	for n := 0; lines.Scan(); n++ {
		if n == after {
			check(t, cmd.Process.Kill())
		}
		what, hash, whole := strings.Cut(lines.Text(), " ")
		if whole && len(hash) == 2*envelope.HashSize {
			said[what][hash] = true
		}
	}
	if err := cmd.Wait(); err == nil || errs.Len() > 0 {
		t.Fatalf("the process ended by itself: %v, %s", err, errs.String())
	}
}

// checkKilled compares what is there with what was acknowledged.
func checkKilled(t *testing.T, path string, contact int64, said map[string]map[string]bool) {
	t.Helper()
	s, err := store.Open(t.Context(), path, store.Options{})
	check(t, err)
	defer func() { check(t, s.Close()) }()
	there := map[string]store.Message{}
	for _, m := range messages(t, s, store.Query{Limit: 1 << 30}) {
		there[hex.EncodeToString(m.Hash[:])] = m
	}
	for what, hashes := range said {
		for hash := range hashes {
			m, ok := there[hash]
			if !ok || what == "delivered" && m.State != store.Delivered {
				t.Errorf("%s %s: there %v, state %v", what, hash[:8], ok, m.State)
			}
		}
	}
	outbox := map[string]store.State{}
	numbers := map[uint64]bool{}
	all, err := s.Waiting(t.Context(), contact, 0, 1<<30)
	check(t, err)
	for _, o := range all {
		m, err := envelope.Parse(o.Signed)
		check(t, err)
		if numbers[m.Number] {
			t.Errorf("two messages have the number %d", m.Number)
		}
		numbers[m.Number] = true
		outbox[hex.EncodeToString(o.Hash[:])] = o.State
	}
	for hash, m := range there {
		waits, ok := outbox[hash]
		switch {
		case m.Direction == store.Received && (m.State != store.Delivered || ok):
			t.Errorf("received %s is %v", hash[:8], m.State)
		case m.Direction == store.Sent && m.State == store.Delivered && ok, m.Direction == store.Sent && m.State != store.Delivered && waits != m.State:
			t.Errorf("sent %s is %v, and %v in the outbox", hash[:8], m.State, waits)
		}
	}
}

func TestAStoreOfANewerVersionIsLeftAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "courier.db")
	s, err := store.Open(t.Context(), path, store.Options{})
	check(t, err)
	check(t, s.Close())
	db, err := sql.Open("sqlite", path)
	check(t, err)
	_, err = db.ExecContext(t.Context(), `UPDATE version SET number = 99`)
	check(t, errors.Join(err, db.Close()))
	if _, err := store.Open(t.Context(), path, store.Options{}); !errors.Is(err, store.ErrNewer) {
		t.Errorf("error is %v", err)
	}
}
