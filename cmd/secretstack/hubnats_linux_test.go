package main

import (
	"crypto/ed25519"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"
)

// natsServer is a NATS server with one configuration, which keeps all that it stores in one folder.
type natsServer struct {
	t            *testing.T
	program, dir string
	address      string
}

func newNATSServer(t *testing.T) *natsServer {
	t.Helper()
	dir := shortDir(t)
	n := &natsServer{t: t, program: filepath.Join(dir, "nats-server"), dir: dir, address: net.JoinHostPort(loopback(2), "4222")}
	if out, err := exec.Command("go", "build", "-o", n.program, "github.com/nats-io/nats-server/v2").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return n
}

// configure says who may log in, and how it is reached.
func (n *natsServer) configure(text string) {
	n.t.Helper()
	write(n.t, filepath.Join(n.dir, "conf"), fmt.Sprintf("listen: %q\njetstream { store_dir: %q, sync_interval: always }\n%s",
		n.address, filepath.Join(n.dir, "store"), text))
}

func (n *natsServer) start() *exec.Cmd {
	n.t.Helper()
	cmd := exec.Command(n.program, "-c", filepath.Join(n.dir, "conf"), "-l", filepath.Join(n.dir, "log"))
	if err := cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if text, err := os.ReadFile(filepath.Join(n.dir, "log")); err == nil && n.t.Failed() {
			n.t.Logf("the log of NATS:\n%s", text)
		}
	})
	return cmd
}

// TestNodesUseANATSServerOfSomebodyElses, start before it, and outlive it.
func TestNodesUseANATSServerOfSomebodyElses(t *testing.T) {
	server := newNATSServer(t)
	server.configure("accounts { HUB { jetstream: enabled, users: [{user: hub, password: secret}] } }")
	c := newCluster(t)
	roots := []string{"one", "two"}
	launch := func(i int, password string) *process {
		file := filepath.Join(c.dir, roots[i]+".toml")
		write(t, file, fmt.Sprintf("cluster = \"eu\"\nnode = \"hub-%d\"\nreplicas = 1\nnats-url = \"nats://hub:%s@%s\"\nadvertise = \"%s\"\n",
			i+1, password, server.address, loopback(i)))
		return c.process("hub", "--json", "-a", loopback(i), "--root", roots[i], "--config", file)
	}
	first := launch(0, "secret")
	first.says("waiting for the other nodes")
	nats := server.start()
	one, two := attend(t, first, loopback(0)), attend(t, launch(1, "secret"), loopback(1))
	id := one.register(someone(t, 1))
	if got := two.whois(someone(t, 1)); got != id {
		t.Errorf("somebody is %v at one node and %v at another", id, got)
	}

	if err := nats.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = nats.Wait()
	if got := two.whois(someone(t, 1)); got != id {
		t.Errorf("without NATS somebody is %v, and not %v", got, id)
	}
	server.start()
	next := two.register(someone(t, 2))
	if got := one.whois(someone(t, 2)); got != next {
		t.Errorf("after NATS was restarted somebody is %v at one node and %v at another", next, got)
	}

	one.signal(syscall.SIGKILL)
	one = attend(t, launch(0, "secret"), loopback(0))
	for n, want := range map[int]fmt.Stringer{1: id, 2: next} {
		if got := one.whois(someone(t, n)); got != want {
			t.Errorf("after the hub was restarted somebody is %v, and not %v", got, want)
		}
	}
	two.signal(syscall.SIGTERM)
	p := launch(1, "wrong")
	if code := p.wait(); code != exitFailed || !strings.Contains(p.errs.String(), "refuses the credentials") || strings.Contains(p.errs.String(), "wrong") {
		t.Errorf("with a wrong password it ends with %d: %s", code, p.errs.String())
	}
}

// authority makes a certificate authority, and a certificate of it for an address. Both are written into a folder.
func authority(t *testing.T, dir string, ip net.IP) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	from, until := time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ours"}, NotBefore: from, NotAfter: until, IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "nats"}, NotBefore: from, NotAfter: until, IPAddresses: []net.IP{ip},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	key, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	save := func(name, kind string, der []byte) {
		write(t, filepath.Join(dir, name), string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})))
	}
	save("key.pem", "PRIVATE KEY", key)
	for name, one := range map[string]*x509.Certificate{"ca.pem": root, "cert.pem": leaf} {
		der, err := x509.CreateCertificate(nil, one, root, public, private)
		if err != nil {
			t.Fatal(err)
		}
		save(name, "CERTIFICATE", der)
	}
}

