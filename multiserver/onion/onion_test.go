package onion_test

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/secretstack/secretstack/multiserver"
	"github.com/secretstack/secretstack/multiserver/onion"
)

// proxy is a SOCKS5 server (RFC 1928) whose names are those in hosts.
type proxy struct {
	ln     net.Listener
	hosts  map[string]string // host:port as asked for -> what to connect to
	asked  chan string
	domain bool // answer with a domain name as bound address
}

func startProxy(t *testing.T, hosts map[string]string) *proxy {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{ln: ln, hosts: hosts, asked: make(chan string, 10)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go p.serve(c)
		}
	}()
	t.Cleanup(func() {
		_ = ln.Close()
		<-done
	})
	return p
}

func (p *proxy) serve(c net.Conn) {
	defer func() { _ = c.Close() }()
	host, port, err := readRequest(c)
	if err != nil {
		return
	}
	target := net.JoinHostPort(host, strconv.Itoa(int(port)))
	p.asked <- target
	upstream, err := net.Dial("tcp", p.hosts[target])
	if err != nil {
		_, _ = c.Write([]byte{5, 4, 0, 1, 0, 0, 0, 0, 0, 0})
		return
	}
	defer func() { _ = upstream.Close() }()
	reply := []byte{5, 0, 0, 1, 127, 0, 0, 1, 0, 80}
	if p.domain {
		reply = append([]byte{5, 0, 0, 3, 9}, "localhost\x00\x50"...)
	}
	_, _ = c.Write(reply)
	go func() {
		_, _ = io.Copy(upstream, c)
		_ = upstream.(*net.TCPConn).CloseWrite()
	}()
	_, _ = io.Copy(c, upstream)
}

func readRequest(c net.Conn) (host string, port uint16, err error) {
	head := make([]byte, 2)
	if _, err := io.ReadFull(c, head); err != nil {
		return "", 0, err
	}
	if _, err := io.ReadFull(c, make([]byte, head[1])); err != nil {
		return "", 0, err
	}
	_, _ = c.Write([]byte{5, 0})
	request := make([]byte, 4)
	if _, err := io.ReadFull(c, request); err != nil {
		return "", 0, err
	}
	size := map[byte]int{1: 4, 4: 16}[request[3]]
	if request[3] == 3 {
		if _, err := io.ReadFull(c, head[:1]); err != nil {
			return "", 0, err
		}
		size = int(head[0])
	}
	rest := make([]byte, size+2)
	if _, err := io.ReadFull(c, rest); err != nil {
		return "", 0, err
	}
	host = string(rest[:size])
	if request[3] != 3 {
		host = net.IP(rest[:size]).String()
	}
	return host, binary.BigEndian.Uint16(rest[size:]), nil
}

// echoServer sends back what it gets, and then ends.
func echoServer(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(c, c)
				_ = c.Close()
			}()
		}
	}()
	return ln.Addr().String()
}

func dial(t *testing.T, opts onion.Options, text string) (net.Conn, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	return onion.New(opts).Dial(ctx, multiserver.ParseLoose(text)[0].Transport())
}

func TestDialGoesThroughTheProxyWhichLooksUpTheName(t *testing.T) {
	const host = "3234j5sv346bpih2.onion"
	server := echoServer(t)
	p := startProxy(t, map[string]string{host + ":2349": server, "192.0.2.1:80": server, "[2001:db8::1]:80": server})
	for _, domain := range []bool{false, true} {
		p.domain = domain
		for text, asked := range map[string]string{
			"onion:" + host + ":2349": host + ":2349", "onion:192.0.2.1:80": "192.0.2.1:80", "onion:2001:db8::1:80": "[2001:db8::1]:80",
		} {
			// The first proxy is not there.
			c, err := dial(t, onion.Options{Proxies: []string{"127.0.0.1:1", p.ln.Addr().String()}}, text)
			if err != nil {
				t.Fatal(err)
			}
			if got := <-p.asked; got != asked {
				t.Errorf("the proxy was asked for %s, want %s", got, asked)
			}
			if got := multiserver.PeerPart(c).Text(); got != text {
				t.Errorf("the peer is %s", got)
			}
			_, _ = io.WriteString(c, "hello")
			_ = c.(interface{ CloseWrite() error }).CloseWrite()
			if got, err := io.ReadAll(c); err != nil || string(got) != "hello" {
				t.Errorf("%q %v", got, err)
			}
			_ = c.Close()
		}
	}
}

