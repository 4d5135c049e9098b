package vhost

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"
)

// recorder is a ResponseRecorder that knows that interim responses are not the last.
type recorder struct{ *httptest.ResponseRecorder }

func (r *recorder) WriteHeader(status int) {
	if status >= 200 {
		r.ResponseRecorder.WriteHeader(status)
	}
}

// FuzzACourierMayAnswerAnything looks for answers of a courier that leave a visitor without one, or end the process.
func FuzzACourierMayAnswerAnything(f *testing.F) {
	for _, seed := range []string{
		"", "HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n2\r\nok\r\n0\r\nX: 1\r\n\r\n",
		"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.0 404 No\r\n\r\n",
		"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n", wsResponse + "bytes", "HTTP/1.1 000 No\r\n\r\n", "\x00",
		"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello",
	} {
		f.Add(seed, "GET", "")
		f.Add(seed, "HEAD", "")
		f.Add(seed, "POST", "body")
	}
	id := testID(f)
	f.Fuzz(func(t *testing.T, response, method, body string) {
		if !validName(method) || method == http.MethodConnect {
			return
		}
		st := openStreams(t, StreamsConfig{Open: func(context.Context) (net.Conn, error) {
			ours, theirs := memPair(nil)
			theirs.out.buf = []byte(response)
			_ = theirs.CloseWrite()
			return ours, nil
		}})
		h, err := NewHandler(Config{Domain: "hub.test", Directory: one{id: id, courier: st}, ExpectTimeout: time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequest(http.MethodPost, "http://"+testHost+"/", strings.NewReader(body))
		r.Method = method
		w := &recorder{httptest.NewRecorder()}
		h.ServeHTTP(w, r)
		if w.Code < 200 || w.Code > 999 || h.Active() != 0 {
			t.Errorf("status %d, %d exchanges left", w.Code, h.Active())
		}
	})
}

// FuzzATargetStaysOnItsLine looks for targets that end the request line or the header.
func FuzzATargetStaysOnItsLine(f *testing.F) {
	f.Add("/a b", "q=1 HTTP/1.1\r\nX: y", "v\r\nw")
	f.Add("//h/%2e", "\xff\x7f", "\x00")
	f.Fuzz(func(t *testing.T, path, query, value string) {
		x := &exchange{h: &Handler{}, in: &http.Request{Header: http.Header{}}}
		out := &http.Request{Method: http.MethodGet, Host: testHost, URL: &url.URL{Path: path, RawQuery: query}, Header: http.Header{"X-A": {value}}}
		b := x.h.buffers.head()
		writeHead(b, out, x)
		lines := strings.Split(b.String(), "\r\n")
		if len(lines) != 5 || strings.Count(lines[0], " ") != 2 || strings.ContainsAny(strings.Join(lines, ""), "\r\n\x00") {
			t.Errorf("wrote %q", b.String())
		}
	})
}

// FuzzForwardedFor looks for addresses that no trusted proxy has vouched for.
func FuzzForwardedFor(f *testing.F) {
	f.Add("6.6.6.6, 1.2.3.4, 10.0.0.1")
	f.Add("::ffff:10.0.0.1,\t,")
	h := &Handler{cfg: Config{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}}
	f.Fuzz(func(t *testing.T, s string) {
		got := h.believed([]string{s})
		if got == "" {
			return
		}
		for i, part := range strings.Split(got, ", ") {
			a, err := netip.ParseAddr(part)
			if err != nil {
				t.Fatalf("%q gives %q: %v", s, got, err)
			}
			if i > 0 && !h.trusts(a) {
				t.Errorf("%q gives %q: %v is no proxy of ours", s, got, a)
			}
		}
	})
}
