package main

import (
	"context"
	"errors"
	"fmt"
	gonet "net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// residentOf reads Linux's figure of the memory that is a process's own and not the kernel's or a file's, in bytes.
func residentOf(process string) (int, error) {
	if runtime.GOOS != "linux" {
		return 0, fmt.Errorf("the memory of a process: %w", errors.ErrUnsupported)
	}
	status, err := os.ReadFile(filepath.Join("/proc", process, "status"))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if kib, found := strings.CutPrefix(line, "RssAnon:"); found {
			n, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(kib), " kB"))
			return n << 10, err
		}
	}
	return 0, fmt.Errorf("/proc/%s/status has no RssAnon", process)
}

// pid is the process's number.
func (r *role) pid() int { return r.cmd.Process.Pid }

// daemon is a program that runs until it is told to stop.
type daemon struct{ cmd *exec.Cmd }

// startDaemon starts a program and waits until something accepts connections at an address.
func startDaemon(ctx context.Context, address, program string, args ...string) (*daemon, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	d := &daemon{cmd}
	if err := accepting(ctx, address); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", filepath.Base(program), err), d.Close())
	}
	return d, nil
}

func (d *daemon) pid() int { return d.cmd.Process.Pid }

// Close ends the program. That it was ended is no error.
func (d *daemon) Close() error {
	_ = d.cmd.Process.Signal(os.Interrupt)
	kill := time.AfterFunc(2*time.Second, func() { _ = d.cmd.Process.Kill() })
	defer kill.Stop()
	_ = d.cmd.Wait()
	return nil
}

// startPatience is how long a program may take to be ready.
const startPatience = 30 * time.Second

// accepting waits until something accepts connections.
func accepting(ctx context.Context, address string) error {
	return eventually(ctx, func() error {
		conn, err := new(gonet.Dialer).DialContext(ctx, "tcp", address)
		if err == nil {
			drop(conn)
		}
		return err
	})
}

// eventually repeats what may fail at first.
func eventually(ctx context.Context, try func() error) error {
	deadline := time.Now().Add(startPatience)
	for {
		err := try()
		if err == nil || ctx.Err() != nil || time.Now().After(deadline) {
			return errors.Join(err, ctx.Err())
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// freeAddress returns an address of this machine that nobody listens at, for a program that cannot choose one.
func freeAddress(ctx context.Context) (string, error) {
	ln, err := new(gonet.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return ln.Addr().String(), ln.Close()
}
