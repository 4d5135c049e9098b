package secretstack_test

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/multiserver"
	"github.com/secretstack/secretstack/muxrpc"
	"github.com/secretstack/secretstack/packetstream"
)

// recording is an exchange between two JavaScript apps: alice is the client, bob the server.
type recording struct {
	Name    string
	Packets []struct{ Dir, Head, Body, Event string }
}

// TestRecordedClientsAreAnsweredAsTheOriginalDoes plays the client of each recording against an app, and compares what
// the app sends with what the recorded server sent.
func TestRecordedClientsAreAnsweredAsTheOriginalDoes(t *testing.T) {
	var vector struct{ Scenarios []recording }
	readVector(t, "06_secret_stack_packets.json", &vector)
	for _, test := range []struct {
		name    string
		opts    secretstack.Options
		auth    any                                       // what auth answers
		trigger func(*secretstack.App, *secretstack.Peer) // makes the server speak first
	}{
		{name: "connect, hello, fail, denied, source, graceful rpc.close", trigger: func(_ *secretstack.App, p *secretstack.Peer) {
			_, _ = muxrpc.Call[string](context.Background(), p, "test.hello", "bob")
		}},
		{name: "rpc.close(true) with pending call"},
		{name: "rpc.close(new Error)"},
		{name: "server side rpc.close(true)", trigger: func(_ *secretstack.App, p *secretstack.Peer) { p.Abort(nil) }},
		{name: "app.close() (no err) on server leaves rpc open"},
		{name: "app.close(true) on server", trigger: func(app *secretstack.App, _ *secretstack.Peer) { _ = app.Close(expired()) }},
		{name: "inactivity 1000ms on client"},
		{name: "auth returns false (6.x server)", opts: secretstack.Options{AdmitFalse: true}, auth: false},
		{name: "auth returns {allow:null,deny:null} (full access)", auth: map[string]any{"allow": nil, "deny": nil}},
	} {
		t.Run(test.name, func(t *testing.T) {
			leakCheck(t)
			plugins := secretstack.Plugins{testPlugin()}
			if test.auth != nil {
				plugins = append(plugins, answering(test.auth))
			}
			bob := start(t, stackOf(t, test.opts, plugins), quiet(t, "bob"))
			play(t, find(t, vector.Scenarios, test.name), bob, test.trigger)
		})
	}
}

func find(t *testing.T, recordings []recording, name string) recording {
	t.Helper()
	for _, r := range recordings {
		if r.Name == name {
			return r
		}
	}
	t.Fatalf("there is no recording %q", name)
	return recording{}
}

func play(t *testing.T, r recording, bob *secretstack.App, trigger func(*secretstack.App, *secretstack.Peer)) {
	conn := dialSecret(t, bob, "alice").(*multiserver.Conn)
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Minute))
	eventually(t, "connected", func() bool { return len(bob.Peers()) == 1 })
	peer := bob.Peers()[0]
	answers := packetstream.NewReader(conn, 1<<20)
	said := false // goodbye
	for i, packet := range r.Packets {
		want := fmt.Sprintf("packet %d: %s %s", i, packet.Head, packet.Body)
		switch {
		case packet.Dir == "c>s" && packet.Event == "":
			said = said || packet.Head == goodbye
			conn.Write(frame(t, packet.Head, packet.Body))
		case packet.Dir == "c>s" && packet.Event == "box goodbye":
			conn.CloseWrite()
		case packet.Event != "":
			// How the server's connection ends is not for the application to see.
		default:
			if trigger != nil && (isRequest(packet.Head) || packet.Head == goodbye && !said) {
				go trigger(bob, peer)
			}
			if got := receive(answers); !same(got, packet.Head, packet.Body, bob) {
				t.Fatalf("got %s\nwant %s", got, want)
			}
			said = said || packet.Head == goodbye
		}
	}
}

// isRequest reports whether the packet opens a call rather than answers one.
func isRequest(head string) bool { return head != goodbye && head[10] == '0' }

const goodbye = "000000000000000000"

func frame(t *testing.T, head, body string) []byte {
	t.Helper()
	b, err := hex.DecodeString(head)
	if err != nil {
		t.Fatal(err)
	}
	return append(b, body...)
}

// answer is a packet that the app has sent.
type answer struct {
	header packetstream.Header
	body   string
	err    error
}

func (a answer) String() string {
	if a.err != nil {
		return a.err.Error()
	}
	return fmt.Sprintf("%+v %s", a.header, a.body)
}

