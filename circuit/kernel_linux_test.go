package circuit

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/secretstack/secretstack/internal/testkit"
)

// relayMode makes this test's program a hub that joins two connections, says what it cost, and ends.
const relayMode = "CIRCUIT_TEST_RELAY"

func TestMain(m *testing.M) {
	if mode := os.Getenv(relayMode); mode != "" {
		if err := relay(mode); err != nil {
			fmt.Fprintln(os.Stdout, "error", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// relay prints where it listens, joins the first two that come, and prints how many bytes it has read and written itself.
func relay(mode string) error {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	before, err := ownBytes()
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stdout, ln.Addr())
	if err := joinTwo(ln, mode); err != nil {
		return err
	}
	after, err := ownBytes()
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stdout, after-before)
	return nil
}

func joinTwo(ln net.Listener, mode string) error {
	a, err := ln.Accept()
	if err != nil {
		return err
	}
	b, err := ln.Accept()
	if err != nil {
		return err
	}
	switch mode {
	case "user space":
		a, b = hidden{a.(*net.TCPConn)}, hidden{b.(*net.TCPConn)}
	case "no descriptors":
		restore, err := noMoreDescriptors()
		if err != nil {
			return err
		}
		defer restore()
	}
	return Join(a, b, JoinConfig{}).Run()
}

// hidden is a TCP connection that does not show that it is one.
type hidden struct{ duplex }

// noMoreDescriptors makes the system refuse to open anything, until restore is called.
func noMoreDescriptors() (restore func(), err error) {
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		return nil, err
	}
	f, err := os.Open(os.DevNull) // the lowest descriptor that is free
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return func() { _ = unix.Setrlimit(unix.RLIMIT_NOFILE, &before) },
		unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(f.Fd()), Max: before.Max})
}

// ownBytes is how many bytes this process has read and written by system calls that copy them into or out of it.
func ownBytes() (n uint64, err error) {
	text, err := os.ReadFile("/proc/self/io")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		if name == "rchar" || name == "wchar" {
			count, err := strconv.ParseUint(value, 10, 64)
			if err != nil {
				return 0, err
			}
			n += count
		}
	}
	return n, nil
}

// throughRelay sends bytes through a relay in a process of its own and returns how many of them that has seen.
func throughRelay(t *testing.T, mode string, b []byte) (seen uint64) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), relayMode+"="+mode)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := bufio.NewScanner(out)
	said.Scan()
	var ends [2]*net.TCPConn
	for i := range ends {
		conn, err := net.Dial("tcp", said.Text())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		ends[i] = conn.(*net.TCPConn)
	}
	sent := make(chan error, 1)
	go func() { sent <- send(ends[0], b) }()
	got, err := io.ReadAll(ends[1])
	if err != nil || !bytes.Equal(got, b) {
		t.Errorf("%s: got %d of %d bytes, %v", mode, len(got), len(b), err)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
	_ = ends[1].CloseWrite()
	said.Scan()
	seen, err = strconv.ParseUint(said.Text(), 10, 64)
	if err != nil {
		t.Errorf("%s: the relay says %q", mode, said.Text())
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	return seen
}

// TestTCPConnectionsAreJoinedInTheKernel shows that the bytes of a circuit never enter the hub's memory.
func TestTCPConnectionsAreJoinedInTheKernel(t *testing.T) {
	const size = 8 << 20
	b := noise(5, size)
	if seen := throughRelay(t, "kernel", b); seen > 64<<10 {
		t.Errorf("%d bytes of %d have been in user space", seen, size)
	}
	if seen := throughRelay(t, "user space", b); seen < 2*size {
		t.Errorf("the measure measures nothing: %d bytes of %d that were copied", seen, size)
	}
}

func TestWithoutDescriptorsForPipesBytesStillPass(t *testing.T) {
	const size = 1 << 20
	if seen := throughRelay(t, "no descriptors", noise(6, size)); seen < 2*size {
		t.Errorf("%d bytes of %d were copied: there were descriptors", seen, size)
	}
}

// TestIdleLinksHoldNoPipes counts the descriptors of joined connections: those of the connections, and none else.
func TestIdleLinksHoldNoPipes(t *testing.T) {
	before := descriptors(t)
	const links = 20
	var all []*joined
	for range links {
		all = append(all, join(t, "tcp", "tcp", JoinConfig{}))
	}
	for _, j := range all {
		roundTrip(t, j)
	}
	for _, j := range all {
		j.link.pool.Close()
	}
	const each = 4 // both ends of both connections
	// A direction gives its pipe back some moments after the bytes have arrived.
	testkit.Eventually(t, "no pipe is held", func() bool { return descriptors(t) <= before+links*each })
	for _, j := range all {
		roundTrip(t, j)
		j.a.Close()
		j.b.Close()
		<-j.link.Done()
	}
	testkit.Eventually(t, "nothing is left", func() bool { return descriptors(t) <= before })
}

func TestALinkWithAPoolOfItsOwnLeavesNothing(t *testing.T) {
	before := descriptors(t)
	for range 20 {
		a, hubA := kinds["tcp"](t)
		b, hubB := kinds["tcp"](t)
		j := &joined{link: Join(hubA, hubB, JoinConfig{}), a: a, b: b}
		go func() { _ = j.link.Run() }()
		roundTrip(t, j)
		a.Close()
		b.Close()
		<-j.link.Done()
	}
	testkit.Eventually(t, "nothing is left", func() bool { return descriptors(t) <= before })
}

func roundTrip(t *testing.T, j *joined) {
	t.Helper()
	for _, way := range [][2]duplex{{j.a, j.b}, {j.b, j.a}} {
		if _, err := io.WriteString(way[0], "ping"); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(way[1], make([]byte, 4)); err != nil {
			t.Fatal(err)
		}
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
