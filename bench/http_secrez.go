package main

import (
	"context"
	"os/exec"
	"path/filepath"
	"sync"
)

// secrezJS runs the hub of Secrez, which has a folder of its own for its packages from npm.
type secrezJS struct {
	dir     string
	install func() error
}

// newSecrezJS finds it beside the folder of the other JavaScript peers.
func newSecrezJS(js string) *secrezJS {
	dir := filepath.Join(filepath.Dir(js), "secrez")
	return &secrezJS{dir: dir, install: sync.OnceValue(func() error { return installPackages(dir) })}
}

const secrezNote = "@secrez/hub 0.2.1 with @secrez/crypto 1.0.5; its SQLite file is a table in memory here, which spares it the disk"

// secrezSockets is how many tunnel sockets a courier has at it, as at ours.
const secrezSockets = "4"

// start starts the hub. It says its address, and how much memory it has when it is asked.
func (n *secrezJS) start(ctx context.Context) (*role, error) {
	if err := n.install(); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "node", "--no-deprecation", "--expose-gc", "hub.js", secrezSockets)
	cmd.Dir = n.dir
	return startProcess(cmd)
}

// startSite starts the hub and a courier with raw tunnel sockets.
func (n *secrezJS) startSite(ctx context.Context) (*site, error) {
	s := new(site)
	err := s.startSecrez(ctx, n)
	return s.made(err)
}

func (s *site) startSecrez(ctx context.Context, n *secrezJS) error {
	hub, err := n.start(ctx)
	if err != nil {
		return err
	}
	s.parts = append(s.parts, hub)
	if s.address, err = hub.line(); err != nil {
		return err
	}
	s.host, err = s.startRole(ctx, roleTunnel, s.address)
	return err
}
