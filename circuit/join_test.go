package circuit

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/secretstack/secretstack/internal/testkit"
)

// duplex is what ends have: a connection with two halves.
type duplex interface {
	net.Conn
	CloseWrite() error
}

// kinds are the kinds of connection that a hub joins, each as a pair: the end's, and the hub's.
var kinds = map[string]func(t testing.TB) (end, atHub duplex){
	"tcp": func(t testing.TB) (duplex, duplex) { return tcpPairs(t) },
	"tls": tlsPair,
}

func tcpPairs(t testing.TB) (duplex, duplex) {
	near, far := tcpPair(t)
	return near, far
}

func tlsPair(t testing.TB) (duplex, duplex) {
	t.Helper()
	near, far := tcpPair(t)
	client := tls.Client(near, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // a test
	server := tls.Server(far, &tls.Config{Certificates: []tls.Certificate{certificate(t)}})
	shaken := make(chan error, 1)
	go func() { shaken <- server.Handshake() }()
	if err := errors.Join(client.Handshake(), <-shaken); err != nil {
		t.Fatal(err)
	}
	return client, server
}

func certificate(t testing.TB) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// joined is a link that runs, and its two ends.
type joined struct {
	link *Link
	a, b duplex
	err  chan error
}

func join(t testing.TB, kindA, kindB string, cfg JoinConfig) *joined {
	t.Helper()
	pool := new(Pool)
	cfg.Pool = pool
	a, hubA := kinds[kindA](t)
	b, hubB := kinds[kindB](t)
	j := &joined{link: Join(hubA, hubB, cfg), a: a, b: b, err: make(chan error, 1)}
	go func() { j.err <- j.link.Run() }()
	t.Cleanup(func() {
		a.Close()
		b.Close()
		<-j.link.Done()
		pool.Close()
	})
	return j
}

// noise is n bytes that differ from seed to seed.
func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	_, _ = mathrand.NewChaCha8([32]byte{byte(seed)}).Read(b)
	return b
}

