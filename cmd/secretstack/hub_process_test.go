//go:build unix

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/hub/native"
	"github.com/secretstack/secretstack/internal/testkit"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/muxrpc"
	"github.com/secretstack/secretstack/plugins/hubclient"
	"github.com/secretstack/secretstack/secrez"
)

// hubProcess is a hub that runs as a process of its own.
type hubProcess struct {
	*process
	node
	host string        // where it is on this machine
	done chan struct{} // closed when it has ended
	end  int           // the exit code, set before
}

// spawn starts a hub below a root folder, and waits until it is served.
func spawn(t *testing.T, root string, args ...string) *hubProcess {
	t.Helper()
	return attend(t, newProcess(t, append([]string{"hub", "-a", "127.0.0.1", "--json", "--root", root}, args...)...), "127.0.0.1")
}

// attend waits until a hub that has been started is served.
func attend(t *testing.T, process *process, host string) *hubProcess {
	t.Helper()
	p := &hubProcess{process: process, host: host, done: make(chan struct{})}
	if err := json.Unmarshal([]byte(p.line()), &p.node); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		p.end = p.wait()
	}()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the hub's log:\n%s", p.errs.String())
		}
	})
	return p
}

// signal sends a signal, and waits for the end unless it is SIGHUP.
func (p *hubProcess) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
	if s == syscall.SIGHUP {
		return
	}
	select {
	case <-p.done:
	case <-time.After(time.Minute):
		p.t.Fatalf("the hub does not end on %v", s)
	}
}

// port is that of the hub.
func (p *hubProcess) port() string {
	hostPort, _, _ := strings.Cut(p.Addresses[0], "~")
	return hostPort[strings.LastIndexByte(hostPort, ':')+1:]
}

// place is the host and port of the hub on this machine, whatever it is called elsewhere.
func (p *hubProcess) place() string { return p.host + ":" + p.port() }

// address is the address of the hub on this machine.
func (p *hubProcess) address() string {
	_, key, _ := strings.Cut(p.Addresses[0], "~")
	return "net:" + p.place() + "~" + key
}

// courier is a peer that stays at the hub and serves HTTP there.
func (p *hubProcess) courier(handler http.Handler) *hubclient.Client {
	p.t.Helper()
	return courierAt(p.t, p.address(), handler)
}

// courierAt is a peer that stays at the hub with an address and serves HTTP there.
func courierAt(t *testing.T, address string, handler http.Handler) *hubclient.Client {
	t.Helper()
	stack := secretstack.New(secretstack.Options{})
	if err := stack.Use(hubclient.Plugin(hubclient.Config{
		Hubs: []hubclient.Hub{{Address: address}}, Handler: handler, RetryMin: 20 * time.Millisecond, RetryMax: 200 * time.Millisecond,
	})); err != nil {
		t.Fatal(err)
	}
	app, err := stack.Start(context.Background(), secretstack.Config{Host: "127.0.0.1", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = app.Close(context.Background()) })
	client, _ := secretstack.Find[*hubclient.Client](app)
	return client
}

// await waits for a status of a courier.
func await(t *testing.T, c *hubclient.Client, what string, wanted func(hubclient.Status) bool) hubclient.Status {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	for all := range c.Watch(ctx) {
		if wanted(all[0]) {
			return all[0]
		}
	}
	t.Fatalf("not %s: %+v", what, c.Hubs()[0])
	return hubclient.Status{}
}

func isOnline(s hubclient.Status) bool { return s.Online }

// visit asks for the URL of a courier, whose name need not be known to anybody but the hub. It returns 0 for a connection
// that ended without an answer, and fails when there is neither in time.
func (p *hubProcess) visit(address string) (status int, body string) {
	p.t.Helper()
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, p.place())
	}}
	res, err := (&http.Client{Transport: transport, Timeout: time.Minute}).Get(address)
	if err == nil {
		var text []byte
		text, err = io.ReadAll(res.Body)
		_ = res.Body.Close()
		body = string(text)
	}
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		p.t.Errorf("%s: nobody answers", address)
	}
	if err != nil {
		return 0, body
	}
	return res.StatusCode, body
}

