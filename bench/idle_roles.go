package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	gonet "net"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"strconv"
	"sync"
	"time"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/multiserver"
	"github.com/secretstack/secretstack/muxrpc"
	"github.com/secretstack/secretstack/plugins/room"
)

// The servers that have idle peers, and what is added for the part of those peers.
const (
	idleRoom  = "room"
	idleTCP   = "tcp"
	idlePeers = "-peers"
)

// playRole plays the part that the environment names, and reports false if it names none.
func playRole() bool {
	text := os.Getenv(roleVariable)
	if text == "" {
		return false
	}
	var args []string
	err := json.Unmarshal([]byte(text), &args)
	if err == nil {
		if heapProfiled(args) {
			runtime.MemProfileRate = 1 // slows every allocation down
		}
		err = play(context.Background(), args)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	return true
}

// heapProfiled reports whether the part is a server's that is to write a heap profile: its argument is where to. Arguments of
// other parts are something else.
func heapProfiled(args []string) bool {
	server := args[0] == idleRoom || args[0] == roleHub
	return server && len(args) == 2 && args[1] != ""
}

func play(ctx context.Context, args []string) error {
	roles := map[string]func(context.Context, []string) error{
		idleRoom:             serveRoom,
		idleTCP:              serveTCP,
		idleRoom + idlePeers: peersOf(dialRoom),
		idleTCP + idlePeers:  peersOf(dialTCP),
	}
	maps.Copy(roles, hubRoles())
	f, ok := roles[args[0]]
	if !ok {
		return fmt.Errorf("there is no role %q", args[0])
	}
	return f(ctx, args[1:])
}

func serveRoom(ctx context.Context, args []string) error {
	stack := secretstack.New(secretstack.Options{})
	if err := stack.Use(room.Plugin(room.Config{})); err != nil {
		return err
	}
	app, err := stack.Start(ctx, secretstack.Config{Host: "127.0.0.1", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	fmt.Println(app.Address(multiserver.Device))
	return answerMemory(args, silence)
}

func serveTCP(ctx context.Context, args []string) error {
	ln, err := new(gonet.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go waitForBytes(conn)
		}
	}()
	fmt.Println(ln.Addr())
	return answerMemory(args, silence)
}

func waitForBytes(conn gonet.Conn) {
	defer drop(conn)
	buf := make([]byte, 512)
	for {
		if _, err := conn.Read(buf); err != nil {
			return
		}
	}
}

// silence is how long a server is left alone before its memory is looked at: a session's crew goes home in one or two seconds.
const silence = 5 * time.Second

// answerMemory answers each line with the bytes of this process that are in memory, when that has become steady after so long
// a silence. If the argument names a file, the memory is explained.
func answerMemory(args []string, silence time.Duration) error {
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		time.Sleep(silence)
		n, err := residentWhenSteady()
		if err != nil {
			return err
		}
		if args[0] != "" {
			if err := explainMemory(args[0]); err != nil {
				return err
			}
		}
		fmt.Println(n)
	}
	return nil
}

// residentWhenSteady returns what is left when garbage has been given back.
func residentWhenSteady() (int, error) {
	for range 4 {
		debug.FreeOSMemory() // shrinks stacks by half each time, and empties pools in two
	}
	return residentOf("self")
}

// explainMemory says on standard error what the memory is used for, and writes a heap profile.
func explainMemory(path string) error {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	fmt.Fprintf(os.Stderr, "KiB: objects %d, in spans of %d; stacks %d of %d goroutines; runtime's own %d\n",
		m.HeapAlloc>>10, m.HeapInuse>>10, m.StackInuse>>10, runtime.NumGoroutine(), (m.MSpanInuse+m.GCSys+m.OtherSys)>>10)
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(pprof.WriteHeapProfile(f), f.Close())
}

// peersOf connects as often as the second argument says to the address in the first, and stays.
func peersOf(dial func(ctx context.Context, address string) (io.Closer, error)) func(context.Context, []string) error {
	return func(ctx context.Context, args []string) error {
		n, err := strconv.Atoi(args[1])
		if err != nil {
			return err
		}
		stay, err := dialMany(ctx, n, args[0], dial)
		defer drop(stay...)
		if err != nil {
			return err
		}
		fmt.Println("connected")
		_, err = io.Copy(io.Discard, os.Stdin)
		return err
	}
}

func dialMany(ctx context.Context, n int, address string, dial func(context.Context, string) (io.Closer, error)) ([]io.Closer, error) {
	var (
		mu      sync.Mutex
		all     []io.Closer
		failed  []error
		dialing sync.WaitGroup
		places  = make(chan struct{}, 32)
	)
	for range n {
		places <- struct{}{}
		dialing.Go(func() {
			defer func() { <-places }()
			conn, err := dial(ctx, address)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed = append(failed, err)
				return
			}
			all = append(all, conn)
		})
	}
	dialing.Wait()
	return all, errors.Join(failed...)
}

func dialTCP(ctx context.Context, address string) (io.Closer, error) {
	return new(gonet.Dialer).DialContext(ctx, "tcp", address)
}

var roomClient = sync.OnceValues(func() (*multiserver.Server, error) { return newMultiserver(nil) })

// dialRoom connects with a key of its own and announces itself, as attendants do.
func dialRoom(ctx context.Context, address string) (io.Closer, error) {
	client, err := roomClient()
	if err != nil {
		return nil, err
	}
	seed := make([]byte, 32)
	if _, err := rand.Read(seed); err != nil {
		return nil, err
	}
	addresses, err := client.Parse(address + ":" + base64.StdEncoding.EncodeToString(seed))
	if err != nil {
		return nil, err
	}
	conn, err := client.Dial(ctx, addresses)
	if err != nil {
		return nil, err
	}
	session := muxrpc.New(ctx, conn, muxrpc.Options{})
	_, err = muxrpc.Call[bool](ctx, session, "tunnel.announce")
	return conn, err
}
