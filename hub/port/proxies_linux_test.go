package port_test

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/secretstack/secretstack/hub/port"
	"github.com/secretstack/secretstack/multiserver"
)

// visitorAddr is where visitors come from; proxies connect from 127.0.0.1.
const visitorAddr = "127.0.0.9"

// frontEnd is a real proxy, with the configuration that docs/OPERATING.md shows.
type frontEnd struct {
	addr   string
	client *tls.Config
}

// documented returns the block of docs/OPERATING.md in a language that has a text in it.
func documented(t *testing.T, language, has string) string {
	t.Helper()
	doc, err := os.ReadFile(filepath.Join("..", "..", "docs", "OPERATING.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range strings.Split(string(doc), "```"+language+"\n")[1:] {
		if block, _, ok := strings.Cut(part, "```"); ok && strings.Contains(block, has) {
			return block
		}
	}
	t.Fatalf("docs/OPERATING.md has no block of %s with %q", language, has)
	return ""
}

// replace replaces each text, which must be there.
func replace(t *testing.T, block string, pairs ...string) string {
	t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(block, pairs[i]) {
			t.Fatalf("%q is not in:\n%s", pairs[i], block)
		}
		block = strings.ReplaceAll(block, pairs[i], pairs[i+1])
	}
	return block
}

// missing skips a test for want of a program or a part of it, except where all must be there.
func missing(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s is missing", what)
	}
	t.Skipf("%s is not installed", what)
}

func program(t *testing.T, name string) string {
	t.Helper()
	for _, path := range []string{name, "/usr/sbin/" + name} {
		if found, err := exec.LookPath(path); err == nil {
			return found
		}
	}
	missing(t, name)
	return ""
}

// run runs a proxy, to which it leaves a socket that listens already as file 3: connections wait there until it is ready.
func run(t *testing.T, ln net.Listener, env []string, name string, args ...string) {
	t.Helper()
	file, err := ln.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var out log
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.ExtraFiles, cmd.Stdout, cmd.Stderr = []*os.File{file}, &out, &out
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Wait()
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // what its children left
		if t.Failed() {
			t.Logf("%s: %s", name, out.String())
		}
	})
	_ = ln.Close() // the proxy has it
}

