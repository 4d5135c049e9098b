package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/secretstack/secretstack/hub"
)

const (
	defaultAdmin  = "127.0.0.1:8434"
	healthTimeout = 5 * time.Second
	maxHealth     = 64 << 10 // bytes of an answer
)

// newHubHealth asks a running hub whether it is ready: for containers, scripts and people.
func newHubHealth(g *globals) *cobra.Command {
	var address string
	cmd := &cobra.Command{
		Use:   "health",
		Short: "ask a running hub whether it is ready",
		Long: `health asks the admin listener of a running hub whether it takes connections and can write. It ends with 0 if so, and
otherwise with 1 and the reasons. It needs no token.`,
		Example: "  secretstack hub health\n  secretstack hub health --admin 127.0.0.1:9000",
		Args:    argsBetween(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), healthTimeout)
			defer cancel()
			if !cmd.Flags().Changed("admin") {
				var err error
				if address, err = ownAdmin(ctx, g); err != nil {
					return err
				}
			}
			return hubHealth(ctx, g, address)
		},
	}
	cmd.Flags().StringVar(&address, "admin", "",
		"address of the hub's admin listener (default: that of the hub with this --root, or "+defaultAdmin+")")
	return cmd
}

// ownAdmin is where the hub that runs with our root has its admin listener, or where one usually is if none can be asked.
func ownAdmin(ctx context.Context, g *globals) (string, error) {
	status, err := ask[hub.ControlStatus](ctx, g, "status")
	switch {
	case err != nil:
		return defaultAdmin, nil //nolint:nilerr // it may be another user's, or run elsewhere
	case status.Admin == "":
		return "", errors.New("the hub has no admin listener to ask; start it with --admin")
	}
	return status.Admin, nil
}

func hubHealth(ctx context.Context, g *globals, address string) error {
	if _, _, err := net.SplitHostPort(address); err != nil {
		return usagef("--admin takes an address such as %s, not %q", defaultAdmin, address)
	}
	u := url.URL{Scheme: "http", Host: address, Path: "/readyz"}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return usagef("--admin takes an address such as %s, not %q", defaultAdmin, address)
	}
	direct := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}} // no proxy of the environment in between
	response, err := direct.Do(request)
	if err != nil {
		if cause, ok := errors.AsType[*url.Error](err); ok {
			err = cause.Err
		}
		return fmt.Errorf("no hub answers at %s: %w; is it running with --admin?", address, err)
	}
	defer func() { _ = response.Body.Close() }()
	var health struct {
		Ready   bool     `json:"ready"`
		Serving bool     `json:"serving"`
		Reasons []string `json:"reasons"`
	}
	text, err := io.ReadAll(io.LimitReader(response.Body, maxHealth))
	if err != nil || json.Unmarshal(text, &health) != nil {
		return fmt.Errorf("what answers at %s is not the admin listener of a hub", address)
	}
	if g.json {
		if err := g.printJSON(health); err != nil {
			return err
		}
	}
	switch {
	case !health.Ready && health.Serving:
		return fmt.Errorf("not ready, serving what it knows: %s", printable(strings.Join(health.Reasons, "; ")))
	case !health.Ready:
		return fmt.Errorf("not ready: %s", printable(strings.Join(health.Reasons, "; ")))
	case !g.json:
		fmt.Fprintln(g.out, "ready")
	}
	return nil
}
