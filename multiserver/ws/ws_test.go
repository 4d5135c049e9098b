package ws_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/secretstack/secretstack/multiserver"
	"github.com/secretstack/secretstack/multiserver/ws"
)

// entry is a configuration entry with options of the transport's own.
func entry(t *testing.T, options map[string]any) multiserver.Incoming {
	t.Helper()
	in := multiserver.Incoming{Host: "127.0.0.1", Transform: "shs", Options: map[string]json.RawMessage{}}
	for name, v := range options {
		raw, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		in.Options[name] = raw
	}
	return in
}

func listen(t *testing.T, opts ws.Options, in multiserver.Incoming) multiserver.Listener {
	t.Helper()
	l, err := ws.New(opts).Listen(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func address(l multiserver.Listener) string { return l.Addresses(multiserver.Device)[0].Text() }

// httpAddress is the same for requests that do not upgrade.
func httpAddress(l multiserver.Listener) string { return strings.Replace(address(l), "ws", "http", 1) }

// pair is a connection from both ends.
func pair(t *testing.T, opts ws.Options) (client, server net.Conn) {
	t.Helper()
	l := listen(t, opts, entry(t, nil))
	return connect(t, l)
}

func connect(t *testing.T, l multiserver.Listener) (client, server net.Conn) {
	t.Helper()
	client, err := dial(t, l)
	if err != nil {
		t.Fatal(err)
	}
	return accept(t, l, client)
}

// connectWhenThereIsRoom is connect for a listener that learns only after its clients that others have gone.
func connectWhenThereIsRoom(t *testing.T, l multiserver.Listener) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		client, err := dial(t, l)
		if err == nil {
			accept(t, l, client)
			return
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			t.Fatal(err)
		}
	}
}

func dial(t *testing.T, l multiserver.Listener) (net.Conn, error) {
	t.Helper()
	return ws.New(ws.Options{}).Dial(t.Context(), l.Addresses(multiserver.Device)[0])
}

func accept(t *testing.T, l multiserver.Listener, dialled net.Conn) (client, server net.Conn) {
	t.Helper()
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = dialled.(interface{ Abort() error }).Abort()
		_ = server.(interface{ Abort() error }).Abort()
	})
	return dialled, server
}

// dialRaw is a WebSocket as another implementation would open it.
func dialRaw(t *testing.T, l multiserver.Listener, header http.Header) (*websocket.Conn, *http.Response, error) {
	t.Helper()
	c, response, err := websocket.Dial(t.Context(), address(l), &websocket.DialOptions{HTTPHeader: header})
	if c != nil {
		t.Cleanup(func() { _ = c.CloseNow() })
	}
	return c, response, err
}

func TestBytesPassWhateverTheMessages(t *testing.T) {
	client, server := pair(t, ws.Options{})
	sent := bytes.Repeat([]byte("0123456789abcdef"), 20<<10) // 320 KiB: several messages
	go func() {
		_, _ = client.Write(sent)
		_ = client.Close()
	}()
	got, err := io.ReadAll(server)
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%d bytes of %d, %v", len(got), len(sent), err)
	}
	if n, err := server.Read(nil); n != 0 || err != nil {
		t.Errorf("reading nothing: %d %v", n, err)
	}
}

func TestClientShowsTheURLInItsNormalForm(t *testing.T) {
	client, server := pair(t, ws.Options{})
	if got := multiserver.PeerPart(client).Text(); !strings.HasPrefix(got, "ws://127.0.0.1:") || !strings.HasSuffix(got, "/") {
		t.Errorf("the client shows %s", got)
	}
	if got := multiserver.PeerPart(server).Text(); got != "ws:127.0.0.1" {
		t.Errorf("the server shows %s", got)
	}
}

