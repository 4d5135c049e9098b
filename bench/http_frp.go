package main

import (
	"context"
	"fmt"
	gonet "net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
)

// frpVersion is that of the module frp/go.mod.
const frpVersion = "0.65.0"

const frpPackage = "github.com/fatedier/frp/cmd/"

// frpPrograms is where buildFrp puts the programs.
const frpPrograms = "frp/bin"

// buildFrp builds frps and frpc in the module frp, once.
var buildFrp = sync.OnceValue(func() error {
	cmd := exec.Command("go", "build", "-o", "bin/", frpPackage+"frps", frpPackage+"frpc")
	cmd.Dir = "frp"
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build in frp: %w\n%s", err, out)
	}
	return nil
})

// startFrpSite starts frps, frpc and a server behind it.
func startFrpSite(ctx context.Context) (*site, error) {
	s := &site{host: hubDomain}
	err := s.startFrp(ctx)
	return s.made(err)
}

func (s *site) startFrp(ctx context.Context) error {
	if err := buildFrp(); err != nil {
		return err
	}
	origin, err := s.startRole(ctx, roleOrigin)
	if err != nil {
		return err
	}
	control, err := freeAddress(ctx)
	if err != nil {
		return err
	}
	if s.address, err = freeAddress(ctx); err != nil {
		return err
	}
	_, controlPort, _ := gonet.SplitHostPort(control)
	_, visitorsPort, _ := gonet.SplitHostPort(s.address)
	_, originPort, _ := gonet.SplitHostPort(origin)
	folder, err := os.MkdirTemp("", "bench-frp-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(folder) }()
	const quiet = "log.level = \"error\"\n"
	server, client := filepath.Join(folder, "frps.toml"), filepath.Join(folder, "frpc.toml")
	if err := os.WriteFile(server, fmt.Appendf(nil, quiet+"bindAddr = \"127.0.0.1\"\nbindPort = %s\nvhostHTTPPort = %s\n",
		controlPort, visitorsPort), 0o600); err != nil {
		return err
	}
	if err := os.WriteFile(client, fmt.Appendf(nil, quiet+"serverAddr = \"127.0.0.1\"\nserverPort = %s\n"+
		"[[proxies]]\nname = \"site\"\ntype = \"http\"\nlocalIP = \"127.0.0.1\"\nlocalPort = %s\ncustomDomains = [\"%s\"]\n",
		controlPort, originPort, hubDomain), 0o600); err != nil {
		return err
	}
	frps, err := startDaemon(ctx, s.address, filepath.Join(frpPrograms, "frps"), "-c", server)
	if err != nil {
		return err
	}
	s.parts = append(s.parts, frps)
	frpc, err := startDaemon(ctx, control, filepath.Join(frpPrograms, "frpc"), "-c", client)
	if err != nil {
		return err
	}
	s.parts = append(s.parts, frpc)
	// It has read its file when it is connected.
	return eventually(ctx, func() error { return s.visitOnce(ctx) })
}
