package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// idlePart is what the stack may take, in KiB, of the 8 KiB that an idle courier may cost a hub.
const idlePart = 6

// idlePerSecond is how many connections are made for each second that a measurement is asked to take.
const idlePerSecond = 10_000

// idleRow is the memory of a server for each peer that is connected and silent. The server is a process of its own, and
// so are its peers.
func idleRow(profile string) row {
	start := func(server string) func(context.Context) (meter, error) {
		return stateless(func(ctx context.Context, d time.Duration) (float64, error) {
			return measureIdle(ctx, startServer(server, profile), server+idlePeers, int(d.Seconds()*idlePerSecond))
		})
	}
	return row{
		Key:        "idle",
		Title:      "memory of an idle peer",
		Unit:       "KiB",
		LessIsMore: true,
		Ours: peer{
			Name:  oursName,
			Note:  "resident memory of an app with the room plugin for each of 10,000 peers (for each second of -seconds) that have announced themselves, when all is silent and its garbage is collected",
			Start: start(idleRoom),
		},
		Peers: []peer{
			{Name: "the stack's part of 8 KiB", AtLeast: 1, Start: stateless(func(context.Context, time.Duration) (float64, error) { return idlePart, nil })},
			{Name: "raw TCP", Note: "one goroutine a connection, which waits for bytes in a buffer of 512", Start: start(idleTCP)},
		},
	}
}

// startServer starts a server that says its address, and how much memory it has when it is asked.
func startServer(args ...string) func(context.Context) (*role, error) {
	return func(ctx context.Context) (*role, error) { return startRole(ctx, args...) }
}

// measureIdle returns by how many KiB a server grows for each of n peers, which the role connects.
func measureIdle(ctx context.Context, server func(context.Context) (*role, error), peersRole string, n int) (float64, error) {
	if runtime.GOOS != "linux" {
		return 0, fmt.Errorf("the memory of a process: %w", errors.ErrUnsupported)
	}
	srv, err := server(ctx)
	if err != nil {
		return 0, err
	}
	defer srv.stop()
	address, err := srv.line()
	if err != nil {
		return 0, err
	}
	// What the first peers cause to be made once is not the others' cost.
	first, err := startRole(ctx, peersRole, address, strconv.Itoa(max(n/10, 1)))
	if err != nil {
		return 0, err
	}
	defer first.stop()
	before, err := settled(srv, first)
	if err != nil {
		return 0, err
	}
	peers, err := startRole(ctx, peersRole, address, strconv.Itoa(n))
	if err != nil {
		return 0, err
	}
	defer peers.stop()
	after, err := settled(srv, peers)
	if err != nil {
		return 0, err
	}
	return float64(after-before) / 1024 / float64(n), nil
}

// settled waits until the peers are connected and returns the server's memory then.
func settled(server, peers *role) (int, error) {
	if _, err := peers.line(); err != nil {
		return 0, err
	}
	text, err := server.ask()
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(text)
}

// roleVariable, in the environment, makes this program play a part in a measurement instead of making one.
const roleVariable = "SECRETSTACK_BENCH_ROLE"

// role is a process that plays a part. It answers lines with lines, and ends with its standard input.
type role struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

func startRole(ctx context.Context, args ...string) (*role, error) {
	path, err := os.Executable()
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(args)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, path)
	cmd.Env = append(os.Environ(), roleVariable+"="+string(text))
	return startProcess(cmd)
}

// startProcess starts a program that answers lines with lines, and ends with its standard input.
func startProcess(cmd *exec.Cmd) (*role, error) {
	cmd.Stderr = os.Stderr
	in, errIn := cmd.StdinPipe()
	out, errOut := cmd.StdoutPipe()
	if err := errors.Join(errIn, errOut); err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &role{cmd, in, bufio.NewScanner(out)}, nil
}

// ask sends an empty line and returns the answer.
func (r *role) ask() (string, error) {
	if _, err := io.WriteString(r.in, "\n"); err != nil {
		return "", err
	}
	return r.line()
}

func (r *role) line() (string, error) {
	if !r.out.Scan() {
		return "", fmt.Errorf("the process %s %s has ended: %w",
			r.cmd, r.cmd.Env[len(r.cmd.Env)-1], errors.Join(r.out.Err(), r.cmd.Wait()))
	}
	return strings.TrimSpace(r.out.Text()), nil
}

func (r *role) stop() {
	_ = r.in.Close()
	_ = r.cmd.Wait()
}