// natsLogin makes an operator with an account for hubs, and files to log in with: "hub.creds", and "other.creds", which is of another
// operator's. It gives what the server must be configured with.
func natsLogin(t *testing.T, dir string) (conf string) {
	t.Helper()
	pair := func(make func() (nkeys.KeyPair, error)) (nkeys.KeyPair, string) {
		key, err := make()
		if err != nil {
			t.Fatal(err)
		}
		public, err := key.PublicKey()
		if err != nil {
			t.Fatal(err)
		}
		return key, public
	}
	signed := func(claims jwt.Claims, by nkeys.KeyPair) string {
		text, err := claims.Encode(by)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	for _, name := range []string{"other", "hub"} { // the last one counts
		operator, operatorKey := pair(nkeys.CreateOperator)
		_, systemKey := pair(nkeys.CreateAccount)
		account, accountKey := pair(nkeys.CreateAccount)
		user, userKey := pair(nkeys.CreateUser)
		claims := jwt.NewOperatorClaims(operatorKey)
		claims.SystemAccount = systemKey
		hub := jwt.NewAccountClaims(accountKey)
		hub.Limits.JetStreamLimits = jwt.JetStreamLimits{
			MemoryStorage: jwt.NoLimit, DiskStorage: jwt.NoLimit, Streams: jwt.NoLimit, Consumer: jwt.NoLimit,
		}
		conf = fmt.Sprintf("operator: %s\nresolver: MEMORY\nresolver_preload { %s: %s, %s: %s }\n", signed(claims, operator),
			systemKey, signed(jwt.NewAccountClaims(systemKey), operator), accountKey, signed(hub, operator))
		seed, err := user.Seed()
		if err != nil {
			t.Fatal(err)
		}
		creds, err := jwt.FormatUserConfig(signed(jwt.NewUserClaims(userKey), account), seed)
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, name+".creds"), string(creds))
	}
	return conf
}

// TestANodeLogsInToANATSServerThatOthersCannotRead with a file of credentials, and a certificate of an authority that nobody knows.
func TestANodeLogsInToANATSServerThatOthersCannotRead(t *testing.T) {
	server := newNATSServer(t)
	authority(t, server.dir, net.ParseIP(loopback(2)))
	file := func(name string) string { return filepath.Join(server.dir, name) }
	server.configure(natsLogin(t, server.dir) + fmt.Sprintf("tls { cert_file: %q, key_file: %q }\n", file("cert.pem"), file("key.pem")))
	server.start()
	c := newCluster(t)
	launch := func(more ...string) *process {
		return c.process(append([]string{
			"hub", "--json", "-a", loopback(0), "--root", "one", "--cluster", "eu", "--node", "hub-1", "--replicas", "1",
			"--advertise", loopback(0), "--nats-url", "tls://" + server.address,
		}, more...)...)
	}
	for says, args := range map[string][]string{
		"the NATS cluster is not trusted":        {"--nats-credentials", file("hub.creds")},
		"refuses the credentials":                {"--nats-ca", file("ca.pem"), "--nats-credentials", file("other.creds")},
		"--nats-credentials: open":               {"--nats-credentials", "nowhere"},
		"--nats-ca: open":                        {"--nats-ca", "nowhere"},
		"--nats-ca: there is no certificate in ": {"--nats-ca", file("hub.creds")},
	} {
		p := launch(args...)
		if code := p.wait(); code == exitOK || !strings.Contains(p.errs.String(), says) {
			t.Errorf("%v: it ends with %d, %s; want %q", args, code, p.errs.String(), says)
		}
	}
	with := []string{"--nats-ca", file("ca.pem"), "--nats-credentials", file("hub.creds")}
	one := attend(t, launch(with...), loopback(0))
	id := one.register(someone(t, 1))
	one.signal(syscall.SIGKILL)
	one = attend(t, launch(with...), loopback(0))
	if got := one.whois(someone(t, 1)); got != id {
		t.Errorf("after the hub was restarted somebody is %v, and not %v", got, id)
	}
}
