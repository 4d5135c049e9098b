package main

import (
	"context"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/multiserver"
	"github.com/secretstack/secretstack/multiserver/onion"
	"github.com/secretstack/secretstack/multiserver/unix"
	"github.com/secretstack/secretstack/multiserver/ws"
	"github.com/secretstack/secretstack/plugins/hubclient"
	"github.com/secretstack/secretstack/plugins/share"
	"github.com/secretstack/secretstack/plugins/tunnel"
)

// dialAll is how every command of ours reaches peers: over each transport, with a proven key.
func dialAll() map[string][]multiserver.Outgoing {
	withKey := []multiserver.Outgoing{{Transform: "shs"}}
	return map[string][]multiserver.Outgoing{
		"net": withKey, "ws": withKey, "onion": withKey, "tunnel": withKey, "circuit": withKey,
		"unix": {{Transform: "shs"}, {Transform: "noauth"}},
	}
}

// transports are the plugins for the transports that are not in every stack.
func transports() secretstack.Plugins {
	return secretstack.Plugins{
		secretstack.TransportPlugin(ws.New(ws.Options{})),
		secretstack.TransportPlugin(unix.New(unix.Options{})),
		secretstack.TransportPlugin(onion.New(onion.Options{})),
		secretstack.NoAuthPlugin(),
	}
}

// startCaller starts an app that dials and listens to nothing.
func startCaller(ctx context.Context, g *globals) (*secretstack.App, error) {
	cfg, err := g.config(ctx, g.root)
	if err != nil {
		return nil, err
	}
	cfg.Connections = &multiserver.Config{Outgoing: dialAll()}
	stack := secretstack.New(secretstack.Options{})
	if err := stack.Use(transports(), reaching(hubclient.Config{})); err != nil {
		return nil, err
	}
	return stack.Start(ctx, cfg)
}

// reaching are the plugins by which peers are reached through others.
func reaching(at hubclient.Config) secretstack.Plugins {
	return secretstack.Plugins{tunnel.Plugin(tunnel.Config{}), hubclient.Plugin(at), share.Plugin(share.Config{})}
}

// config is what all our apps have in common.
func (g *globals) config(ctx context.Context, dir string) (secretstack.Config, error) {
	network, err := g.networkKey()
	if err != nil {
		return secretstack.Config{}, err
	}
	if g.root == "" {
		return secretstack.Config{}, usagef("--root is empty")
	}
	if err := checkFolder(dir); err != nil {
		return secretstack.Config{}, err
	}
	id, err := g.identityIn(ctx, dir)
	if err != nil {
		return secretstack.Config{}, err
	}
	return secretstack.Config{Identity: id, AppKey: network, Dir: dir, Logger: g.logger()}, nil
}

// configWith is config for settings that may say who the app is and where its data are. They win over the default
// folder, not over one that somebody has chosen.
func (g *globals) configWith(ctx context.Context, s secretstack.Settings) (secretstack.Config, error) {
	if g.rootGiven() || g.root == "" {
		return g.config(ctx, g.root)
	}
	shared, ok := s["global"].(map[string]any)
	if !ok {
		shared = s
	}
	if shared["keys"] != nil || shared["seed"] != nil {
		network, err := g.networkKey()
		dir := g.root
		if shared["path"] != nil {
			dir = ""
		}
		return secretstack.Config{AppKey: network, Dir: dir, Logger: g.logger()}, err
	}
	if path, _ := shared["path"].(string); path != "" {
		return g.config(ctx, path) // the same folder as the app's own choice, but it can ask for a passphrase
	}
	return g.config(ctx, g.root)
}