func TestPathOfTheEntryIsTheOnlyOneAndIsAdvertised(t *testing.T) {
	l := listen(t, ws.Options{}, entry(t, map[string]any{"path": "/deep/path"}))
	if !strings.HasSuffix(address(l), "/deep/path") {
		t.Error(address(l))
	}
	client, _ := connect(t, l)
	if got := multiserver.PeerPart(client).Text(); got != address(l) {
		t.Errorf("dialled %s, shows %s", address(l), got)
	}
	elsewhere := strings.Replace(address(l), "/deep/path", "/other", 1)
	name, rest, _ := strings.Cut(elsewhere, ":")
	_, err := ws.New(ws.Options{}).Dial(t.Context(), multiserver.NewPart(name, rest))
	if err == nil || !strings.Contains(err.Error(), `there is no WebSocket at this address: the server answered "404 Not Found"`) {
		t.Error(err)
	}
}

func TestAnyPathUpgradesWhenNoneIsConfigured(t *testing.T) {
	l := listen(t, ws.Options{}, entry(t, nil))
	name, rest, _ := strings.Cut(address(l), ":")
	c, err := ws.New(ws.Options{}).Dial(t.Context(), multiserver.NewPart(name, rest+"/any/where?x=y"))
	if err != nil {
		t.Fatal(err)
	}
	if got := multiserver.PeerPart(c).Text(); got != address(l)+"/any/where?x=y" {
		t.Errorf("shows %s", got)
	}
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Close() }()
	_ = c.Close()
}

func TestPortIsSharedWithTheApplication(t *testing.T) {
	app := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "hello http "+r.URL.Path) })
	l := listen(t, ws.Options{Handler: app}, entry(t, nil))
	get(t, httpAddress(l)+"/abc", "hello http /abc")
	connect(t, l)
}

func get(t *testing.T, url, want string) {
	t.Helper()
	response, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer http.DefaultClient.CloseIdleConnections()
	body, err := io.ReadAll(response.Body)
	_ = response.Body.Close()
	if err != nil || string(body) != want {
		t.Errorf("%q %v", body, err)
	}
}

func TestTransportIsAHandlerForTheApplicationsOwnServer(t *testing.T) {
	app := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "application") })
	transport := ws.New(ws.Options{Mounted: true, Handler: app})
	server := httptest.NewServer(transport)
	defer server.Close()
	port := uint16(server.Listener.Addr().(*net.TCPAddr).Port)
	listenAt := func(path string) multiserver.Listener {
		in := entry(t, map[string]any{"path": path})
		in.Port = port
		l, err := transport.Listen(t.Context(), in)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	a, b := listenAt("/a"), listenAt("/b")
	connect(t, b)
	connect(t, a)
	get(t, server.URL, "application")
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	if _, err := ws.New(ws.Options{}).Dial(t.Context(), a.Addresses(multiserver.Device)[0]); err == nil {
		t.Error("it upgrades after Close")
	}
	connect(t, b)
	_ = b.Close()
}

// certificate writes a key and a certificate for 127.0.0.1 into files.
func certificate(t *testing.T) (keyFile, certFile string, roots *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	keyFile, certFile = filepath.Join(dir, "key.pem"), filepath.Join(dir, "cert.pem")
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	err = errors.Join(
		os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o600),
		os.WriteFile(certFile, certPEM, 0o600))
	if err != nil {
		t.Fatal(err)
	}
	roots = x509.NewCertPool()
	roots.AppendCertsFromPEM(certPEM)
	return keyFile, certFile, roots
}