// written writes a certificate and its key into a folder.
func written(t *testing.T, folder string) (cert, key string, client *tls.Config) {
	t.Helper()
	server, client := certificate(t)
	der, err := x509.MarshalPKCS8PrivateKey(server.Certificates[0].PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(folder, "fullchain.pem"), filepath.Join(folder, "privkey.pem")
	for name, block := range map[string]*pem.Block{
		cert: {Type: "CERTIFICATE", Bytes: server.Certificates[0].Certificate[0]}, key: {Type: "PRIVATE KEY", Bytes: der},
	} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key, client
}

// nginx starts nginx with one of the documented blocks.
func nginx(t *testing.T, hub net.Addr, has, around string) frontEnd {
	t.Helper()
	path, folder, ln := program(t, "nginx"), t.TempDir(), local(t)
	cert, key, client := written(t, folder)
	block := replace(t, documented(t, "nginx", has),
		"listen 443 ", "listen "+ln.Addr().String()+" ", "listen [::]:443 ", "# listen ",
		"/etc/ssl/hub/fullchain.pem", cert, "/etc/ssl/hub/privkey.pem", key, "127.0.0.1:8433", hub.String(),
	)
	config := "daemon off; worker_processes 1; error_log stderr;\npid " + folder + "/pid;\n" + fmt.Sprintf(around, block)
	config = strings.ReplaceAll(config, "FOLDER", folder)
	name := filepath.Join(folder, "nginx.conf")
	if err := os.WriteFile(name, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	// With this variable nginx takes over sockets, as it does from an older nginx.
	run(t, ln, []string{"NGINX=3;"}, path, "-c", name, "-p", folder, "-e", "stderr")
	return frontEnd{addr, client}
}

func nginxStream(t *testing.T, hub net.Addr) frontEnd {
	t.Helper()
	const module = "/usr/lib/nginx/modules/ngx_stream_module.so"
	if _, err := os.Stat(module); err != nil {
		program(t, "nginx")
		missing(t, module)
	}
	return nginx(t, hub, "stream {", "load_module "+module+";\nevents {}\n%s")
}

func nginxHTTP(t *testing.T, hub net.Addr) frontEnd {
	t.Helper()
	return nginx(t, hub, "server_name", `events {}
http {
    access_log off;
    client_body_temp_path FOLDER/1; proxy_temp_path FOLDER/2; fastcgi_temp_path FOLDER/3; uwsgi_temp_path FOLDER/4; scgi_temp_path FOLDER/5;
    %s
}`)
}

func haproxy(t *testing.T, hub net.Addr) frontEnd {
	t.Helper()
	path, folder, ln := program(t, "haproxy"), t.TempDir(), local(t)
	cert, key, client := written(t, folder)
	both := filepath.Join(folder, "hub.pem")
	var text []byte
	for _, name := range []string{cert, key} {
		part, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		text = append(text, part...)
	}
	config := replace(t, documented(t, "haproxy", "frontend"),
		"bind :::443 v4v6", "bind fd@3", "/etc/haproxy/hub.pem", both, "127.0.0.1:8433", hub.String())
	name := filepath.Join(folder, "haproxy.cfg")
	for name, text := range map[string][]byte{both: text, name: []byte(config)} {
		if err := os.WriteFile(name, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	addr := ln.Addr().String()
	run(t, ln, nil, path, "-db", "-f", name)
	return frontEnd{addr, client}
}

// dial connects as a visitor, over TLS.
func (f frontEnd) dial(t *testing.T, protocols ...string) *tls.Conn {
	t.Helper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(visitorAddr)}}
	c, err := dialer.DialContext(t.Context(), "tcp", f.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return secure(t, c, f.client, protocols...)
}

// exchange sends a request and returns the answer.
func exchange(t *testing.T, c net.Conn, request string) (*http.Response, *bufio.Reader) {
	t.Helper()
	send(c, request)
	r := bufio.NewReader(c)
	response, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	return response, r
}

func wantBody(t *testing.T, response *http.Response, want string) {
	t.Helper()
	if body, err := io.ReadAll(response.Body); err != nil || string(body) != want {
		t.Errorf("%q %v, want %q", body, err, want)
	}
}

// Proxies that hand on bytes: everything passes, and the hub knows the visitor by the PROXY protocol, version 1 from nginx
// and version 2 from haproxy.
func TestEverythingPassesProxiesThatHandOnBytes(t *testing.T) {
	for name, front := range map[string]func(*testing.T, net.Addr) frontEnd{"nginx": nginxStream, "haproxy": haproxy} {
		t.Run(name, func(t *testing.T) {
			ln := local(t)
			p := open(t, port.Options{TrustedProxies: prefixes("127.0.0.1/32"), RequireHeader: true, Circuit: matchMagic}, ln)
			f := front(t, ln.Addr())
			serve(t, p, func(w http.ResponseWriter, r *http.Request) {
				host, _, _ := net.SplitHostPort(r.RemoteAddr)
				_, _ = io.WriteString(w, host+" "+r.Host)
			})
			for _, protocols := range [][]string{nil, {"http/1.1"}, {"h2", "http/1.1"}} {
				response, _ := exchange(t, f.dial(t, protocols...), "GET / HTTP/1.1\r\nHost: x.hub.example.org\r\n\r\n")
				wantBody(t, response, visitorAddr+" x.hub.example.org")
			}
			for text, side := range map[string]net.Listener{noise: p.Secret(), magic: p.Circuits()} {
				client := f.dial(t)
				send(client, text)
				c := accept(t, side)
				wantBytes(t, c, text)
				if host, _, _ := net.SplitHostPort(c.RemoteAddr().String()); host != visitorAddr {
					t.Errorf("the visitor is %s", host)
				}
				send(c, "back")
				wantBytes(t, client, "back")
				_ = c.Close()
				wantClosed(t, client)
			}
		})
	}
}

// nginx as a web server: HTTP and upgrades pass, and the hub knows the visitor by X-Forwarded-For.
func TestHTTPAndUpgradesPassNginxAsAWebServer(t *testing.T) {
	ln := local(t)
	p := open(t, port.Options{TrustedProxies: prefixes("127.0.0.1/32")}, ln)
	f := nginxHTTP(t, ln.Addr())
	serve(t, p, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "websocket" && r.Header.Get("Connection") == "upgrade" {
			c, rw, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
			_, _ = io.Copy(c, rw)
			return
		}
		_, _ = fmt.Fprintf(w, "%s %s %s", r.Header.Get("X-Forwarded-For"), r.Header.Get("X-Forwarded-Proto"), r.Host)
	})
	response, _ := exchange(t, f.dial(t), "GET / HTTP/1.1\r\nHost: x.hub.example.org\r\nX-Forwarded-For: 192.0.2.66\r\n\r\n")
	wantBody(t, response, visitorAddr+" https x.hub.example.org")
	c := f.dial(t)
	response, r := exchange(t, c, "GET / HTTP/1.1\r\nHost: hub.example.org\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	if response.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(response.Status)
	}
	send(c, "both ways")
	wantBytes(t, r, "both ways")
}

func TestPeersThatVanishAreNoticed(t *testing.T) {
	ln := local(t)
	p := open(t, port.Options{}, ln)
	send(dial(t, ln.Addr()), noise)
	c := accept(t, p.Secret())
	wantBytes(t, c, noise)
	tcp, ok := multiserver.TCPConn(c)
	if !ok {
		t.Fatal("no TCP connection")
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	err = raw.Control(func(fd uintptr) {
		on, _ := syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_KEEPALIVE)
		idle, _ := syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_KEEPIDLE)
		each, _ := syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_KEEPINTVL)
		count, _ := syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_KEEPCNT)
		if on == 0 || idle != 30 || each != 10 || count != 4 {
			t.Errorf("keep-alive %d after %d s, %d times each %d s", on, idle, count, each)
		}
	})
	if err != nil {
		t.Error(err)
	}
}
