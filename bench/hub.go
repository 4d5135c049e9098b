package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/secretstack/secretstack/hub"
	"github.com/secretstack/secretstack/multiserver"
)

const roleHub = "hub"

// hubRoles are the parts of the rows about hubs.
func hubRoles() map[string]func(context.Context, []string) error {
	return map[string]func(context.Context, []string) error{
		roleHub:         serveHub,
		roleNode:        serveNode,
		rolePresences:   servePresences,
		roleOrigin:      serveOrigin,
		rolePlain:       servePlainProxy,
		roleCourier:     serveCourier,
		roleTunnel:      serveTunnel,
		roleTunnels:     serveTunnels,
		rolePlainRelay:  servePlainRelay,
		roleLibp2pRelay: serveLibp2pRelay,
		roleDerp:        serveDerp,

		roleCouriers:    peersOf(func(ctx context.Context, said string) (io.Closer, error) { return dialCourier(ctx, peersAddress(said)) }),
		roleDerpClients: peersOf(dialDerp),
	}
}

// hubAt is where a hub is found: by peers, and by everybody else.
type hubAt struct{ Peers, Port string }

func parseHubAt(said string) (at hubAt, err error) {
	err = json.Unmarshal([]byte(said), &at)
	return at, err
}

// peersAddress is where peers find whoever has said so: our hub, or somebody who has but one address.
func peersAddress(said string) string {
	if at, err := parseHubAt(said); err == nil {
		return at.Peers
	}
	return said
}

// portOf is the same for everybody else.
func portOf(said string) string {
	if at, err := parseHubAt(said); err == nil {
		return at.Port
	}
	return said
}

// hubProfileVariable, in the environment, names the file for a hub's CPU profile.
const hubProfileVariable = "SECRETSTACK_BENCH_HUBPROFILE"

// engineSilence is silence for a hub, whose engine keeps what was written last for ten seconds: up to 8 MiB, however many
// couriers there are.
const engineSilence = 12 * time.Second

// hubAt is where the hub is that the process has begun with saying so.
func (r *role) hubAt() (at hubAt, err error) {
	said, err := r.line()
	if err != nil {
		return at, err
	}
	return parseHubAt(said)
}

// serveHub serves a hub with a new folder, which is removed in the end, and answers with its memory.
func serveHub(ctx context.Context, args []string) error {
	dir, err := os.MkdirTemp("", "bench-hub-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	return serveHubOf(ctx, hub.Config{Dir: dir, Listen: []string{"127.0.0.1:0"}}, args, os.Getenv(hubProfileVariable), engineSilence)
}

// serveHubOf serves a hub, and answers with its memory after a silence.
func serveHubOf(ctx context.Context, cfg hub.Config, args []string, profile string, silence time.Duration) error {
	cfg.Domain, cfg.TunnelAddress = hubDomain, "127.0.0.1"
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	}
	// Couriers that only register leave their ports soon, so that there are ports for the next ones.
	cfg.Limits.SocketGrace = time.Second
	h, err := hub.New(ctx, cfg)
	if err != nil {
		return err
	}
	served := make(chan error, 1)
	go func() { served <- h.Serve(ctx) }()
	at := hubAt{Port: h.Addrs()[0].String()}
	at.Peers = multiserver.Join([]multiserver.Address{{
		multiserver.NewPart("net", at.Port), multiserver.NewPart("shs", h.App().ID().Base64()),
	}})
	if err := accepting(ctx, at.Port); err != nil {
		return err
	}
	said, err := json.Marshal(at)
	if err != nil {
		return err
	}
	fmt.Println(string(said))
	stopProfile, err := startProfile(profile)
	if err != nil {
		return err
	}
	return errors.Join(answerMemory(args, silence), stopProfile(), h.Close(ctx), <-served)
}