// someone is an identity with a number.
func someone(t *testing.T, n int) *keys.Identity {
	t.Helper()
	id, err := keys.FromSeed([]byte(fmt.Sprintf("%032d", n)))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// registration is the URL with which an identity registers by the v1 API.
func (p *hubProcess) registration(id *keys.Identity) string { return p.registrationAt(id, time.Now()) }

// registrationAt is registration, signed at a time.
func (p *hubProcess) registrationAt(id *keys.Identity, at time.Time) string {
	account, err := secrez.FromIdentity(id)
	if err != nil {
		p.t.Error(err)
		return ""
	}
	signed, err := account.SignPayload(map[string]any{"id": 0}, at)
	if err != nil {
		p.t.Error(err)
		return ""
	}
	query := url.Values{"payload": {signed.Payload}, "signature": {signed.Signature}}
	return "http://" + p.place() + "/api/v1/tunnel/new?" + query.Encode()
}

// TestEveryAcknowledgedIDIsThereAfterKills registers thousands of keys, kills the hub in the middle of it, twice, and asks it for all
// that it has acknowledged when it runs again.
func TestEveryAcknowledgedIDIsThereAfterKills(t *testing.T) {
	root := shortDir(t)
	file := filepath.Join(root, "hub.toml")
	write(t, file, "[limits]\nsocket-grace = \"100ms\"") // so that not so many ports are open
	const atOnce = 16
	acknowledged := map[int]secrez.ID{}
	var mu sync.Mutex
	next := 0
	for round := 1; round <= 2; round++ {
		p := spawn(t, root, "-p", "0", "--config", file)
		var clients sync.WaitGroup
		client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: atOnce}}
		for range atOnce {
			clients.Go(func() {
				for {
					mu.Lock()
					n := next
					next++
					mu.Unlock()
					res, err := client.Get(p.registration(someone(t, n)))
					if err != nil {
						return // killed
					}
					var answer struct{ ID secrez.ID }
					err = json.NewDecoder(res.Body).Decode(&answer)
					_ = res.Body.Close()
					if err != nil {
						return // killed
					}
					if res.StatusCode != http.StatusOK {
						continue // not acknowledged
					}
					mu.Lock()
					acknowledged[n] = answer.ID
					mu.Unlock()
				}
			})
		}
		testkit.Eventually(t, "half of the ids are acknowledged", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(acknowledged) >= round*manyIDs/2
		})
		p.signal(syscall.SIGKILL)
		clients.Wait()
	}
	p := spawn(t, root, "-p", "0", "--config", file)
	caller, err := secretstack.New(secretstack.Options{}).Start(t.Context(), secretstack.Config{Host: "127.0.0.1", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	peer, err := caller.Connect(t.Context(), p.address())
	if err != nil {
		t.Fatal(err)
	}
	for n, id := range acknowledged {
		who, err := muxrpc.Call[native.Who](t.Context(), peer, native.MethodWhois, native.WhoisRequest{Key: someone(t, n).Public()})
		if err != nil || who.ID != id {
			t.Fatalf("%d was told %s, and is %s, %v", n, id, who.ID, err)
		}
	}
	t.Logf("%d ids are there", len(acknowledged))
}

// TestAHubThatIsKilledUnderLoadComesBack: visitors get an answer or the end of their connection, couriers come back.
func TestAHubThatIsKilledUnderLoadComesBack(t *testing.T) {
	root := shortDir(t)
	p := spawn(t, root, "-p", "0", "-d", "hub.test")
	c := p.courier(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }))
	s := await(t, c, "online", isOnline)
	stop := make(chan struct{})
	var visitors sync.WaitGroup
	first, home := p, s.URL
	for range 4 {
		visitors.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					if status, body := first.visit(home); status == 200 && body != "hello" {
						t.Errorf("%d %q", status, body)
					}
				}
			}
		})
	}
	port := p.port()
	for range 2 {
		p.signal(syscall.SIGKILL)
		again := spawn(t, root, "-p", port, "-d", "hub.test")
		await(t, c, "online again", func(now hubclient.Status) bool { return now.Online && now.Since.After(s.Since) })
		for {
			if status, _ := again.visit(s.URL); status == 200 {
				break
			}
		}
		s = await(t, c, "online", isOnline)
		p = again
	}
	close(stop)
	visitors.Wait()
}