// receive returns the next packet that a JavaScript peer would not ignore.
func receive(r *packetstream.Reader) answer {
	for {
		h, body, err := r.Next()
		if h.ID != 0 || err != nil {
			return answer{h, string(body), err}
		}
	}
}

// same compares a packet with a recorded one. JSON may be written in another order, and the address is our own.
func same(got answer, head, body string, app *secretstack.App) bool {
	if head == goodbye {
		return errors.Is(got.err, io.EOF)
	}
	raw, err := hex.DecodeString(head)
	if err != nil || got.err != nil {
		return false
	}
	want := packetstream.ParseHeader([9]byte(raw))
	if got.header.ID != want.ID || got.header.Stream != want.Stream || got.header.End != want.End || got.header.Type != want.Type {
		return false
	}
	if strings.HasPrefix(body, "net:") {
		body = app.Address("device")
	}
	if want.Type != packetstream.JSON {
		return got.body == body
	}
	var a, b any
	return json.Unmarshal([]byte(got.body), &a) == nil && json.Unmarshal([]byte(body), &b) == nil && reflect.DeepEqual(a, b)
}

// TestAppIsWhatTheOriginalMakesOfTheSamePlugins compares with what was observed of secret-stack 8.
func TestAppIsWhatTheOriginalMakesOfTheSamePlugins(t *testing.T) {
	observed := map[string]json.RawMessage{}
	var vector struct{ Checks [][2]json.RawMessage }
	readVector(t, "09_secret_stack_api.json", &vector)
	for _, check := range vector.Checks {
		var name string
		if json.Unmarshal(check[0], &name) == nil && observed[name] == nil {
			observed[name] = check[1]
		}
	}
	foo := secretstack.NewPlugin(secretstack.Info{
		Name: "foo",
		Permissions: map[string]muxrpc.Permissions{
			"anonymous": {Allow: []string{"s"}},
			"master":    {Allow: []string{"a"}}, // the original makes something of its deny:null
		},
	}, func(_ context.Context, s *secretstack.Setup) error {
		sync := muxrpc.HandleSync(s, "s", func(context.Context, muxrpc.None) (string, error) { return "S1", nil })
		return errors.Join(sync, noop(s, "a", "sub.deep"))
	})
	cfg := quiet(t, "alice")
	cfg.Host = ""
	cfg.Settings = secretstack.Settings{"global": map[string]any{"host": "127.0.0.1"}}
	app := start(t, stackOf(t, secretstack.Options{}, foo), cfg)

	wantJSON(t, app.Manifest(), observed["F.manifest"])
	var permissions map[string]struct{ Allow []string }
	if err := json.Unmarshal(observed["F.permissions"], &permissions); err != nil {
		t.Fatal(err)
	}
	for set, want := range permissions {
		if got := app.Permissions(set).Allow; !reflect.DeepEqual(got, want.Allow) {
			t.Errorf("%s allows %v, want %v", set, got, want.Allow)
		}
	}
	wantJSON(t, app.ID(), observed["app.id"])
	wantJSON(t, app.ID().Base64(), observed["app.shs.pubkey"])
	wantJSON(t, len(app.Config()), json.RawMessage("1")) // {global}
	withoutPort := strings.Replace(string(compact(t, observed["connections default"])), `,"port":45210`, "", 1)
	wantJSON(t, app.Connections(), json.RawMessage(withoutPort))

	var parsed string
	if err := json.Unmarshal(observed["ms.parse"], &parsed); err != nil {
		t.Fatal(err)
	}
	got, err := muxrpc.Call[json.RawMessage](t.Context(), app.Self(), "multiserver.parse", observed["getAddress()"])
	if err != nil {
		t.Error(err)
	}
	wantJSON(t, got, json.RawMessage(parsed))
	for _, check := range []string{"getAddress(bogus)", "connections {} getAddress"} {
		wantJSON(t, app.Address("bogus"), observed[check])
	}
}

func wantJSON(t *testing.T, got any, want json.RawMessage) {
	t.Helper()
	text, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	var a, b any
	if json.Unmarshal(text, &a) != nil || json.Unmarshal(want, &b) != nil || !reflect.DeepEqual(a, b) {
		t.Errorf("got  %s\nwant %s", text, want)
	}
}

func compact(t *testing.T, raw json.RawMessage) json.RawMessage {
	t.Helper()
	var value any
	if err := json.Unmarshal(raw, &value); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return text
}
