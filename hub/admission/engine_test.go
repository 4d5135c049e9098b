package admission

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/secretstack/secretstack/hub/registry"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/secrez"
)

// These tests run on the registry itself.

const (
	childDir   = "ADMISSION_CHILD_DIR"   // set: this process is not a test, but a hub to be killed
	childCodes = "ADMISSION_CHILD_CODES" // the invites it redeems
	childFirst = "ADMISSION_CHILD_FIRST" // the number of the first key that redeems

	childFailed = 3 // how a child exits that was not killed

	childKeys = 400 // how many keys a child lets in, if there are uses for them
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		fmt.Fprintln(os.Stderr, child(dir))
		os.Exit(childFailed)
	}
	os.Exit(m.Run())
}

func registryConfig(tb testing.TB, dir string) registry.Config {
	return registry.Config{Dir: dir, Identity: identity(tb, 1<<62), Limits: registry.Limits{MinFree: -1}}
}

// stored opens Admissions on a registry in a folder.
func stored(tb testing.TB, cfg registry.Config, n int) (all []*Admission, end func()) {
	tb.Helper()
	r, err := registry.Open(tb.Context(), cfg)
	if err != nil {
		tb.Fatal(err)
	}
	for range n {
		a, err := onRegistry(tb.Context(), r)
		if err != nil {
			tb.Fatal(err)
		}
		all = append(all, a)
	}
	return all, func() {
		for _, a := range all {
			closed(tb, a)
		}
		if err := r.Close(); err != nil {
			tb.Error(err)
		}
	}
}

func onRegistry(ctx context.Context, r *registry.Registry) (*Admission, error) {
	rules, err := r.Bucket(ctx, RulesBucket)
	if err != nil {
		return nil, err
	}
	invites, err := r.Bucket(ctx, InvitesBucket)
	if err != nil {
		return nil, err
	}
	return Open(ctx, Config{
		Mode: ModeInvite, Rules: rules, Invites: invites,
		IDOf:   func(k keys.PublicKey) secrez.ID { rec, _ := r.LookupKey(k); return rec.ID },
		Limits: Limits{Address: Rates{NewID: Rate{Every: -1}}},
		Logger: slog.New(slog.DiscardHandler),
	})
}

func TestWhatWasChangedIsThereAfterARestart(t *testing.T) {
	cfg := registryConfig(t, t.TempDir())
	n, end := stored(t, cfg, 1)
	a := n[0]
	expiring := rule(t, "deny 198.51.100.0/24 # for a week")
	expiring.Expires = time.Now().Add(7 * 24 * time.Hour)
	if err := a.SetRule(t.Context(), expiring); err != nil {
		t.Fatal(err)
	}
	set(t, a, "deny "+key(t, 1).Ref()+" # spam", "deny 7y-6ro-3z", "allow 2001:db8::/32", "deny 192.0.2.9")
	if err := a.RemoveRule(t.Context(), rule(t, "deny 192.0.2.9").Subject); err != nil {
		t.Fatal(err)
	}
	code, _ := invite(t, a, Invite{Uses: 2, Note: "two"})
	gone, gi := invite(t, a, Invite{Uses: 2})
	want(t, "redeem", publish(t, a, key(t, 2), code), nil)
	want(t, "redeem", publish(t, a, key(t, 3), gone), nil)
	want(t, "revoke", a.RevokeInvite(t.Context(), gi.ID), nil)
	rules, invites := fmt.Sprint(a.Rules()), fmt.Sprint(a.Invites())
	end()

	n, end = stored(t, cfg, 1)
	defer end()
	a = n[0]
	if got := fmt.Sprint(a.Rules()); got != rules {
		t.Errorf("the rules were %s and are %s", rules, got)
	}
	if got := fmt.Sprint(a.Invites()); got != invites {
		t.Errorf("the invites were %s and are %s", invites, got)
	}
	want(t, "a rule", a.Visit(stranger, key(t, 1)), ErrDenied)
	want(t, "members", errors.Join(publish(t, a, key(t, 2), ""), publish(t, a, key(t, 3), "")), nil)
	want(t, "the revoked invite", publish(t, a, key(t, 4), gone), ErrInvite)
	want(t, "the last use", publish(t, a, key(t, 5), code), nil)
	want(t, "one more", publish(t, a, key(t, 6), code), ErrInvite)
}

func TestRedemptionsOnTheEngine(t *testing.T) {
	n, end := stored(t, registryConfig(t, t.TempDir()), 2)
	defer end()
	code, i := invite(t, n[0], Invite{Uses: 7})
	want(t, "the other node hears of it", n[1].settle(t.Context(), func() bool { return n[1].invites[i.ID] != nil }), nil)
	checkRedemptions(t, n, code, 7, 30, 2)
	want(t, "revoke on the other node", n[1].RevokeInvite(t.Context(), i.ID), nil)
	_, i = invite(t, n[0], Invite{})
	want(t, "revoke at once", n[0].RevokeInvite(t.Context(), i.ID), nil)
}

