package multiserver_test

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net"
	"reflect"
	"strings"
	"testing"

	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/multiserver"
	msnet "github.com/secretstack/secretstack/multiserver/net"
	"github.com/secretstack/secretstack/multiserver/onion"
	"github.com/secretstack/secretstack/multiserver/unix"
	"github.com/secretstack/secretstack/multiserver/ws"
)

// A deviation is a recorded text with which we do something else than
// JavaScript, and why.
type deviations map[string]string

// check compares unless the text is a deviation, which must really be one.
func (d deviations) check(t *testing.T, text string, got, recorded any) {
	t.Helper()
	same := reflect.DeepEqual(got, recorded)
	why, deviates := d[text]
	switch {
	case same && deviates:
		t.Errorf("%q: listed as a deviation (%s) but is none", text, why)
	case !same && !deviates:
		t.Errorf("%q: got %v, JavaScript has %v", text, got, recorded)
	}
}

// parse runs the loose parser of one transport or transform over one part.
func parse(p multiserver.PartParser, text string) (multiserver.Part, error) {
	return p.ParsePart(multiserver.TextPart(text), multiserver.Loose)
}

type hostPort struct {
	Host string
	Port float64
}

func recordedHostPort(t *testing.T, raw json.RawMessage) *hostPort {
	t.Helper()
	var v *hostPort
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func checkHostPorts(t *testing.T, name, field string, d deviations) {
	t.Helper()
	for _, v := range vector[[][2]json.RawMessage](t, "addresses.json", field) {
		var text string
		if err := json.Unmarshal(v[0], &text); err != nil {
			t.Fatal(err)
		}
		var got *hostPort
		host, port, _, err := multiserver.ParseHostPort(name, multiserver.TextPart(text), multiserver.Loose)
		if err == nil {
			got = &hostPort{host, float64(port)}
		}
		d.check(t, text, got, recordedHostPort(t, v[1]))
	}
}

func TestNetPartsAreReadAsJavaScriptReadsThem(t *testing.T) {
	checkHostPorts(t, "net", "net_parse", deviations{
		"net:[::1]:8008":       "brackets are taken off: JavaScript looks up a host with brackets in its name and fails",
		"net:localhost:":       "port 0 cannot be dialled",
		"net:localhost:-1":     "not a port",
		"net:localhost:99999":  "not a port",
		"net:localhost:8008.5": "not a port",
	})
}

func TestOnionPartsAreReadAsJavaScriptReadsThem(t *testing.T) {
	checkHostPorts(t, "onion", "onion_parse", deviations{})
}

func TestURLPartsAreReadAsJavaScriptReadsThem(t *testing.T) {
	type fields struct {
		Protocol, Hostname, Port, Pathname, Search string
	}
	d := deviations{
		"wss://example.com:443/path/x?y=1#z": "the port that the scheme implies is left out",
		"WS://EXAMPLE.com:80":                "the port that the scheme implies is left out",
		"ws:localhost:8989":                  "the slashes are put in, as a browser does; JavaScript finds no host",
		"ws:":                                "there is no host to dial",
	}
	for _, v := range vector[[][2]json.RawMessage](t, "addresses.json", "ws_parse") {
		var text string
		var recorded *struct{ Protocol, Hostname, Port, Pathname, Search *string }
		if errors.Join(json.Unmarshal(v[0], &text), json.Unmarshal(v[1], &recorded)) != nil {
			t.Fatal("the recording is not what it was")
		}
		var want, got *fields
		if recorded != nil {
			want = &fields{str(recorded.Protocol), str(recorded.Hostname), str(recorded.Port), str(recorded.Pathname), str(recorded.Search)}
		}
		if u, _, err := multiserver.ParseURL(multiserver.TextPart(text), multiserver.Loose); err == nil {
			got = &fields{u.Scheme + ":", u.Hostname(), u.Port(), u.Path, ""}
			if u.RawQuery != "" {
				got.Search = "?" + u.RawQuery
			}
		}
		d.check(t, text, got, want)
	}
}

func str(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func TestKeyPartsAreReadAsJavaScriptReadsThem(t *testing.T) {
	type bin struct {
		Hex string `json:"$hex"`
	}
	for _, v := range vector[[][2]json.RawMessage](t, "addresses.json", "shs_parse") {
		var text string
		var recorded *struct {
			Key, Seed *bin
			THROWS    string
		}
		if errors.Join(json.Unmarshal(v[0], &text), json.Unmarshal(v[1], &recorded)) != nil {
			t.Fatal("the recording is not what it was")
		}
		key, seed, _, err := multiserver.ParseKeyPart(multiserver.TextPart(text), multiserver.Loose)
		if recorded == nil || recorded.Key == nil {
			if err == nil {
				t.Errorf("%q was read, JavaScript refuses it", text)
			}
			continue
		}
		if err != nil || hex.EncodeToString(key.Bytes()) != recorded.Key.Hex {
			t.Errorf("%q: key %s, %v", text, key, err)
		}
		want := ""
		if recorded.Seed != nil {
			want = recorded.Seed.Hex
		}
		if hex.EncodeToString(seed) != want {
			t.Errorf("%q: seed %x, want %s", text, seed, want)
		}
	}
}

func TestUnixPartsAreReadAsJavaScriptReadsThem(t *testing.T) {
	d := deviations{"unix:": "there is no path to dial"}
	for _, v := range vector[[][2]json.RawMessage](t, "addresses.json", "unix_parse") {
		var text string
		var recorded *struct{ Path string }
		if errors.Join(json.Unmarshal(v[0], &text), json.Unmarshal(v[1], &recorded)) != nil {
			t.Fatal("the recording is not what it was")
		}
		var want, got *string
		if recorded != nil {
			want = &recorded.Path
		}
		if path, _, err := multiserver.ParsePath(multiserver.TextPart(text), multiserver.Loose); err == nil {
			got = &path
		}
		d.check(t, text, got, want)
	}
}

// The wart that noauth accepts any part, a key included, which then is not
// asked for.
func TestWartNoAuthAcceptsNoOtherPart(t *testing.T) {
	noauth := multiserver.NoAuth(multiserver.NoAuthConfig{})
	for _, v := range vector[[][2]json.RawMessage](t, "addresses.json", "noauth_parse") {
		var text string
		if err := json.Unmarshal(v[0], &text); err != nil {
			t.Fatal(err)
		}
		_, err := parse(noauth, text)
		if ours := text == "noauth" || strings.HasPrefix(text, "noauth:"); ours != (err == nil) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// planner is a server that dials with one pair of protocols.
func planner(t *testing.T, transform multiserver.Transform, transports ...multiserver.Transport) *multiserver.Server {
	t.Helper()
	outgoing := map[string][]multiserver.Outgoing{}
	for _, tr := range transports {
		outgoing[tr.Name()] = []multiserver.Outgoing{{Transform: transform.Name()}}
	}
	return must(t, multiserver.Options{
		Transports: transports, Transforms: []multiserver.Transform{transform},
		Config: multiserver.Config{Outgoing: outgoing},
	})
}

func TestAddressesAreMatchedAsJavaScriptMatchesThem(t *testing.T) {
	withKey := planner(t, shsFor(t, "alice"), msnet.New(msnet.Options{}))
	without := planner(t, multiserver.NoAuth(multiserver.NoAuthConfig{}), msnet.New(msnet.Options{}))
	const missing = "a transform is missing: JavaScript would run the server's side of the handshake while dialling"
	const anything = "noauth takes only noauth parts"
	shsDeviations := deviations{"net:h:1": missing}
	pk := vector[string](t, "addresses.json", "pk_b64")
	noauthDeviations := deviations{"net:h:1": missing, "net:h:1~": anything}
	for _, text := range []string{"net:h:1~shs:" + pk, "net!:h:1~shs:" + pk, "net:a!~b:1~shs:" + pk,
		"net:h:1~shs:" + pk + ":GbJYVuHBUMqDTP/ItZsjrb0OwDieWOsis7ZHaAmNACs="} {
		noauthDeviations[text] = anything
	}
	for _, v := range vector[[][4]json.RawMessage](t, "addresses.json", "compose_parse") {
		var text string
		if err := json.Unmarshal(v[0], &text); err != nil {
			t.Fatal(err)
		}
		checkPlan(t, withKey, text, v[1], shsDeviations)
		checkPlan(t, without, text, v[3], noauthDeviations)
	}
}

// checkPlan compares the host and port that would be dialled.
func checkPlan(t *testing.T, s *multiserver.Server, text string, raw json.RawMessage, d deviations) {
	t.Helper()
	var recorded []json.RawMessage // neither null nor {"THROWS":…} is a list
	_ = json.Unmarshal(raw, &recorded)
	var want, got *hostPort
	if len(recorded) > 0 {
		want = recordedHostPort(t, recorded[0])
	}
	if _, planned, err := s.Plan(multiserver.ParseLoose(text)); err == nil {
		host, port, _, err := multiserver.ParseHostPort("net", planned[0].Transport(), multiserver.Loose)
		if err != nil {
			t.Fatal(err)
		}
		got = &hostPort{host, float64(port)}
	}
	d.check(t, text, got, want)
}

// prefixed is a transport that takes the parts of some name.
type prefixed struct {
	multiserver.Transport
	name, part string
}

func (p prefixed) Name() string { return p.name }

func (p prefixed) ParsePart(part multiserver.Part, _ multiserver.Mode) (multiserver.Part, error) {
	if part.Name != p.part {
		return multiserver.Part{}, multiserver.ErrOtherPart
	}
	return part, nil
}

func TestTheFirstAddressThatCanBeDialledIsChosenFirst(t *testing.T) {
	type recorded struct {
		Plugs []string
		Addr  json.RawMessage
		Err   *string
		R     *struct{ Chosen, Addr string }
	}
	noauth := multiserver.NoAuth(multiserver.NoAuthConfig{})
	for _, v := range vector[[]recorded](t, "addresses.json", "select") {
		if v.Plugs == nil || strings.Contains(v.Plugs[0], "~") {
			continue // by real transports: TestUnknownAddressesSayWhatIsKnown
		}
		var transports []multiserver.Transport
		for _, plug := range v.Plugs {
			name, part, _ := strings.Cut(plug, ":")
			transports = append(transports, prefixed{name: name, part: part})
		}
		list := []string{""} // an address or a list of them
		if json.Unmarshal(v.Addr, &list[0]) != nil {
			_ = json.Unmarshal(v.Addr, &list)
		}
		addrs := multiserver.ParseLoose(strings.Join(list, ";"))
		for i := range addrs {
			addrs[i] = append(addrs[i], multiserver.Part{Name: "noauth"})
		}
		chosen, planned, err := planner(t, noauth, transports...).Plan(addrs)
		if v.Err != nil {
			if err == nil || strings.ReplaceAll(err.Error(), "~noauth", "") != "multiserver: "+*v.Err {
				t.Errorf("%s: %v, want %s", v.Addr, err, *v.Err)
			}
			continue
		}
		if err != nil || chosen[0] != v.R.Chosen || planned[0][0].Text() != v.R.Addr {
			t.Errorf("%s: %v %v %v, want %+v", v.Addr, chosen, planned, err, *v.R)
		}
	}
}

func TestUnknownAddressesSayWhatIsKnown(t *testing.T) {
	s := planner(t, shsFor(t, "alice"), msnet.New(msnet.Options{}), ws.New(ws.Options{}))
	_, err := s.Dial(t.Context(), loose(t, "foo:bar"))
	if want := "multiserver: could not connect to:foo:bar, only know:net~shs;ws~shs"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if _, err := s.Dial(t.Context(), nil); err == nil {
		t.Error("dialling no address worked")
	}
}

func TestEscapesAreThoseOfJavaScript(t *testing.T) {
	d := deviations{"x!;y~z:w": "';' is escaped as well: unescaped it would end the address"}
	for _, v := range vector[[][]json.RawMessage](t, "addresses.json", "escape") {
		var what, text string
		var parts, decoded []string
		if json.Unmarshal(v[0], &what) == nil && what == "parse" {
			if errors.Join(json.Unmarshal(v[1], &text), json.Unmarshal(v[2], &decoded)) != nil {
				t.Fatal("the recording is not what it was")
			}
			if got := multiserver.SplitLoose(text); !reflect.DeepEqual(got, decoded) {
				t.Errorf("%q: %q, want %q", text, got, decoded)
			}
			continue
		}
		if errors.Join(json.Unmarshal(v[0], &parts), json.Unmarshal(v[1], &text)) != nil {
			t.Fatal("the recording is not what it was")
		}
		var a multiserver.Address
		for _, p := range parts {
			a = append(a, multiserver.TextPart(p))
		}
		d.check(t, a.String(), a.String(), text)
		if got := multiserver.SplitLoose(a.String()); !reflect.DeepEqual(got, parts) {
			t.Errorf("%q: read back as %q", a, got)
		}
	}
}

func TestTheGrammarIsThatOfMultiserverAddress(t *testing.T) {
	type part struct {
		Name string
		Data []string
	}
	d := deviations{
		"net:a!:b:1":     "a colon within a field keeps its escape",
		"net:a!!b":       "an exclamation mark keeps its escape: without it the grammar refuses its own output",
		"net:x!;y~shs:z": "a semicolon within a field keeps its escape",
	}
	for _, v := range vector[[][2]json.RawMessage](t, "addresses.json", "ma_decode") {
		var text string
		var recorded struct {
			Check    bool
			Decode   json.RawMessage
			Reencode json.RawMessage
		}
		if errors.Join(json.Unmarshal(v[0], &text), json.Unmarshal(v[1], &recorded)) != nil {
			t.Fatal("the recording is not what it was")
		}
		got, err := multiserver.ParseGrammar(text)
		if (err == nil) != recorded.Check {
			t.Errorf("%q: %v, but JavaScript's check says %v", text, err, recorded.Check)
		}
		if err != nil || !recorded.Check {
			continue
		}
		var want [][]part
		var reencoded string
		if errors.Join(json.Unmarshal(recorded.Decode, &want), json.Unmarshal(recorded.Reencode, &reencoded)) != nil {
			t.Fatal("the recording is not what it was")
		}
		var shown [][]part
		for _, a := range got {
			var parts []part
			for _, p := range a {
				data := p.Data
				if data == nil {
					data = []string{}
				}
				parts = append(parts, part{p.Name, data})
			}
			shown = append(shown, parts)
		}
		if !reflect.DeepEqual(shown, want) {
			t.Errorf("%q: %v, want %v", text, shown, want)
		}
		d.check(t, text, multiserver.Join(got), reencoded)
		again, err := multiserver.ParseGrammar(multiserver.Join(got))
		if err != nil || !reflect.DeepEqual(again, got) {
			t.Errorf("%q does not come back from its own text: %v %v", text, again, err)
		}
	}
}

// fakeListener is a listener with a port, for what is advertised.
type fakeListener struct{ port int }

func (f fakeListener) Accept() (net.Conn, error) { return nil, net.ErrClosed }
func (f fakeListener) Close() error              { return nil }
func (f fakeListener) Addr() net.Addr            { return &net.TCPAddr{IP: net.IPv4zero, Port: f.port} }

// stringify is what a transport advertises, with a listener of that port.
func stringify(t *testing.T, transform multiserver.Transform, scope multiserver.Scope, entries ...entry) string {
	t.Helper()
	opts := multiserver.Options{
		Transforms: []multiserver.Transform{transform},
		Config:     multiserver.Config{Incoming: map[string][]multiserver.Incoming{}},
		Interfaces: noInterfaces,
	}
	for _, e := range entries {
		e.in.Transform = transform.Name()
		opts.Transports = append(opts.Transports, e.transport)
		opts.Config.Incoming[e.transport.Name()] = []multiserver.Incoming{e.in}
	}
	s := must(t, opts)
	if err := s.Listen(t.Context()); err != nil {
		return "THROWS " + err.Error()
	}
	return s.Address(scope)
}

func noInterfaces() ([]multiserver.Interface, error) { return nil, nil }

type entry struct {
	transport multiserver.Transport
	in        multiserver.Incoming
}

func netEntry(port int, in multiserver.Incoming) entry {
	return entry{msnet.New(msnet.Options{Listener: fakeListener{port}}), in}
}

func wsEntry(port int, in multiserver.Incoming) entry {
	return entry{ws.New(ws.Options{Listener: fakeListener{port}}), in}
}

// textTransform advertises nothing of its own, so that only the transport's
// part is seen.
type textTransform struct{ multiserver.Transform }

func (textTransform) Name() string    { return "none" }
func (textTransform) Address() string { return "" }

func TestAddressesAreAdvertisedAsInJavaScript(t *testing.T) {
	type in = multiserver.Incoming
	type scopes = multiserver.Scopes
	device, local, private, public := multiserver.Device, multiserver.Local, multiserver.Private, multiserver.Public
	none := func(scope multiserver.Scope, entries ...entry) string {
		return strings.ReplaceAll(stringify(t, textTransform{}, scope, entries...), "~", "")
	}
	shs := shsFor(t, "alice")
	unixAt := func(dir string) entry {
		return entry{dialOnly{unix.New(unix.Options{}), "unix", dir + "/socket"}, in{}}
	}
	noauth := multiserver.NoAuth(multiserver.NoAuthConfig{})

	got := map[string]string{
		"Net({port:8889,host:'mydomain.com'}).stringify()":         none(device, netEntry(8889, in{Host: "mydomain.com"})),
		"Net({port:8889,host:'mydomain.com'}).stringify('public')": none(public, netEntry(8889, in{Host: "mydomain.com"})),
		"Net({port:1}).stringify('device')":                        none(device, netEntry(1, in{})),
		"Net({port:1,host:'0.0.0.0',scope:'public',external:'ex.com'}).stringify('public')": none(public,
			netEntry(1, in{Host: "0.0.0.0", Scope: scopes{public}, External: multiserver.Hosts{"ex.com"}})),
		"Net({port:1,scope:['device','local','public']}).stringify('device')": none(device, netEntry(1, in{Scope: scopes{device, local, public}})),
		"Net({port:1,host:'::',scope:['device','public']}).stringify('device')": none(device,
			netEntry(1, in{Host: "::", Scope: scopes{device, public}})),
		"Net({port:1,host:'fe80::1%wlan0',scope:'private'}).stringify('private')": none(private,
			netEntry(1, in{Host: "fe80::1%wlan0", Scope: scopes{private}})),
		"Net({port:1,host:'fe80::1%en-0',scope:'private'}).stringify('private')": none(private,
			netEntry(1, in{Host: "fe80::1%en-0", Scope: scopes{private}})),
		"Net({scope:'bogus'})":                             invalidScope(t),
		"Net({port:1,scope:['bogus']}).stringify('bogus')": invalidScope(t),
		"compose [Net(external [a,b] public), shs].stringify('public')": stringify(t, shs, public,
			netEntry(9, in{Scope: scopes{public}, Host: "0.0.0.0", External: multiserver.Hosts{"a.de", "b.net"}})),
		"MS([[net,shs],[ws,shs]]).stringify() (scope default device)": stringify(t, shs, device,
			netEntry(1, in{}), wsEntry(2, in{})),
		"MS(...).stringify('public') when none":     stringify(t, shs, public, netEntry(1, in{}), wsEntry(2, in{})),
		"compose[unix,noauth].stringify('device')":  stringify(t, noauth, device, unixAt("/tmp/dir")),
		"compose[unix path with ~ and !].stringify": stringify(t, noauth, device, unixAt("/tmp/a~b!c")),
		"Ws({port:80,external:'d.de',scope:'public'}).stringify('public')": none(public,
			wsEntry(80, in{Scope: scopes{public}, Host: "0.0.0.0", External: multiserver.Hosts{"d.de"}})),
		"Ws({port:443,key:'k',cert:'c',external:'d.de',scope:'public'}).stringify('public')": none(public,
			entry{ws.New(ws.Options{Listener: fakeListener{443}, TLS: selfSigned(t)}),
				in{Scope: scopes{public}, Host: "0.0.0.0", External: multiserver.Hosts{"d.de"}}}),
		"Ws({port:8989,host:'::1'}).stringify('device')": none(device, wsEntry(8989, in{Host: "::1"})),
		"Ws({}) before server(): stringify('device')":    none(device, wsEntry(0, in{})),
	}
	elsewhere := deviations{
		"name of MS([[net,shs],[ws,shs]])":                                                  "TestUnknownAddressesSayWhatIsKnown",
		"MS.parse positional: MS([[net,shs],[ws,shs]]).parse('ws://x~shs:K;net:h:1~shs:K')": "parsing does not depend on positions",
	}
	d := deviations{
		"Net({port:1,host:'::',scope:['device','public']}).stringify('device')":  "a host that means every interface is of no use to a peer: the scope's own is given",
		"Net({port:1,host:'fe80::1%en-0',scope:'private'}).stringify('private')": "a zone is cut off whatever its name",
	}
	for _, v := range vector[[][2]json.RawMessage](t, "addresses.json", "stringify") {
		var what string
		if err := json.Unmarshal(v[0], &what); err != nil {
			t.Fatal(err)
		}
		if _, ok := elsewhere[what]; ok {
			continue
		}
		text, ok := got[what]
		if !ok {
			t.Errorf("%s is not tested", what)
			continue
		}
		d.check(t, what, text, recordedText(v[1]))
	}
	if got, want := got["Net({port:1,host:'::',scope:['device','public']}).stringify('device')"], "net:localhost:1"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, want := got["Net({port:1,host:'fe80::1%en-0',scope:'private'}).stringify('private')"], "net:fe80::1:1"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// recordedText is a recorded string, "" for null, or what was thrown.
func recordedText(raw json.RawMessage) string {
	var thrown struct{ THROWS string }
	if json.Unmarshal(raw, &thrown) == nil && thrown.THROWS != "" {
		return "THROWS " + thrown.THROWS
	}
	var text string
	_ = json.Unmarshal(raw, &text)
	return text
}

func invalidScope(t *testing.T) string {
	t.Helper()
	_, err := multiserver.New(multiserver.Options{
		Transports: []multiserver.Transport{msnet.New(msnet.Options{})},
		Transforms: []multiserver.Transform{shsFor(t, "alice")},
		Config: multiserver.Config{Incoming: map[string][]multiserver.Incoming{
			"net": {{Transform: "shs", Scope: multiserver.Scopes{"bogus"}}},
		}},
	})
	if err == nil {
		return ""
	}
	text, _, _ := strings.Cut(strings.TrimPrefix(err.Error(), "multiserver: "), " (")
	return "THROWS " + text
}

// dialOnly advertises a part without listening.
type dialOnly struct {
	multiserver.Transport
	name, rest string
}

func (d dialOnly) Listen(context.Context, multiserver.Incoming) (multiserver.Listener, error) {
	return advertised{multiserver.NewPart(d.name, d.rest)}, nil
}

type advertised struct{ part multiserver.Part }

func (advertised) Accept() (net.Conn, error) { return nil, net.ErrClosed }
func (advertised) Close() error              { return nil }
func (a advertised) Addresses(scope multiserver.Scope) []multiserver.Part {
	if scope != multiserver.Device {
		return nil
	}
	return []multiserver.Part{a.part}
}

// The multiserver part of what two peers recorded of each other's addresses.
func TestRecordedPeerAddressesAreUnderstood(t *testing.T) {
	s := must(t, multiserver.Options{
		Transports: []multiserver.Transport{
			msnet.New(msnet.Options{}), ws.New(ws.Options{}), unix.New(unix.Options{}), onion.New(onion.Options{}),
		},
		Transforms: []multiserver.Transform{shsFor(t, "alice"), multiserver.NoAuth(multiserver.NoAuthConfig{Self: keys.PublicKey{}})},
	})
	for _, v := range vector[[][]json.RawMessage](t, "noauth_ws_unix.json", "log") {
		var what, address string
		if json.Unmarshal(v[0], &what) != nil || len(v) < 3 {
			continue
		}
		if what != "alice rpc:connect" || json.Unmarshal(v[2], &address) != nil {
			continue // the server's side shows where a client came from, which is not to be dialled
		}
		if _, err := s.Parse(address); err != nil {
			t.Errorf("%s: %v", address, err)
		}
	}
}
