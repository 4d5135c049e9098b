package vhost

import (
	"encoding/json"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// The recordings are of the JavaScript hub 0.2.1. Each case is replayed, or stands in notHere. What ours does otherwise is
// listed in deviations, and why; a line there that is not needed fails the test.

// notHere lists the recorded cases that say nothing about virtual hosts.
var notHere = map[string]string{
	"registration request bytes sent by the real tunnel client": "the hub's API",
	"first client": "the hub's API",
	"client behaviour when the hub answers 400 (retries each 1 s until timeout, then RESOLVES with clientId undefined)": "the hub's API",
	"hub restarted: does the client come back? (no)":                                                                    "the client's registration",
	"two Hosts":                       "the hub's API answers there",
	"Host upper case id is NOT an id": "the id of the case is not registered; TestTheHostDecides has capitals",
	"header block > 16 KiB":           "the server's limit, and ours of 64 KiB in TestLimitsOnWhatVisitorsSend",
}

// deviations lists what ours does otherwise, on purpose.
var deviations = map[string]string{
	"GET forwarded (one request, fixed-length response)/header X-Dup":     "lines of one name are passed on as they came, not joined",
	"GET forwarded (one request, fixed-length response)/header Cookie":    "lines of one name are passed on as they came, not joined",
	"GET forwarded (one request, fixed-length response)/header Forwarded": "where a request comes from is not for the visitor to say",

	"client sends Connection: close: header is forwarded; hub keeps the tunnel socket unless the origin closes it/header Connection": "it is meant for one hop",
	"websocket upgrade: header block re-emitted with original case/order; early data after the header is LOST/early":                 "early data arrives",

	"tunnel socket dies BEFORE a response byte: what the client gets (GET)/status":                   "502 instead of silence",
	"tunnel socket dies before response, POST body incomplete/status":                                "502 instead of an end without a byte",
	"tunnel answers garbage: client/status":                                                          "502 instead of silence",
	"tunnel never answers (no hub timeout)/status":                                                   "504 instead of silence",
	"request while no tunnel socket, grace expires (1 s): client/status":                             "503 instead of silence",
	"after grace expiry: client/status":                                                              "503: the id belongs to somebody, who is away",
	"half close (FIN) from tunnel side while a request is pending/status":                            "502 instead of silence",
	"70 KiB response header from the courier side (node parser limit 16 KiB)/status":                 "502 instead of silence",
	"websocket upgrade, no tunnel socket: connection closed without bytes when grace expires/status": "503 instead of an end without a byte",
	"local origin down: visitor/status":                                                              "504 instead of silence",
	"upgrade without Host id/status":                                                                 "404 instead of an end without a byte",
	"upgrade unknown id/status":                                                                      "404 instead of an end without a byte",
	"absolute-form request target/status":                                                            "the target's host counts, as RFC 9112 says",

	"grace timers (ms)/grace":                   "several seconds, and configurable, instead of one",
	"12 connections to one tunnel port/sockets": "as many as max_conn_count says, 4; the others wait unharmed",
	"hijack: a stranger connected to the per-tunnel TCP port receives and answers requests/stranger":                                                                                         "only the address that registered is heard",
	"3 concurrent requests, 1 tunnel socket: the first is served, the other two HANG (queued createConnection callbacks are only woken by a NEW tunnel socket, never by a freed one)/served": "a freed socket serves the next visitor",
	"visitor leaves before the response: is the tunnel socket freed?/freed":                                                                                                                  "it is",
	"TCP keep-alive timer on hub side of a tunnel socket (ss -o)/keep-alive":                                                                                                                 "it is on: TestRawSocketsAreAskedWhetherTheyLive",
	"second client, same account, first still online (hub returns no port)/port":                                                                                                             "the same pool, and its port",
}

// vectorCase is one recorded case; which members it has depends on the case.
type vectorCase struct {
	Name           string          `json:"name"`
	Request        string          `json:"request"`
	ClientSent     string          `json:"client_sent"`
	TunnelReceived string          `json:"tunnel_received"`
	ClientReceived json.RawMessage `json:"client_received"`
	Response       json.RawMessage `json:"response"`
	Status         json.RawMessage `json:"status"`
	Body           string          `json:"body"`
	Open           int             `json:"open"`
	Order          []string        `json:"order"`
	Grace          int             `json:"offline_removed_after_ms"`
	Got            map[string]int  `json:"got"`
	SocketClosed   *bool           `json:"tunnel_socket_closed"`
	ClosedAfter    int             `json:"closed_after_ms"`
}

// received is what the visitor of a case got.
type received struct {
	EndedBy string   `json:"ended_by"`
	Status  string   `json:"status_line"`
	Headers []string `json:"headers"`
	Body    string   `json:"body"`
	Raw     string   `json:"raw"`
}

// replay compares our behaviour with a case's.
type replay struct {
	*testing.T
	c    vectorCase
	used map[string]bool
}

// same compares one aspect, and takes note of a deviation.
func (r *replay) same(aspect, got, want string) {
	r.Helper()
	if got == want {
		return
	}
	key := r.c.Name + "/" + aspect
	if deviations[key] == "" {
		r.Errorf("%s: got %q, recorded %q", aspect, got, want)
	}
	r.used[key] = true
}

// ours checks what a deviation says that we do instead.
func (r *replay) ours(aspect string, ok bool) {
	r.Helper()
	if !ok {
		r.Errorf("%s: not what the deviation says", aspect)
	}
}

func TestRecordedCases(t *testing.T) {
	used := map[string]bool{}
	seen := map[string]bool{}
	for _, file := range []string{"hub_tunnel.json", "tunnel_client.json", "hub_hosts.json"} {
		for _, c := range readCases(t, file) {
			t.Run(c.Name, func(t *testing.T) {
				play, ok := replays[c.Name]
				switch {
				case notHere[c.Name] != "":
					seen[c.Name] = true
				case !ok:
					t.Fatal("no replay")
				default:
					synctest.Test(t, func(t *testing.T) { play(&replay{t, c, used}) })
				}
			})
		}
	}
	for name := range notHere {
		if !seen[name] {
			t.Errorf("no such case: %s", name)
		}
	}
	for key := range deviations {
		if !used[key] {
			t.Errorf("no such deviation: %s", key)
		}
	}
}

func readCases(t *testing.T, file string) []vectorCase {
	t.Helper()
	b, err := os.ReadFile("testdata/" + file)
	if err != nil {
		t.Fatal(err)
	}
	var doc struct{ Cases, Exchanges []vectorCase }
	if err := json.Unmarshal(b, &doc); err != nil {
		t.Fatal(err)
	}
	return append(doc.Cases, doc.Exchanges...)
}

// replays play the recorded cases on ours.
var replays = map[string]func(*replay){
	"GET forwarded (one request, fixed-length response)": func(r *replay) {
		r.exchange(r.c.ClientSent, "HTTP/1.1 201 Weird Reason\r\nX-Resp-Case: Yes\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 5\r\nContent-Type: text/plain\r\n\r\nhello")
	},
	"second request on the SAME tunnel socket (agent keep-alive)": func(r *replay) {
		r.exchange(r.visitors("GET /second"), "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	},
	"client sends Connection: close: header is forwarded; hub keeps the tunnel socket unless the origin closes it": func(r *replay) {
		r.exchange(r.visitors("GET /third", "Connection: close"), "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	},
	"POST Content-Length, chunked response": func(r *replay) {
		r.exchange(r.c.ClientSent, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
	},
	"POST chunked, 204 response": func(r *replay) {
		r.exchange(r.c.ClientSent, "HTTP/1.1 204 No Content\r\n\r\n")
	},
	"HEAD": func(r *replay) {
		r.exchange(r.visitors("HEAD /h"), "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n")
	},
	"Expect: 100-continue (hub itself answers 100)": func(r *replay) {
		w := newWorld(r.T, Config{}, PoolConfig{})
		v, s := w.visitor(), w.socket()
		v.send(r.visitors("POST /e", "Expect: 100-continue", "Content-Length: 2"))
		if block := v.block(); block != "HTTP/1.1 100 Continue\r\n\r\n" {
			r.Errorf("got %q", block)
		}
		v.send("hi")
		r.sameRequest(s.request())
		s.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		v.response()
	},
	"response with no length, ended by close": func(r *replay) {
		w := newWorld(r.T, Config{}, PoolConfig{})
		v, s := w.visitor(), w.socket()
		v.get("/")
		s.request()
		s.send("HTTP/1.1 200 OK\r\n\r\nuntil close")
		_ = s.c.Close()
		r.sameResponse(v, http.MethodGet)
	},
	"tunnel socket dies BEFORE a response byte: what the client gets (GET)": func(r *replay) {
		r.failure(r.visitors("GET /"), 502, func(s *wire) { s.block(); _ = s.c.Close() })
	},
	"tunnel socket dies before response, POST body incomplete": func(r *replay) {
		r.failure(r.visitors("POST /", "Content-Length: 100000")+"half", 502, func(s *wire) { s.block(); _ = s.c.Close() })
	},
	"tunnel socket dies in the middle of the response body": func(r *replay) {
		w := newWorld(r.T, Config{}, PoolConfig{})
		v, s := w.visitor(), w.socket()
		v.get("/")
		s.request()
		s.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
		time.Sleep(time.Second)
		_ = s.c.Close()
		r.sameResponse(v, http.MethodGet)
	},
	"tunnel answers garbage: client": func(r *replay) {
		r.failure(r.visitors("GET /"), 502, func(s *wire) { s.block(); s.send("garbage\r\n\r\n") })
	},
	"tunnel never answers (no hub timeout)": func(r *replay) {
		r.failure(r.visitors("GET /"), 504, func(s *wire) { s.block() })
	},
	"request before any tunnel socket: queued, served when a socket arrives 300 ms later": func(r *replay) {
		w := newWorld(r.T, Config{}, PoolConfig{})
		v := w.visitor()
		v.get("/")
		time.Sleep(300 * time.Millisecond)
		s := w.socket()
		s.request()
		s.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		r.sameResponse(v, http.MethodGet)
	},
	"request while no tunnel socket, grace expires (1 s): client": func(r *replay) {
		w := newWorld(r.T, Config{}, PoolConfig{Grace: time.Second})
		v := w.visitor()
		v.get("/")
		within(r.T, time.Second, func() { r.answered(v, 503) })
	},
	"after grace expiry: client": func(r *replay) {
		w := newWorld(r.T, Config{}, PoolConfig{Grace: time.Second})
		time.Sleep(2 * time.Second)
		v := w.visitor()
		v.get("/")
		within(r.T, 0, func() { r.answered(v, 503) })
	},
	"grace timers (ms)": func(r *replay) {
		w := newWorld(r.T, Config{}, PoolConfig{})
		s := w.socket()
		time.Sleep(1500 * time.Millisecond)
		_ = s.c.Close()
		start := time.Now()
		<-w.pool.Done()
		took := time.Since(start)
		r.same("grace", took.String(), time.Duration(r.c.Grace/1000*int(time.Second)).String())
		r.ours("grace", took == defaultGrace)
	},
	"reconnect within grace keeps the client": func(r *replay) {
		w := newWorld(r.T, Config{}, PoolConfig{Grace: time.Second})
		s := w.socket()
		synctest.Wait()
		_ = s.c.Close()
		time.Sleep(900 * time.Millisecond)
		w.socket()
		time.Sleep(time.Minute)
		r.same("sockets", socketsDocument(w), strings.Join(strings.Fields(string(r.c.Status)), ""))
	},
	"half close (FIN) from tunnel side while a request is pending": func(r *replay) {
		r.failure(r.visitors("GET /"), 502, func(s *wire) { s.block(); _ = s.c.(*memConn).CloseWrite() })
	},
	"12 connections to one tunnel port": func(r *replay) {
		w := newWorld(r.T, Config{}, PoolConfig{})
		for range 12 {
			w.socket()
		}
		time.Sleep(time.Minute)
		got := w.pool.Stats().Open
		r.same("sockets", itoa(got), itoa(r.c.Open))
		r.ours("sockets", got == 4)
	},
	"hijack: a stranger connected to the per-tunnel TCP port receives and answers requests": func(r *replay) {
		w := newWorld(r.T, Config{}, PoolConfig{})
		s, stranger := w.socket(), w.connect(w.gate, strangerAddr)
		stranger.gone()
		for range 2 {
			v := w.visitor()
			v.get("/")
			s.request()
			s.reply("victim")
			if res := v.response(); res.body != "victim" {
				r.Errorf("got %q", res.body)
			}
		}
		r.same("stranger", "0", itoa(r.c.Got["attacker"]))
	},
	"3 concurrent requests, 1 tunnel socket: the first is served, the other two HANG (queued createConnection callbacks are only woken by a NEW tunnel socket, never by a freed one)": func(r *replay) {
		w := newWorld(r.T, Config{}, PoolConfig{})
		s := w.socket()
		for _, path := range []string{"/a", "/b", "/c"} {
			v := w.visitor()
			v.get(path)
			synctest.Wait()
		}
		var order []string
		for range 3 {
			order = append(order, s.request().RequestURI)
			s.reply("ok")
		}
		r.same("served", strings.Join(order, " "), strings.Join(r.c.Order, " "))
		r.ours("served", slices.Equal(order, []string{"/a", "/b", "/c"}))
	},
	"websocket upgrade: header block re-emitted with original case/order; early data after the header is LOST": func(r *replay) {
		w := newWorld(r.T, Config{}, PoolConfig{})
		v, s := w.visitor(), w.socket()
		sent := strings.ReplaceAll(r.c.ClientSent, "bj-sx8-o3.hub.test:8433", testHost)
		v.send(sent)
		recorded, _, _ := strings.Cut(strings.ReplaceAll(r.c.TunnelReceived, "bj-sx8-o3.hub.test:8433", testHost), "\r\n\r\n")
		got := strings.ToLower(s.block())
		for line := range strings.SplitSeq(recorded, "\r\n") {
			if !strings.Contains(got, strings.ToLower(line)+"\r\n") {
				r.Errorf("the courier got %q, without %q", got, line)
			}
		}
		s.send(wsResponse)
		v.block()
		r.same("early", s.bytes(len("EARLYDATA")), "")
		v.send("PONG")
		s.bytes(4)
		s.send("PING")
		v.bytes(4)
		_ = v.c.Close()
		s.gone()
	},
	"websocket upgrade, no tunnel socket: connection closed without bytes when grace expires": func(r *replay) {
		w := newWorld(r.T, Config{}, PoolConfig{Grace: time.Duration(r.c.ClosedAfter) * time.Millisecond})
		v := w.visitor()
		v.send(wsRequest)
		within(r.T, time.Duration(r.c.ClosedAfter)*time.Millisecond, func() { r.answered(v, 503) })
	},
	"visitor leaves in the middle of a response": func(r *replay) {
		w := newWorld(r.T, Config{}, PoolConfig{})
		v, s := w.visitor(), w.socket()
		v.get("/")
		s.request()
		s.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
		v.block()
		_ = v.c.Close()
		s.gone()
		r.same("freed", "true", jsonText(r.c.SocketClosed))
	},
	"visitor leaves before the response: is the tunnel socket freed?": func(r *replay) {
		w := newWorld(r.T, Config{}, PoolConfig{})
		v, s := w.visitor(), w.socket()
		v.get("/")
		s.request()
		_ = v.c.Close()
		s.gone()
		r.same("freed", "true", jsonText(r.c.SocketClosed))
	},
	"TCP keep-alive timer on hub side of a tunnel socket (ss -o)": func(r *replay) {
		on := PoolConfig{}.withDefaults().listenConfig().KeepAliveConfig.Enable
		r.same("keep-alive", jsonText(on), "false")
	},
	"70 KiB response header from the courier side (node parser limit 16 KiB)": func(r *replay) {
		r.failure(r.visitors("GET /"), 502, func(s *wire) {
			s.block()
			s.flood("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 70<<10) + "\r\n\r\n")
		})
	},

	"sockets opened by client (max_conn_count 4)": func(r *replay) {
		w := newWorld(r.T, Config{}, PoolConfig{})
		for range w.pool.MaxSockets() {
			w.socket()
		}
		synctest.Wait()
		r.same("sockets", socketsDocument(w), r.c.Body)
	},
	"second client, same account, first still online (hub returns no port)": func(r *replay) {
		w := newWorld(r.T, Config{}, PoolConfig{})
		w.socket()
		synctest.Wait()
		before := w.pool.Port()
		err := w.pool.Register(courierAddr)
		r.same("port", itoa(w.pool.Port()), "")
		r.ours("port", err == nil && w.pool.Port() == before && before != 0)
	},
	"tunnel works": func(r *replay) {
		w := newWorld(r.T, Config{}, PoolConfig{})
		v, s := w.visitor(), w.socket()
		v.get("/")
		s.request()
		s.reply("ok")
		r.same("body", v.response().body, r.c.Body)
	},
	"local origin down: visitor": func(r *replay) { // the client holds its socket, and passes nothing
		w := newWorld(r.T, Config{}, PoolConfig{})
		w.socket()
		v := w.visitor()
		v.get("/")
		within(r.T, defaultResponseTimeout, func() { r.answered(v, 504) })
	},
	"local origin back after ~6 s: visitor": func(r *replay) {
		w := newWorld(r.T, Config{}, PoolConfig{})
		v, s := w.visitor(), w.socket()
		v.get("/")
		time.Sleep(6 * time.Second)
		s.request()
		s.reply("ok2")
		r.same("body", v.response().body, r.c.Body)
	},
	"sockets after origin restart": func(r *replay) {
		w := newWorld(r.T, Config{}, PoolConfig{})
		for range 4 {
			s := w.socket()
			synctest.Wait()
			_ = s.c.Close()
			w.socket()
		}
		synctest.Wait()
		r.same("sockets", socketsDocument(w), r.c.Body)
	},

	"no Host, HTTP/1.1":            (*replay).host,
	"no Host, HTTP/1.0":            (*replay).host,
	"empty Host":                   (*replay).host,
	"Host is an unknown tunnel id": (*replay).host,
	"Host unknown id, api path":    (*replay).host,
	"absolute-form request target": (*replay).host,
	"upgrade without Host id":      (*replay).host,
	"upgrade unknown id":           (*replay).host,
}

// socketsDocument is how the hub's status tells the sockets of a courier.
func socketsDocument(w *world) string {
	return `{"connected_sockets":` + itoa(w.pool.Stats().Open) + `}`
}

func jsonText(v any) string { b, _ := json.Marshal(v); return string(b) }

// visitors makes a visitor's request of a case that does not have one.
func (r *replay) visitors(line string, headers ...string) string {
	return line + " HTTP/1.1\r\nHost: " + testHost + "\r\n" + strings.Join(append(headers, "\r\n"), "\r\n")
}

// exchange sends the recorded request and response, and compares what each side gets. It does so twice, the second time
// over the same socket.
func (r *replay) exchange(request, response string) {
	r.Helper()
	w := newWorld(r.T, Config{}, PoolConfig{})
	s := w.socket()
	method, _, _ := strings.Cut(request, " ")
	for range 2 {
		v := w.visitor()
		v.send(strings.NewReplacer("qc-yf5-jj.hub.test:8433", testHost, "6k-zis-na.hub.test:8433", testHost).Replace(request))
		r.sameRequest(s.request())
		s.send(response)
		r.sameResponse(v, method)
	}
}

// sameRequest compares a request with the recorded one, but for the id, the spelling and order of the header's names, and
// what both sides add.
func (r *replay) sameRequest(got heard) {
	r.Helper()
	block, body, _ := strings.Cut(r.c.TunnelReceived, "\r\n\r\n")
	lines := strings.Split(block, "\r\n")
	r.same("request line", got.Method+" "+got.RequestURI+" "+got.Proto, lines[0])
	recorded := map[string]string{}
	for _, line := range lines[1:] {
		name, value, _ := strings.Cut(line, ": ")
		recorded[http.CanonicalHeaderKey(name)] = value
	}
	if recorded["Connection"] == "keep-alive" {
		delete(recorded, "Connection") // HTTP/1.1 means it
	}
	_, sameHost, _ := strings.Cut(recorded["Host"], ".")
	r.same("host", strings.TrimPrefix(got.Host, "7y-6ro-3z."), strings.TrimSuffix(sameHost, ":8433"))
	delete(recorded, "Host")
	if recorded["Transfer-Encoding"] != "" {
		r.same("transfer encoding", strings.Join(got.TransferEncoding, ","), recorded["Transfer-Encoding"])
		delete(recorded, "Transfer-Encoding")
		body = strings.TrimSuffix(strings.TrimPrefix(body, "4\r\n"), "\r\n0\r\n\r\n")
	}
	for name := range got.Header {
		if !strings.HasPrefix(name, "X-Forwarded-") {
			r.same("header "+name, strings.Join(got.Header[name], " | "), recorded[name])
		}
	}
	for name := range recorded {
		if got.Header[name] == nil {
			r.same("header "+name, "", recorded[name])
		}
	}
	r.same("body", got.body, body)
}

// sameResponse compares a response with the recorded one, but for what concerns the visitor's connection alone.
func (r *replay) sameResponse(v *wire, method string) {
	r.Helper()
	var want received
	if err := json.Unmarshal(r.c.ClientReceived, &want); err != nil {
		r.Fatal(err)
	}
	got := v.responseTo(method)
	r.same("status", "HTTP/1.1 "+got.Status, want.Status)
	chunked := false
	for _, line := range want.Headers {
		name, value, _ := strings.Cut(line, ": ")
		switch name = http.CanonicalHeaderKey(name); name {
		case "Date", "Connection", "Keep-Alive":
		case "Transfer-Encoding":
			chunked = true
			r.same("transfer encoding", strings.Join(got.TransferEncoding, ","), value)
		default:
			if !slices.Contains(got.Header[name], value) {
				r.same("response header "+name, strings.Join(got.Header[name], " | "), value)
			}
		}
	}
	body := want.Body
	if chunked {
		_, body, _ = strings.Cut(body, "\r\n")
		body = strings.TrimSuffix(body, "\r\n0\r\n\r\n")
	}
	r.same("body", got.body, body)
	if r.c.Name != "tunnel socket dies in the middle of the response body" && got.err != nil {
		r.Errorf("the body: %v", got.err)
	}
}

// failure plays a case whose visitor hangs in the recording, and gets an answer from us.
func (r *replay) failure(request string, status int, courier func(*wire)) {
	r.Helper()
	w := newWorld(r.T, Config{}, PoolConfig{MaxSockets: 2})
	for range 2 { // a GET is tried twice
		s := w.socket()
		go func() {
			if _, err := s.br.Peek(1); err == nil {
				courier(s)
			}
		}()
	}
	synctest.Wait()
	v := w.visitor()
	v.send(request)
	within(r.T, defaultResponseTimeout, func() { r.answered(v, status) })
}

// answered reads the hub's answer and notes that the recording has none, or another one.
func (r *replay) answered(v *wire, status int) {
	r.Helper()
	v.answer(status)
	var want received
	for _, raw := range []json.RawMessage{r.c.ClientReceived, r.c.Response} {
		if raw != nil {
			if err := json.Unmarshal(raw, &want); err != nil {
				r.Fatal(err)
			}
		}
	}
	recorded := ""
	if want.Status != "" {
		recorded = want.Status[len("HTTP/1.1 "):][:3]
	}
	r.same("status", itoa(status), recorded)
}

// host plays a case that the host decides.
func (r *replay) host() {
	w := newWorld(r.T, Config{}, PoolConfig{})
	v := w.visitor()
	v.send(r.c.Request)
	var want received
	if err := json.Unmarshal(r.c.Response, &want); err != nil {
		r.Fatal(err)
	}
	res := v.response()
	status := ""
	if want.Status != "" {
		status = want.Status[len("HTTP/1.1 "):][:3]
	}
	r.same("status", itoa(res.StatusCode), status)
	if want.Body != "0\r\n\r\n" && itoa(res.StatusCode) == status {
		r.same("body", res.body, want.Body)
	}
}
