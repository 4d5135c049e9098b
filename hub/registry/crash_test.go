package registry

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/secretstack/secretstack/hub/registry/claim"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/secrez"
)

const (
	childDir   = "REGISTRY_CHILD_DIR"   // set: this process is not a test, but a registry to be killed
	childFirst = "REGISTRY_CHILD_FIRST" // the number of the first owner to register

	childFailed = 3 // how a child exits that was not killed
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		fmt.Fprintln(os.Stderr, child(dir))
		os.Exit(childFailed)
	}
	os.Exit(m.Run())
}

// child registers owners, many at a time, and says each id that it was given, until it is killed. Every eighth owner resets
// its id at once, and every eighth is given up for another key.
func child(dir string) error {
	first, err := strconv.ParseUint(os.Getenv(childFirst), 10, 64)
	if err != nil {
		return err
	}
	tb := childTB{}
	r, err := Open(context.Background(), config(tb, dir))
	if err != nil {
		return err
	}
	_, _ = fmt.Fprintln(os.Stdout, "open")
	todo := make(chan uint64)
	failed := make(chan error, 1)
	for range 64 {
		go func() {
			for n := range todo {
				if err := childRegister(tb, r, n); err != nil {
					failed <- err
				}
			}
		}()
	}
	for n := first; ; n++ {
		select {
		case todo <- n:
		case err := <-failed:
			return err
		}
	}
}

func childRegister(tb childTB, r *Registry, n uint64) error {
	owner := identity(tb, n)
	rec, err := r.Register(context.Background(), native(tb, owner))
	if err == nil && n%8 == 0 {
		rec, err = r.Register(context.Background(), statement(tb, owner, claim.Statement{
			Action: claim.Reset, ID: rec.ID, Sequence: rec.Sequence + 1,
		}))
	}
	if err == nil && n%8 == 4 {
		rec, err = r.Register(context.Background(), rotating(tb, heir(tb, n), owner))
	}
	if err == nil {
		_, err = fmt.Fprintf(os.Stdout, "%d %v\n", n, rec.ID) // one write a line
	}
	return err
}

// heir gives the key for which that of an owner is given up.
func heir(tb testing.TB, n uint64) *keys.Identity { return identity(tb, 1<<62+n) }

// holder gives the key that has the id of an owner who was told it.
func holder(tb testing.TB, r *Registry, n uint64) *keys.Identity {
	tb.Helper()
	if n%8 != 4 {
		return identity(tb, n)
	}
	refused(tb, r, native(tb, identity(tb, n)), ErrGivenUp)
	return heir(tb, n)
}

// childTB makes the helpers usable outside a test.
type childTB struct{ testing.TB }

func (childTB) Helper()           {}
func (childTB) Fatal(args ...any) { fmt.Fprintln(os.Stderr, args...); os.Exit(childFailed) }

// startChild runs a registry in a process of its own.
func startChild(t *testing.T, dir string, first uint64) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	cmd := childCommand(t, dir, first)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, bufio.NewScanner(out)
}

func childCommand(t *testing.T, dir string, first uint64) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childDir+"="+dir, childFirst+"="+strconv.FormatUint(first, 10))
	cmd.Stderr = os.Stderr
	return cmd
}

// noteLine takes in what a child says.
func noteLine(t *testing.T, line string, acknowledged map[uint64]secrez.ID) uint64 {
	t.Helper()
	if line == "open" {
		return 0
	}
	number, text, _ := strings.Cut(line, " ")
	n, err := strconv.ParseUint(number, 10, 64)
	id, idErr := secrez.ParseID(text)
	if err != nil || idErr != nil {
		t.Fatalf("the child says %q", line)
	}
	acknowledged[n] = id
	return n
}

// The original kept its rows in a file that nobody synced. Here an id that was told to somebody survives a process that is
// killed at any moment.
func TestEveryAcknowledgedIDSurvivesKills(t *testing.T) {
	t.Parallel()
	want, rounds := 10_000, 8
	if raceDetector {
		want = 1_500
	}
	dir := t.TempDir()
	acknowledged := map[uint64]secrez.ID{}
	kills, next := 0, uint64(1)
	for len(acknowledged) < want {
		cmd, lines := startChild(t, dir, next)
		var early *time.Timer
		limit := want/rounds + rand.IntN(want/rounds)
		if kills%4 == 1 { // while it opens what the last kill left, or soon after
			early = time.AfterFunc(time.Duration(rand.IntN(250))*time.Millisecond, func() { _ = cmd.Process.Kill() })
		}
		for lines.Scan() {
			next = max(next, noteLine(t, lines.Text(), acknowledged)+1)
			if limit--; limit == 0 {
				_ = cmd.Process.Kill() // what it has said already is read on
			}
		}
		if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() == childFailed {
			t.Fatalf("the child ended by itself: %v", err)
		}
		if early != nil {
			early.Stop()
		}
		next += 1000 // what was under way may be there, or not
		kills++
	}
	r := open1(t, config(t, dir))
	seen := map[secrez.ID]bool{}
	for n, id := range acknowledged {
		rec, ok := r.LookupKey(holder(t, r, n).Public())
		if !ok || rec.ID != id {
			t.Errorf("owner %d was told %v, there is %v", n, id, rec.ID)
		}
		if seen[id] {
			t.Errorf("%v was given twice", id)
		}
		seen[id] = true
	}
	for _, id := range []secrez.ID{acknowledged[1], acknowledged[4], acknowledged[8]} {
		if id.IsZero() {
			continue
		}
		if err := r.Verify(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
	t.Logf("%d ids were acknowledged and %d are there after %d kills", len(acknowledged), r.Count(), kills)
}

func TestAnotherProcessCannotShareTheFolder(t *testing.T) {
	dir := t.TempDir()
	cmd, lines := startChild(t, dir, 1)
	if !lines.Scan() || lines.Text() != "open" {
		t.Fatalf("the child says %q", lines.Text())
	}
	_, err := Open(t.Context(), config(t, dir))
	if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), strconv.Itoa(cmd.Process.Pid)) {
		t.Errorf("got %v", err)
	}
	if _, err := Restore(t.Context(), strings.NewReader(archiveMagic), dir); err == nil {
		t.Error("an archive is restored under a running hub")
	}
	_ = cmd.Process.Kill()
	for lines.Scan() {
	}
	_ = cmd.Wait()
	open1(t, config(t, dir)) // the lock went with the process
}