func TestKeyAndCertMakeItWSS(t *testing.T) {
	keyFile, certFile, roots := certificate(t)
	keyPEM, err := os.ReadFile(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	for what, key := range map[string]string{"file": keyFile, "text": string(keyPEM)} {
		l := listen(t, ws.Options{}, entry(t, map[string]any{"key": key, "cert": certFile}))
		if !strings.HasPrefix(address(l), "wss://127.0.0.1:") {
			t.Errorf("%s: %s", what, address(l))
		}
		client := ws.New(ws.Options{ClientTLS: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}})
		c, err := client.Dial(t.Context(), l.Addresses(multiserver.Device)[0])
		if err != nil {
			t.Fatal(err)
		}
		server, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		go func() { _, _ = io.WriteString(c, "hello") }()
		got := make([]byte, 5)
		if _, err := io.ReadFull(server, got); err != nil || string(got) != "hello" {
			t.Errorf("%q %v", got, err)
		}
		go func() { _ = server.Close() }()
		_ = c.Close()
		if _, err := ws.New(ws.Options{}).Dial(t.Context(), l.Addresses(multiserver.Device)[0]); err == nil {
			t.Error("a certificate that nobody vouches for was taken")
		}
	}
}

func TestMistakesInTheEntryAreNamed(t *testing.T) {
	keyFile, certFile, _ := certificate(t)
	for want, in := range map[string]multiserver.Incoming{
		"key and cert must be given together": entry(t, map[string]any{"key": keyFile}),
		"must begin with '/'":                 entry(t, map[string]any{"path": "x"}),
		"unknown field":                       entry(t, map[string]any{"certt": certFile}),
		"no such file":                        entry(t, map[string]any{"key": keyFile, "cert": "/nowhere/x.pem"}),
		"key and cert: ":                      entry(t, map[string]any{"key": certFile, "cert": keyFile}),
		"external":                            {Host: "127.0.0.1", External: multiserver.Hosts{"http://example.org"}},
	} {
		if _, err := ws.New(ws.Options{}).Listen(t.Context(), in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	if l, err := ws.New(ws.Options{}).Listen(t.Context(), entry(t, map[string]any{"binaryType": "arraybuffer"})); err != nil {
		t.Error(err)
	} else {
		_ = l.Close()
	}
}

// Defect C4: any origin may connect, whatever is behind.
func TestDefectC4OriginsAreCheckedWhereNothingElseIs(t *testing.T) {
	for name, test := range map[string]struct {
		transform string
		patterns  []string
		origin    string
		ok        bool
	}{
		"a program":                        {"noauth", nil, "", true},
		"a page, and keys are proved":      {"shs", nil, "https://evil.example", true},
		"a page, and nothing is proved":    {"noauth", nil, "https://evil.example", false},
		"a page of our own, but who knows": {"noauth", nil, "http://127.0.0.1", false},
		"a page that is listed":            {"noauth", []string{"*.good.example"}, "https://app.good.example", true},
		"a page that is not":               {"shs", []string{"*.good.example"}, "https://evil.example", false},
		"no page at all":                   {"shs", []string{"*.good.example"}, "null", false},
		"a program, with a list":           {"shs", []string{"*.good.example"}, "", true},
	} {
		t.Run(name, func(t *testing.T) {
			in := entry(t, nil)
			in.Transform = test.transform
			l := listen(t, ws.Options{OriginPatterns: test.patterns}, in)
			header := http.Header{}
			if test.origin != "" {
				header.Set("Origin", test.origin)
			}
			_, response, err := dialRaw(t, l, header)
			if (err == nil) != test.ok {
				t.Errorf("%v", err)
			}
			if err != nil && (response == nil || response.StatusCode != http.StatusForbidden) {
				t.Errorf("answered %v", response)
			}
		})
	}
}

// Defect C4: X-Forwarded-For is believed, which anybody can send.
func TestDefectC4ForwardedAddressesAreNotBelieved(t *testing.T) {
	l := listen(t, ws.Options{}, entry(t, nil))
	header := http.Header{"X-Forwarded-For": {"203.0.113.9"}, "Forwarded": {"for=203.0.113.9"}, "X-Real-Ip": {"203.0.113.9"}}
	if _, _, err := dialRaw(t, l, header); err != nil {
		t.Fatal(err)
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if got := multiserver.PeerPart(c).Text(); got != "ws:127.0.0.1" {
		t.Errorf("it shows %s", got)
	}
	if !strings.HasPrefix(c.RemoteAddr().String(), "127.0.0.1:") {
		t.Errorf("it has %s", c.RemoteAddr())
	}
}

func TestPageOnThisMachineShowsItsOrigin(t *testing.T) {
	for origin, want := range map[string]string{
		"http://localhost:3000": "ws://localhost:3000",
		"https://app.example":   "wss://app.example",
		"null":                  "ws:null",
		"file:///etc":           "ws:127.0.0.1",
		"http://a b;c":          "ws:127.0.0.1",
		"http://x~shs:KEY":      "ws:127.0.0.1",
	} {
		l := listen(t, ws.Options{}, entry(t, nil))
		if _, _, err := dialRaw(t, l, http.Header{"Origin": {origin}}); err != nil {
			t.Fatal(err)
		}
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if got := multiserver.PeerPart(c).Text(); got != want {
			t.Errorf("%s shows as %s, want %s", origin, got, want)
		}
	}
}

// Defect C4: no read limit.
func TestDefectC4MessagesAreBounded(t *testing.T) {
	l := listen(t, ws.Options{MaxMessage: 1000}, entry(t, nil))
	raw, _, err := dialRaw(t, l, nil)
	if err != nil {
		t.Fatal(err)
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = raw.Write(context.Background(), websocket.MessageBinary, make([]byte, 1000))
		_ = raw.Write(context.Background(), websocket.MessageBinary, make([]byte, 1001))
	}()
	got, err := io.ReadAll(c)
	if !errors.Is(err, websocket.ErrMessageTooBig) || len(got) < 1000 || len(got) > 2001 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// Defect C4: each empty message is a call of Read in itself, and Read returns
// -1 at the end.
func TestDefectC4EmptyMessagesAndEndsAreReadAsAReaderShould(t *testing.T) {
	l := listen(t, ws.Options{}, entry(t, nil))
	raw, _, err := dialRaw(t, l, nil)
	if err != nil {
		t.Fatal(err)
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for range 20000 {
			_ = raw.Write(context.Background(), websocket.MessageBinary, nil)
		}
		_ = raw.Write(context.Background(), websocket.MessageBinary, []byte("x"))
		_ = raw.Close(websocket.StatusNormalClosure, "")
	}()
	buf := make([]byte, 10)
	if n, err := c.Read(buf); n != 1 || err != nil {
		t.Fatalf("%d %v", n, err)
	}
	if n, err := c.Read(buf); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("%d %v", n, err)
	}
}

func TestTextMessagesEndTheConnection(t *testing.T) {
	l := listen(t, ws.Options{}, entry(t, nil))
	raw, _, err := dialRaw(t, l, nil)
	if err != nil {
		t.Fatal(err)
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Write(t.Context(), websocket.MessageText, []byte("text")); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(make([]byte, 10)); n != 0 || err == nil || errors.Is(err, io.EOF) {
		t.Errorf("%d %v", n, err)
	}
	if _, _, err := raw.Read(t.Context()); err == nil {
		t.Error("the connection is open")
	}
}

func TestCompressionIsOff(t *testing.T) {
	l := listen(t, ws.Options{}, entry(t, nil))
	_, response, err := dialRaw(t, l, http.Header{"Sec-Websocket-Extensions": {"permessage-deflate; client_max_window_bits"}})
	if err != nil {
		t.Fatal(err)
	}
	if got := response.Header.Get("Sec-Websocket-Extensions"); got != "" {
		t.Errorf("agreed on %s", got)
	}
}

func TestCloseOfAConnectionToAPeerThatHangsIsBounded(t *testing.T) {
	client, server := pair(t, ws.Options{})
	done := make(chan error)
	go func() { done <- client.Close() }() // nobody reads at the other end
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Fatal("Close hangs")
	}
	_, _ = io.Copy(io.Discard, server)
}

func TestCutWebSocketIsNoOrderlyEnd(t *testing.T) {
	client, server := pair(t, ws.Options{})
	_ = client.(interface{ Abort() error }).Abort()
	if n, err := server.Read(make([]byte, 1)); n != 0 || err == nil || err == io.EOF { //nolint:errorlint // exactly that
		t.Errorf("%d %v", n, err)
	}
}

func TestDeadlinesEndReadingAndWriting(t *testing.T) {
	client, _ := pair(t, ws.Options{})
	_ = client.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	if _, err := client.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error(err)
	}
	_ = client.SetDeadline(time.Now().Add(-time.Second))
	if _, err := client.Write(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error(err)
	}
	if client.LocalAddr() == nil {
		t.Error("there is no local address")
	}
}

func TestClientsThatSendNoRequestAreCutOff(t *testing.T) {
	l := listen(t, ws.Options{HeaderTimeout: 50 * time.Millisecond, MaxPending: 2}, entry(t, nil))
	dial := func() net.Conn {
		c, err := net.Dial("tcp", strings.TrimPrefix(address(l), "ws://"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		_ = c.SetReadDeadline(time.Now().Add(time.Minute))
		return c
	}
	for _, c := range []net.Conn{dial(), dial(), dial()} {
		_, _ = io.WriteString(c, "GET / HT")
		if _, err := io.ReadAll(c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error("it is still open")
		}
	}
	connectWhenThereIsRoom(t, l)
}

func TestClientsAboutToSendTheirFirstRequestAreCapped(t *testing.T) {
	l := listen(t, ws.Options{HeaderTimeout: time.Minute, MaxPending: 2}, entry(t, nil))
	var conns []net.Conn
	for range 3 {
		c, err := net.Dial("tcp", strings.TrimPrefix(address(l), "ws://"))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		conns = append(conns, c)
	}
	_ = conns[2].SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := conns[2].Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the third: %v", err)
	}
	_ = conns[0].SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	if _, err := conns[0].Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the first: %v", err)
	}
	_, _ = io.WriteString(conns[0], "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	_ = conns[0].SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := conns[0].Read(make([]byte, 1)); err != nil { // 404: its place is free
		t.Error(err)
	}
	connectWhenThereIsRoom(t, l)
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	elsewhere := listen(t, ws.Options{}, entry(t, nil))
	app := http.RedirectHandler(httpAddress(elsewhere), http.StatusFound)
	server := httptest.NewServer(app)
	defer server.Close()
	_, err := ws.New(ws.Options{}).Dial(t.Context(), multiserver.NewPart("ws", strings.TrimPrefix(server.URL, "http:")))
	if err == nil || !strings.Contains(err.Error(), "302") {
		t.Error(err)
	}
}

func TestCloseEndsAcceptAndUpgrades(t *testing.T) {
	l := listen(t, ws.Options{}, entry(t, nil))
	if _, _, err := dialRaw(t, l, nil); err != nil { // nobody accepts it
		t.Fatal(err)
	}
	done := make(chan error)
	time.AfterFunc(10*time.Millisecond, func() { done <- l.Close() })
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	if _, _, err := dialRaw(t, l, nil); err == nil {
		t.Error("it upgrades after Close")
	}
}

func TestPartsOfOthersAreLeftToThem(t *testing.T) {
	transport := ws.New(ws.Options{})
	if transport.Name() != "ws" {
		t.Error(transport.Name())
	}
	for _, mode := range []multiserver.Mode{multiserver.Strict, multiserver.Loose} {
		if _, err := transport.ParsePart(multiserver.NewPart("net", "h:1"), mode); !errors.Is(err, multiserver.ErrOtherPart) {
			t.Error(err)
		}
	}
	if _, err := transport.Dial(t.Context(), multiserver.NewPart("net", "h:1")); !errors.Is(err, multiserver.ErrOtherPart) {
		t.Error(err)
	}
}