// TestSIGTERMLetsWhatRunsFinishAndIsBounded.
func TestSIGTERMLetsWhatRunsFinishAndIsBounded(t *testing.T) {
	p := spawn(t, shortDir(t), "-p", "0", "-d", "hub.test", "--drain", "30s")
	began, finish := make(chan struct{}), make(chan struct{})
	c := p.courier(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(began)
		<-finish
		_, _ = io.WriteString(w, "finished")
	}))
	s := await(t, c, "online", isOnline)
	got := make(chan string, 1)
	go func() {
		_, body := p.visit(s.URL)
		got <- body
	}()
	<-began
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	await(t, c, "told", func(s hubclient.Status) bool { return !s.Online })
	close(finish)
	if body := <-got; body != "finished" {
		t.Errorf("the visitor got %q", body)
	}
	select {
	case <-p.done:
		if p.end != exitOK {
			t.Errorf("it ends with %d", p.end)
		}
	case <-time.After(time.Minute):
		t.Error("it does not end")
	}

	p = spawn(t, shortDir(t), "-p", "0", "-d", "hub.test", "--drain", "100ms")
	there := make(chan struct{})
	c = p.courier(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(there)
		<-r.Context().Done()
	}))
	s = await(t, c, "online", isOnline)
	go func() {
		_, body := p.visit(s.URL)
		got <- body
	}()
	<-there
	p.signal(syscall.SIGTERM) // fails when it takes a minute
	<-got
}

func TestSIGHUPReadsTheConfigurationAgain(t *testing.T) {
	root := shortDir(t)
	file := filepath.Join(root, "hub.toml")
	write(t, file, `admission = "open"`)
	p := spawn(t, root, "-p", "0", "--config", file)
	c := p.courier(nil)
	s := await(t, c, "online", isOnline)
	key := ""
	write(t, file, "admission = \"closed\"\ndomain = \"other.example.org\"\ncluster = \"eu\"\njoin = [\"hub-1\"]")
	p.signal(syscall.SIGHUP)
	await(t, c, "put out", func(s hubclient.Status) bool { return !s.Online })
	rules := func(text string) {
		write(t, file, text)
		p.signal(syscall.SIGHUP)
	}
	rules("this is no TOML")
	testkit.Eventually(t, "the hub complains", func() bool {
		return strings.Contains(p.errs.String(), "the configuration stays as it was")
	})
	if !strings.Contains(p.errs.String(), `some changes need a restart of the hub" settings="[Name Domain cluster join]"`) {
		t.Errorf("nobody is told that a domain and a cluster need a restart: %s", p.errs.String())
	}
	key = s.ID.String()
	rules("admission = \"closed\"\nrule = [\"allow " + key + "\"]")
	await(t, c, "let in again", isOnline)
}

// TestADiskThatIsFullOrReadOnlyIsSaidAndLosesNothing, to whoever starts the hub and to whoever comes.
func TestADiskThatIsFullOrReadOnlyIsSaidAndLosesNothing(t *testing.T) {
	disk, set := smallDisk(t, "96m")
	p := spawn(t, disk, "-p", "0", "-d", "hub.test")
	c := p.courier(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }))
	s := await(t, c, "online", isOnline)
	ballast := filepath.Join(disk, "ballast")
	if err := os.WriteFile(ballast, bytes.Repeat([]byte{1}, 64<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if status, body := p.visit(p.registration(someone(t, 1))); status != http.StatusServiceUnavailable || strings.Contains(body, disk) {
		t.Errorf("a newcomer gets %d %s", status, body)
	}
	if status, _ := p.visit(s.URL); status != 200 {
		t.Errorf("a visitor gets %d", status)
	}
	port := p.port()
	p.signal(syscall.SIGKILL)
	p = spawn(t, disk, "-p", port, "-d", "hub.test") // a full disk keeps nobody from starting it
	if again := await(t, c, "online", func(now hubclient.Status) bool { return now.Online && now.Since.After(s.Since) }); again.ID != s.ID {
		t.Errorf("the id was %s and is %s", s.ID, again.ID)
	}
	p.signal(syscall.SIGTERM)
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	set("ro")
	r := command(t, "", "hub", "-p", "0", "-a", "127.0.0.1", "--root", disk)
	if r.code != exitFailed || !strings.Contains(r.err, "read-only file system") || strings.Count(r.err, "secretstack:") != 1 {
		t.Errorf("read-only: %d, %s", r.code, r.err)
	}
	set("rw")
	spawn(t, disk, "-p", port, "-d", "hub.test")
	if again := await(t, c, "online", isOnline); again.ID != s.ID {
		t.Errorf("the id was %s and is %s", s.ID, again.ID)
	}
}