func TestErrorsOfTheProxyAreTold(t *testing.T) {
	p := startProxy(t, nil)
	_, err := dial(t, onion.Options{Proxies: []string{p.ln.Addr().String()}}, "onion:nobody.onion:1")
	if err == nil || !strings.Contains(err.Error(), "the SOCKS5 proxy could not connect: host unreachable or unknown") {
		t.Error(err)
	}
	_, err = dial(t, onion.Options{Proxies: []string{"127.0.0.1:1"}}, "onion:x.onion:1")
	if err == nil || !strings.Contains(err.Error(), "no SOCKS5 proxy at 127.0.0.1:1 (is Tor running?)") {
		t.Error(err)
	}
	_, err = dial(t, onion.Options{Proxies: []string{p.ln.Addr().String()}}, "onion:"+strings.Repeat("x", 256)+":1")
	if err == nil || !strings.Contains(err.Error(), "more than 255 bytes") {
		t.Error(err)
	}
}

// answering is a proxy that sends fixed bytes and closes.
func answering(t *testing.T, answer string) onion.Options {
	t.Helper()
	return onion.Options{DialContext: func(context.Context, string, string) (net.Conn, error) {
		a, b := net.Pipe()
		go func() { _, _ = io.Copy(io.Discard, b) }()
		go func() {
			_, _ = io.WriteString(b, answer)
			_ = b.Close()
		}()
		return a, nil
	}}
}

func TestWhateverTheProxyAnswersIsNoPanicAndNoHang(t *testing.T) {
	const good = "\x05\x00\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x50"
	for answer, want := range map[string]string{
		"HTTP/1.1 400 Bad Request\r\n": "does not speak SOCKS5",
		"\x05\xff":                     "wants a password",
		"\x05\x00\x04\x00\x00\x01":     "sent an answer that is none",
		"\x05\x00\x05\x00\x00\x09":     "an address of an unknown kind",
		"\x05\x00\x05\x63\x00\x01":     "could not connect: code 99",
		"\x05\x00\x05\x02\x00\x01":     "its rules forbid it",
	} {
		if _, err := dial(t, answering(t, answer), "onion:x.onion:1"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", answer, err, want)
		}
	}
	for _, whole := range []string{good, "\x05\x00\x05\x00\x00\x03\x01h\x00\x50"} {
		for i := range len(whole) {
			_, err := dial(t, answering(t, whole[:i]), "onion:x.onion:1")
			if !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.ErrClosedPipe) {
				t.Errorf("cut after %d bytes: %v", i, err)
			}
		}
	}
}

func TestBytesAfterTheAnswerAreThePeers(t *testing.T) {
	c, err := dial(t, answering(t, "\x05\x00\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x50peer"), "onion:x.onion:1")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(c); err != nil || string(got) != "peer" {
		t.Errorf("%q %v", got, err)
	}
}

func TestProxyThatSaysNothingEndsWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		peers := make(chan net.Conn, 1)
		opts := onion.Options{DialContext: func(context.Context, string, string) (net.Conn, error) {
			a, b := net.Pipe()
			peers <- b
			return a, nil
		}}
		start := time.Now()
		_, err := onion.New(opts).Dial(ctx, multiserver.NewPart("onion", "x.onion:1"))
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		if _, err := (<-peers).Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("the connection to the proxy is open: %v", err)
		}
	})
}

func TestOnionOnlyDials(t *testing.T) {
	_, err := onion.New(onion.Options{}).Listen(t.Context(), multiserver.Incoming{})
	if err == nil || !strings.Contains(err.Error(), "listen with net") {
		t.Error(err)
	}
}

func TestTorsUsualProxiesAreTheDefault(t *testing.T) {
	var asked []string
	_, err := dial(t, onion.Options{DialContext: func(_ context.Context, _, address string) (net.Conn, error) {
		asked = append(asked, address)
		return nil, errors.New("refused")
	}}, "onion:x.onion:1")
	if err == nil || strings.Join(asked, " ") != "127.0.0.1:9050 127.0.0.1:9150" {
		t.Errorf("asked %v: %v", asked, err)
	}
}

func TestOnionPartsAreParsed(t *testing.T) {
	transport := onion.New(onion.Options{})
	p, err := transport.ParsePart(multiserver.NewPart("onion", "3234j5sv346bpih2.onion:2349"), multiserver.Strict)
	if err != nil || p.Text() != "onion:3234j5sv346bpih2.onion:2349" || transport.Name() != "onion" {
		t.Errorf("%s %v", p, err)
	}
	if _, err := transport.Dial(t.Context(), multiserver.NewPart("net", "h:1")); !errors.Is(err, multiserver.ErrOtherPart) {
		t.Error(err)
	}
}
