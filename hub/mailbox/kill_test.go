package mailbox

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/secretstack/secretstack/hub/registry"
)

const (
	childDir   = "MAILBOX_CHILD_DIR" // set: this process is not a test, but mailboxes to be killed
	childRound = "MAILBOX_CHILD_ROUND"

	childFailed     = 3 // how a child exits that was not killed
	childRecipients = 4
	childSenders    = 6
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		fmt.Fprintln(os.Stderr, child(dir))
		os.Exit(childFailed)
	}
	os.Exit(m.Run())
}

// childTB makes the helpers usable outside a test.
type childTB struct{ testing.TB }

func (childTB) Helper()           {}
func (childTB) Cleanup(func())    {}
func (childTB) Fatal(args ...any) { fmt.Fprintln(os.Stderr, args...); os.Exit(childFailed) }
func (childTB) Fatalf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
	os.Exit(childFailed)
}

// A child says "+ n" when envelope n has been deposited, "~ n" before it is acknowledged and "- n" after that.
func say(what string, n uint64) { _, _ = fmt.Fprintf(os.Stdout, "%s %d\n", what, n) } // one write a line

// child deposits, reads and acknowledges until it is killed.
func child(dir string) error {
	var round uint64
	if _, err := fmt.Sscan(os.Getenv(childRound), &round); err != nil {
		return err
	}
	tb := childTB{}
	r, err := registry.Open(context.Background(), registryConfig(tb, dir))
	if err != nil {
		return err
	}
	m := open(tb, Config{Registry: r})
	var names []string
	for i := range childSenders {
		names = append(names, fmt.Sprint("sender ", i))
	}
	for i := range childRecipients {
		allow(tb, m, key(tb, fmt.Sprint("recipient ", i)), friends(tb, names...))
	}
	balanced(tb, m)
	say("open", 0)
	for i := range childSenders {
		go childSends(tb, m, i, round)
	}
	for i := range childRecipients {
		go childReads(tb, m, i)
	}
	select {}
}

// childSends deposits for one recipient after the other, in sizes that make the engine clean up.
func childSends(tb childTB, m *Mailboxes, i int, round uint64) {
	from := key(tb, fmt.Sprint("sender ", i))
	for n := round<<32 | uint64(i)<<24; ; n++ {
		size := 1024
		if n%4 == 0 {
			size = 64 << 10
		}
		d := Deposit{Sender: from, Recipient: key(tb, fmt.Sprint("recipient ", n%childRecipients)), Envelope: envelope(n, size)}
		_, err := m.Deposit(context.Background(), d)
		switch {
		case err == nil:
			say("+", n)
		case errors.Is(err, ErrSenderFull), errors.Is(err, ErrMailboxFull):
			time.Sleep(time.Millisecond)
		default:
			tb.Fatal(err)
		}
	}
}

// childReads acknowledges two envelopes of three.
func childReads(tb childTB, m *Mailboxes, i int) {
	to := key(tb, fmt.Sprint("recipient ", i))
	for e, err := range m.Waiting(context.Background(), to, true) {
		if err != nil {
			tb.Fatal(err)
		}
		n := binary.BigEndian.Uint64(e.Envelope)
		if n%3 == 0 {
			continue
		}
		say("~", n)
		acknowledge(tb, m, to, e)
		say("-", n)
	}
}

// told is what a child has said of an envelope.
type told struct{ kept, trying, gone bool }

// runChild runs a child until it has said so many lines, or for some time, and kills it.
func runChild(t *testing.T, dir string, round, lines int, all map[uint64]told) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childDir+"="+dir, fmt.Sprintf("%s=%d", childRound, round))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if round%4 == 3 { // while it opens what the last kill left, or soon after
		early := time.AfterFunc(time.Duration(rand.IntN(250))*time.Millisecond, func() { _ = cmd.Process.Kill() })
		defer early.Stop()
	}
	for scanner := bufio.NewScanner(out); scanner.Scan(); {
		var what string
		var n uint64
		if _, err := fmt.Sscan(scanner.Text(), &what, &n); err != nil {
			t.Fatalf("the child says %q", scanner.Text())
		}
		s := all[n]
		switch what {
		case "+":
			s.kept = true
		case "~":
			s.trying = true
		case "-":
			s.gone = true
		}
		all[n] = s
		if lines--; lines == 0 {
			_ = cmd.Process.Kill() // what it has said already is read on
		}
	}
	if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() == childFailed {
		t.Fatalf("the child ended by itself: %v", err)
	}
}

// What was answered is so, whenever the process is killed: deposits are there, in order, and what was acknowledged is not.
func TestWhatWasAnsweredSurvivesKills(t *testing.T) {
	rounds, lines := 10, 1000
	if raceDetector || testing.Short() {
		rounds, lines = 5, 300
	}
	dir := t.TempDir()
	all := map[uint64]told{}
	for round := range rounds {
		runChild(t, dir, round+1, lines/2+rand.IntN(lines), all)
	}
	m := open(t, Config{Registry: openRegistry(t, registryConfig(t, dir))})
	balanced(t, m)
	there := map[uint64]bool{}
	for i := range childRecipients {
		last := map[uint64]uint64{}
		for _, e := range waiting(t, m, key(t, fmt.Sprint("recipient ", i))) {
			n := binary.BigEndian.Uint64(e.Envelope)
			if there[n] || n%childRecipients != uint64(i) {
				t.Errorf("envelope %x is there twice, or in the wrong mailbox", n)
			}
			there[n] = true
			sender := n >> 24 & 0xff
			if n < last[sender] {
				t.Errorf("envelope %x comes after %x", n, last[sender])
			}
			last[sender] = n
		}
	}
	kept, gone := 0, 0
	for n, s := range all {
		switch {
		case s.gone:
			gone++
			if there[n] {
				t.Errorf("envelope %x was acknowledged, and is there", n)
			}
		case s.kept:
			kept++
			if !s.trying && !there[n] {
				t.Errorf("envelope %x was kept, and is gone", n)
			}
		}
	}
	t.Logf("%d kills: %d kept, %d acknowledged, %d are there", rounds, kept, gone, len(there))
}
