package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	gonet "net"
	"os"
	"os/exec"
	"path/filepath"
)

// rolePlainRelay is a proxy for TCP.
const rolePlainRelay = "plain-relay"

// tcpRelay is a program that accepts connections and dials an address for each.
type tcpRelay struct {
	process
	address string
	ends    gonet.Listener
	matcher
}

func (r *tcpRelay) open(ctx context.Context) (io.WriteCloser, io.ReadCloser, error) {
	a, err := new(gonet.Dialer).DialContext(ctx, "tcp", r.address)
	if err != nil {
		return nil, nil, err
	}
	b, err := r.meet(ctx, a)
	return a, b, err
}

func (r *tcpRelay) Close() error { return errors.Join(r.process.Close(), r.ends.Close()) }

// startPlainRelay starts what a relay cannot be quicker than.
func startPlainRelay(ctx context.Context) (relay, error) {
	r := new(tcpRelay)
	var err error
	if r.ends, err = r.listen(ctx); err != nil {
		return nil, err
	}
	proxy, err := startRole(ctx, rolePlainRelay, r.ends.Addr().String())
	if err != nil {
		return nil, err
	}
	r.process = proxy
	r.address, err = proxy.line()
	return r, err
}

// servePlainRelay copies between those who connect and the address in its argument.
func servePlainRelay(ctx context.Context, args []string) error {
	ln, err := new(gonet.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go func() {
		for {
			a, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				b, err := new(gonet.Dialer).DialContext(ctx, "tcp", args[0])
				if err != nil {
					drop(a)
					return
				}
				pass(a, b)
			}()
		}
	}()
	fmt.Println(ln.Addr())
	return answerMemory([]string{""}, silence)
}

// startHaproxy starts haproxy, which must be installed.
func startHaproxy(ctx context.Context) (relay, error) {
	program, err := exec.LookPath("haproxy")
	if err != nil {
		if program, err = exec.LookPath("/usr/sbin/haproxy"); err != nil {
			return nil, errNoHaproxy
		}
	}
	r := new(tcpRelay)
	if r.ends, err = r.listen(ctx); err != nil {
		return nil, err
	}
	if r.address, err = freeAddress(ctx); err != nil {
		return nil, err
	}
	folder, err := os.MkdirTemp("", "bench-haproxy-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(folder) }()
	file := filepath.Join(folder, "haproxy.cfg")
	config := fmt.Appendf(nil, haproxyConfig, r.address, r.ends.Addr())
	if err := os.WriteFile(file, config, 0o600); err != nil {
		return nil, err
	}
	r.process, err = startDaemon(ctx, r.address, program, "-q", "-db", "-f", file)
	return r, err
}

var errNoHaproxy = errors.New("haproxy is not installed")

const haproxyConfig = `global
	maxconn 4000
defaults
	mode tcp
	option splice-auto
	timeout connect 5s
	timeout client 1m
	timeout server 1m
listen relay
	bind %s
	server end %s
`
