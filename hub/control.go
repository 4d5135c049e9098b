package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/hub/admin"
	"github.com/secretstack/secretstack/hub/admission"
	"github.com/secretstack/secretstack/hub/registry"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/multiserver/unix"
	"github.com/secretstack/secretstack/muxrpc"
)

// controlDir is the folder of the control socket, in the data folder.
const controlDir = "control"

// ControlStatus is what "hubControl.status" answers.
type ControlStatus struct {
	Key       keys.PublicKey `json:"key"`
	Version   string         `json:"version,omitempty"`
	Domain    string         `json:"domain,omitempty"`
	Addresses []string       `json:"addresses"`
	Mode      admission.Mode `json:"mode"`
	Started   time.Time      `json:"started"`
	Draining  bool           `json:"draining,omitempty"`
	Records   int            `json:"records"` // ids that belong to somebody
	Native    int            `json:"native"`  // couriers that are connected
	Secrez    int            `json:"secrez"`  // couriers of Secrez with a tunnel port
	Peers     int            `json:"peers"`   // connections with a proven key
	Requests  int            `json:"requests"`
	Tunnels   int            `json:"tunnels"`
	Circuits  int            `json:"circuits"`
	Admin     string         `json:"admin,omitempty"` // where the operator is served: host:port
	// Problem is why nothing can be registered now. Empty: it can.
	Problem string `json:"problem,omitempty"`
	// Free is how many bytes may be written to the disk, or -1 if the system does not tell.
	Free int64 `json:"free"`
	// Certificates are those that the hub uses, and Problems say which of them keep visitors away.
	Certificates []admin.Certificate `json:"certificates,omitempty"`
	Problems     []string            `json:"problems,omitempty"`
	// Cluster is how the nodes are doing. Nil: the hub is alone.
	Cluster *admin.Cluster `json:"cluster,omitempty"`
}

// control serves the owner of the data folder, over a socket that only he can reach.
func (h *Hub) control() secretstack.Plugin {
	return secretstack.Plugins{
		secretstack.TransportPlugin(unix.New(unix.Options{})),
		secretstack.NoAuthPlugin(),
		secretstack.NewPlugin(secretstack.Info{Name: "hubControl"}, func(_ context.Context, s *secretstack.Setup) error {
			return errors.Join(
				muxrpc.HandleAsync(s, "status", h.controlStatus),
				muxrpc.HandleSource(s, "backup", h.controlBackup),
				muxrpc.HandleAsync(s, "invite", owners(h.controlInvite)),
				muxrpc.HandleAsync(s, "invites", h.controlInvites),
				muxrpc.HandleAsync(s, "revoke", owners(h.controlRevoke)),
				muxrpc.HandleAsync(s, "rules", h.controlRules),
				muxrpc.HandleAsync(s, "setRule", owners(h.controlSetRule)),
				muxrpc.HandleAsync(s, "removeRule", owners(h.controlRemoveRule)),
				muxrpc.HandleAsync(s, "removeNode", owners(h.controlRemoveNode)),
			)
		}),
	}
}

func (h *Hub) controlStatus(context.Context, muxrpc.None) (ControlStatus, error) {
	now, about := h.Status(), h.About()
	status := ControlStatus{
		Key: about.Key, Version: about.Version, Domain: about.Domain, Addresses: h.Addresses(), Mode: h.admission.Mode(),
		Started: about.Started, Draining: now.Draining, Records: now.Registry.Records, Native: len(h.directory.published()),
		Secrez: now.Pools, Peers: len(h.directory.all()), Requests: now.Requests, Tunnels: now.Tunnels,
		Circuits: now.Circuits.Open, Free: now.Registry.Free, Certificates: now.Certificates, Problems: now.Problems,
		Cluster: now.Cluster,
	}
	if at := h.operator.Load(); at != nil {
		status.Admin = *at
	}
	if now.Registry.Err != nil {
		status.Problem = now.Registry.Err.Error()
	}
	return status, nil
}

// controlBackup sends a backup. Its end without an error is the end of the archive.
func (h *Hub) controlBackup(ctx context.Context, _ muxrpc.None) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		r, w := io.Pipe()
		defer func() { _ = r.Close() }()
		defer context.AfterFunc(ctx, func() { _ = r.Close() })()
		ran := h.background(func() {
			_, err := h.Backup(ctx, w)
			_ = w.CloseWithError(err)
		})
		if !ran {
			_ = w.CloseWithError(ErrClosed)
		}
		buf := make([]byte, 64<<10)
		for {
			n, err := r.Read(buf)
			if n > 0 && !yield(buf[:n], nil) {
				return
			}
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				yield(nil, muxrpc.Errorf("the backup failed: %w", err)) // to the owner of the folder
				return
			}
		}
	}
}

// owners tells the owner of the folder whatever went wrong.
func owners[A, R any](f func(ctx context.Context, arg A) (R, error)) func(context.Context, A) (R, error) {
	return func(ctx context.Context, arg A) (R, error) {
		r, err := f(ctx, arg)
		if err != nil {
			err = muxrpc.Errorf("%w", err)
		}
		return r, err
	}
}

// ControlInvite is what "hubControl.invite" answers to the terms of an invitation.
type ControlInvite struct {
	Code   string           `json:"code"`
	Link   string           `json:"link"`
	Invite admission.Invite `json:"invite"`
}

func (h *Hub) controlInvite(ctx context.Context, terms admission.Invite) (ControlInvite, error) {
	code, invite, err := h.admission.CreateInvite(ctx, terms)
	if err != nil {
		return ControlInvite{}, err
	}
	return ControlInvite{Code: code, Link: h.InviteLink(code), Invite: invite}, nil
}

func (h *Hub) controlInvites(context.Context, muxrpc.None) ([]admission.Invite, error) {
	return h.admission.Invites(), nil
}

func (h *Hub) controlRevoke(ctx context.Context, id string) (muxrpc.None, error) {
	return muxrpc.None{}, h.admission.RevokeInvite(ctx, id)
}

func (h *Hub) controlRules(context.Context, muxrpc.None) ([]admission.Rule, error) {
	return h.admission.Rules(), nil
}

func (h *Hub) controlSetRule(ctx context.Context, rule admission.Rule) (muxrpc.None, error) {
	return muxrpc.None{}, h.admission.SetRule(ctx, rule)
}

func (h *Hub) controlRemoveRule(ctx context.Context, s admission.Subject) (muxrpc.None, error) {
	return muxrpc.None{}, h.admission.RemoveRule(ctx, s)
}

// controlRemoveNode takes a node out of the cluster that is stopped for good.
func (h *Hub) controlRemoveNode(ctx context.Context, node string) (muxrpc.None, error) {
	err := h.registry.RemoveNode(ctx, node)
	switch {
	case errors.Is(err, registry.ErrNotFound):
		return muxrpc.None{}, fmt.Errorf("the cluster has no node that is called %q", node)
	case errors.Is(err, registry.ErrConflict):
		return muxrpc.None{}, fmt.Errorf("node %s is running: stop it first, for good", node)
	}
	return muxrpc.None{}, err
}

// path is the option "path" of a transport.
func path(p string) map[string]json.RawMessage {
	text, _ := json.Marshal(p) // a string can always be encoded
	return map[string]json.RawMessage{"path": text}
}