// A disk that is full, or an engine that is down: what is in memory is answered, nothing is written, and the error says so.
func TestAnEngineThatCannotWriteKeepsAnswering(t *testing.T) {
	cfg := registryConfig(t, t.TempDir())
	n, end := stored(t, cfg, 1)
	set(t, n[0], "deny "+key(t, 1).Ref())
	code, i := invite(t, n[0], Invite{Uses: 2})
	want(t, "redeem", publish(t, n[0], key(t, 2), code), nil)
	end()

	cfg.Limits.MinFree = 1 << 62
	n, end = stored(t, cfg, 1)
	a := n[0]
	want(t, "a rule", a.Visit(stranger, key(t, 1)), ErrDenied)
	want(t, "a member", publish(t, a, key(t, 2), ""), nil)
	want(t, "redeem", publish(t, a, key(t, 3), code), ErrUnavailable)
	want(t, "SetRule", a.SetRule(t.Context(), rule(t, "deny 192.0.2.9")), ErrUnavailable)
	want(t, "RemoveRule", a.RemoveRule(t.Context(), KeySubject(key(t, 1))), ErrUnavailable)
	want(t, "RevokeInvite", a.RevokeInvite(t.Context(), i.ID), ErrUnavailable)
	_, _, err := a.CreateInvite(t.Context(), Invite{})
	want(t, "CreateInvite", err, ErrUnavailable)
	want(t, "the rule that was not written", a.Network(rule(t, "deny 192.0.2.9").Subject.network.Addr()), nil)
	end()
	want(t, "closed", a.SetRule(t.Context(), rule(t, "deny 192.0.2.9")), ErrUnavailable)
	want(t, "closed: a rule", a.Visit(stranger, key(t, 1)), ErrDenied)

	cfg.Limits.MinFree = -1
	n, end = stored(t, cfg, 1)
	defer end()
	want(t, "redeem, later", publish(t, n[0], key(t, 3), code), nil)
}

// child lets keys in by invites, several at a time and each once by every invite, until it is killed. It says who is in.
func child(dir string) error {
	first, err := strconv.ParseUint(os.Getenv(childFirst), 10, 64)
	if err != nil {
		return err
	}
	tb := childTB{}
	r, err := registry.Open(context.Background(), registryConfig(tb, dir))
	if err != nil {
		return err
	}
	a, err := onRegistry(context.Background(), r)
	if err != nil {
		return err
	}
	_, _ = fmt.Fprintln(os.Stdout, "open")
	todo, done := make(chan uint64), make(chan error)
	for range 8 {
		go func() {
			for n := range todo {
				done <- childRedeem(tb, a, n)
			}
		}()
	}
	go func() {
		for n := range uint64(childKeys) {
			todo <- first + n
		}
	}()
	for range childKeys {
		if err := <-done; err != nil {
			return err
		}
	}
	_, _ = fmt.Fprintln(os.Stdout, "done")
	select {} // to be killed
}

func childRedeem(tb testing.TB, a *Admission, n uint64) error {
	for code := range strings.SplitSeq(os.Getenv(childCodes), ",") {
		err := a.Publish(context.Background(), stranger, key(tb, n), secrez.ID{}, code)
		if err == nil {
			_, err = fmt.Fprintf(os.Stdout, "%d\n", n) // one write a line
			return err
		}
		if !errors.Is(err, ErrInvite) {
			return err
		}
	}
	return nil
}

// childTB makes the helpers usable outside a test.
type childTB struct{ testing.TB }

func (childTB) Helper()           {}
func (childTB) Fatal(args ...any) { fmt.Fprintln(os.Stderr, args...); os.Exit(childFailed) }

// Whoever was told that he is in is in, and no invite is used once too often, at whatever moment the process is killed.
func TestInvitesSurviveKills(t *testing.T) {
	const uses = 60
	dir := t.TempDir()
	n, end := stored(t, registryConfig(t, dir), 1)
	var codes []string
	for range 3 {
		code, _ := invite(t, n[0], Invite{Uses: uses})
		codes = append(codes, code)
	}
	end()
	in := map[uint64]bool{}
	for round := range 5 {
		runChild(t, dir, codes, round, in)
	}
	n, end = stored(t, registryConfig(t, dir), 1)
	defer end()
	a := n[0]
	members := 0
	for _, i := range a.Invites() {
		members += len(i.Members)
		if len(i.Members) > uses || i.Uses != uses {
			t.Errorf("invite %s has %d members of %d", i.ID, len(i.Members), i.Uses)
		}
	}
	if members != 3*uses || a.Stats().Members != members {
		t.Errorf("%d members, %d different ones", members, a.Stats().Members)
	}
	for k := range in {
		if !a.Member(key(t, k)) {
			t.Errorf("key %d was let in and is no member", k)
		}
	}
	if len(in) > members {
		t.Errorf("%d were let in by %d uses", len(in), members)
	}
	t.Logf("%d were told, %d are in", len(in), members)
}

// runChild lets a hub redeem and kills it: in the end when it is done, and earlier somewhere.
func runChild(t *testing.T, dir string, codes []string, round int, in map[uint64]bool) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childDir+"="+dir, childCodes+"="+strings.Join(codes, ","),
		childFirst+"="+strconv.Itoa(round*childKeys))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	limit := 10 + rand.IntN(30)
	for lines := bufio.NewScanner(out); lines.Scan(); {
		line := lines.Text()
		if n, err := strconv.ParseUint(line, 10, 64); err == nil {
			in[n] = true
			limit--
		} else if line != "open" && line != "done" {
			t.Errorf("the child says %q", line)
		}
		if line == "done" || limit == 0 && round < 4 {
			_ = cmd.Process.Kill() // what it has said already is read on
		}
	}
	if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() == childFailed {
		t.Fatalf("the child ended by itself: %v", err)
	}
}