// send writes in pieces of changing size and ends the half.
func send(conn duplex, b []byte) error {
	for size := 1; len(b) > 0; size = size*3%100_003 + 1 {
		n := min(size, len(b))
		if _, err := conn.Write(b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return conn.CloseWrite()
}

func TestJoinedConnectionsPassEverythingBothWays(t *testing.T) {
	for kindA := range kinds {
		for kindB := range kinds {
			t.Run(kindA+" and "+kindB, func(t *testing.T) {
				j := join(t, kindA, kindB, JoinConfig{})
				fromA, fromB := noise(1, 5_000_001), noise(2, 3_000_003)
				var ends sync.WaitGroup
				exchange := func(name string, conn duplex, out, in []byte) {
					ends.Go(func() {
						if err := send(conn, out); err != nil {
							t.Errorf("%s sends: %v", name, err)
						}
					})
					ends.Go(func() {
						got, err := io.ReadAll(conn)
						if err != nil || !bytes.Equal(got, in) {
							t.Errorf("%s got %d of %d bytes, %v", name, len(got), len(in), err)
						}
					})
				}
				exchange("a", j.a, fromA, fromB)
				exchange("b", j.b, fromB, fromA)
				ends.Wait()
				if err := <-j.err; err != nil {
					t.Errorf("the link ended with %v", err)
				}
				if a, b := j.link.Traffic(); a != uint64(len(fromA)) || b != uint64(len(fromB)) {
					t.Errorf("counted %d and %d bytes", a, b)
				}
			})
		}
	}
}

func TestBytesSentBeforeJoiningArrive(t *testing.T) {
	for kind := range kinds {
		a, hubA := kinds[kind](t)
		b, hubB := kinds[kind](t)
		if _, err := io.WriteString(a, "early"); err != nil {
			t.Fatal(err)
		}
		link := Join(hubA, hubB, JoinConfig{})
		go func() { _ = link.Run() }()
		got := make([]byte, 5)
		if _, err := io.ReadFull(b, got); err != nil || string(got) != "early" {
			t.Errorf("%s: got %q, %v", kind, got, err)
		}
		link.Cut(nil)
		<-link.Done()
	}
}

func TestAHalfThatHasEndedLeavesTheOtherOpen(t *testing.T) {
	for kind := range kinds {
		j := join(t, kind, kind, JoinConfig{})
		if err := send(j.a, []byte("question")); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(j.b); err != nil || string(got) != "question" {
			t.Fatalf("%s: got %q, %v", kind, got, err)
		}
		if err := send(j.b, []byte("answer")); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(j.a); err != nil || string(got) != "answer" {
			t.Errorf("%s: got %q, %v", kind, got, err)
		}
		if err := <-j.err; err != nil {
			t.Errorf("%s: the link ended with %v", kind, err)
		}
	}
}

func TestAnEndWithoutHalvesEndsBoth(t *testing.T) {
	a, hubA := net.Pipe()
	b, hubB := tcpPairs(t)
	link := Join(hubA, hubB, JoinConfig{})
	ended := make(chan error, 1)
	go func() { ended <- link.Run() }()
	go func() { _ = send(b, []byte("the last words")) }()
	if got, err := io.ReadAll(a); err != nil || string(got) != "the last words" {
		t.Errorf("got %q, %v", got, err)
	}
	if err := <-ended; err != nil {
		t.Errorf("the link ended with %v", err)
	}
}

func TestAResetEndsBothConnections(t *testing.T) {
	j := join(t, "tcp", "tcp", JoinConfig{})
	_ = j.a.(*net.TCPConn).SetLinger(0)
	j.a.Close()
	if n, err := io.Copy(io.Discard, j.b); n > 0 {
		t.Errorf("b got %d bytes, %v", n, err)
	}
	if err := <-j.err; err == nil {
		t.Error("a reset was taken for an end")
	}
}

func TestWhatAnEndSentBeforeItDiedArrives(t *testing.T) {
	j := join(t, "tcp", "tcp", JoinConfig{})
	last := noise(3, 1<<20)
	if _, err := j.b.Write([]byte("not read, which makes the end a reset")); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "b's bytes are on their way", func() bool { _, fromB := j.link.Traffic(); return fromB > 0 })
	read := make(chan []byte)
	go func() {
		got, _ := io.ReadAll(j.b)
		read <- got
	}()
	if _, err := j.a.Write(last); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "all of a's bytes are on their way", func() bool { fromA, _ := j.link.Traffic(); return fromA >= uint64(len(last)) })
	j.a.Close()
	if got := <-read; !bytes.Equal(got, last) {
		t.Errorf("got %d of %d bytes", len(got), len(last))
	}
}

func TestAnEndThatDoesNotReadHoldsUpTheOther(t *testing.T) {
	for kind := range kinds {
		j := join(t, kind, kind, JoinConfig{})
		const most = 256 << 20 // more than all socket buffers on the way
		_ = j.a.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
		n, err := io.CopyN(j.a, zeros{}, most)
		if err == nil {
			t.Errorf("%s: %d bytes went nowhere", kind, n)
		}
		j.b.Close() // so that a need not wait with its goodbye
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func TestALinkCanBeCut(t *testing.T) {
	for kind := range kinds {
		j := join(t, kind, kind, JoinConfig{})
		why := errors.New("the owner says so")
		j.link.Cut(why)
		j.link.Cut(nil)
		if err := <-j.err; !errors.Is(err, why) {
			t.Errorf("%s: the link ended with %v", kind, err)
		}
		for _, end := range []duplex{j.a, j.b} {
			if n, _ := io.Copy(io.Discard, end); n != 0 {
				t.Errorf("%s: %d bytes out of nothing", kind, n)
			}
		}
	}
}

func TestALinkThatWasCutBeforeItRanEnds(t *testing.T) {
	a, b := net.Pipe()
	link := Join(a, b, JoinConfig{})
	link.Cut(nil)
	if err := link.Run(); !errors.Is(err, ErrCut) {
		t.Errorf("got %v", err)
	}
}

func TestALinkOverWhichNothingPassesEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const idle = 80 * time.Minute
		a, hubA := net.Pipe()
		b, hubB := net.Pipe()
		link := Join(hubA, hubB, JoinConfig{Idle: idle})
		ended := make(chan error, 1)
		go func() { ended <- link.Run() }()
		var last time.Time
		for range 5 {
			time.Sleep(idle * 3 / 4)
			go func() { _, _ = io.WriteString(a, "x") }()
			if _, err := io.ReadFull(b, make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			last = time.Now()
		}
		if err := <-ended; !errors.Is(err, ErrIdle) {
			t.Errorf("the link ended with %v", err)
		}
		if idled := time.Since(last); idled < idle || idled > idle+idle/idleLooks {
			t.Errorf("it idled for %v", idled)
		}
	})
}

func TestALinkMayIdleForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, hubA := net.Pipe()
		_, hubB := net.Pipe()
		link := Join(hubA, hubB, JoinConfig{Idle: -1})
		ended := make(chan error, 1)
		go func() { ended <- link.Run() }()
		time.Sleep(1000 * time.Hour)
		a.Close()
		if err := <-ended; err != nil {
			t.Errorf("the link ended with %v", err)
		}
	})
}

// TestCopyingGivesLargeBuffersBack holds user-space circuits to little memory while they idle.
func TestCopyingGivesLargeBuffersBack(t *testing.T) {
	var pool Pool
	var moved atomic.Uint64
	src := &script{sizes: []int{10, smallSize, bufferSize, bufferSize, 1}}
	if err := pool.copy(io.Discard, src, &moved); err != nil {
		t.Fatal(err)
	}
	want := []int{smallSize, smallSize, bufferSize, bufferSize, bufferSize, smallSize}
	for i, n := range want {
		if src.asked[i] != n {
			t.Errorf("read %d was for %d bytes, want %d", i, src.asked[i], n)
		}
	}
	if moved.Load() != 10+smallSize+2*bufferSize+1 {
		t.Errorf("counted %d", moved.Load())
	}
}

// script is a reader that gives so many bytes at a time.
type script struct{ sizes, asked []int }

func (s *script) Read(p []byte) (int, error) {
	s.asked = append(s.asked, len(p))
	if len(s.sizes) == 0 {
		return 0, io.EOF
	}
	n := s.sizes[0]
	s.sizes = s.sizes[1:]
	return n, nil
}

// BenchmarkJoin passes 64 KiB writes through a link and, for comparison, through a proxy of two io.Copy.
func BenchmarkJoin(b *testing.B) {
	through := map[string]func(a, b duplex){
		"link": func(x, y duplex) { _ = Join(x, y, JoinConfig{}).Run() },
		"copy": func(x, y duplex) {
			var back sync.WaitGroup
			back.Go(func() {
				_, _ = io.Copy(x, y)
				_ = x.CloseWrite()
			})
			_, _ = io.Copy(y, x)
			_ = y.CloseWrite()
			back.Wait()
		},
	}
	for _, how := range []string{"link", "copy"} {
		for kind := range kinds {
			b.Run(how+"/"+kind, func(b *testing.B) {
				ctx, cancel := context.WithCancel(b.Context())
				defer cancel()
				near, hubA := kinds[kind](b)
				far, hubB := kinds[kind](b)
				context.AfterFunc(ctx, func() { near.Close() })
				ended := make(chan struct{})
				go func() { defer close(ended); through[how](hubA, hubB) }()
				piece := noise(4, 64<<10)
				b.SetBytes(int64(len(piece)))
				go func() {
					for {
						if _, err := near.Write(piece); err != nil {
							return
						}
					}
				}()
				for b.Loop() {
					if _, err := io.ReadFull(far, piece); err != nil {
						b.Fatal(err)
					}
				}
				cancel()
				far.Close()
				<-ended
			})
		}
	}
}
