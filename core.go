package secretstack

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/multiserver"
	"github.com/secretstack/secretstack/muxrpc"
)

const (
	authMethod    = "auth"
	addressMethod = "address"
)

// core mounts the methods that every app has.
func (a *App) core() error {
	mergeSets(a.sets, Anonymous("manifest"), "")
	for _, m := range []muxrpc.Method{
		{Name: authMethod, Type: muxrpc.TypeAsync, Handler: a.serveAuth},
		{Name: addressMethod, Type: muxrpc.TypeSync, Handler: a.serveAddress},
		{Name: "manifest", Type: muxrpc.TypeSync, Handler: a.serveManifest},
		{Name: "multiserver.parse", Type: muxrpc.TypeSync, Handler: a.serveParse},
		{Name: "multiserver.address", Type: muxrpc.TypeSync, Handler: a.serveMultiserverAddress},
	} {
		if err := a.mux.Handle(m); err != nil {
			return fmt.Errorf("secretstack: %w", err)
		}
	}
	return nil
}

// serveAuth is the decision that hooks wrap: everybody gets the access of everybody.
func (a *App) serveAuth(context.Context, *muxrpc.CallInfo) (any, error) { return Access{}, nil }

func (a *App) serveManifest(context.Context, *muxrpc.CallInfo) (any, error) { return a.Manifest(), nil }

// serveAddress answers with the app's addresses in a scope, "" when it has none there.
func (a *App) serveAddress(_ context.Context, call *muxrpc.CallInfo) (any, error) {
	scope, err := scopeArg(call.Args)
	if err != nil {
		return nil, err
	}
	return a.listensAt(scope), nil
}

// serveMultiserverAddress answers as "address" does, with null for none.
func (a *App) serveMultiserverAddress(_ context.Context, call *muxrpc.CallInfo) (any, error) {
	scope, err := scopeArg(call.Args)
	if err != nil {
		return nil, err
	}
	if address := a.listensAt(scope); address != "" {
		return address, nil
	}
	return nil, nil
}

// scopeArg reads the scope that is asked for; the default is the narrowest.
func scopeArg(args muxrpc.Args) (multiserver.Scope, error) {
	var name string
	if err := args.Decode(&name); err != nil {
		return "", err
	}
	if name == "" {
		return multiserver.Device, nil
	}
	return multiserver.Scope(name), nil
}

// parsedPart is a part of an address as multiserver.parse shows it.
type parsedPart struct {
	Name string        `json:"name,omitempty"`
	Host string        `json:"host,omitempty"`
	Port uint16        `json:"port,omitempty"`
	Key  muxrpc.Buffer `json:"key,omitempty"`
	Data []string      `json:"data,omitempty"`
}

// serveParse takes addresses apart: a list of parts for each.
func (a *App) serveParse(_ context.Context, call *muxrpc.CallInfo) (any, error) {
	var text string
	if err := call.Args.Decode(&text); err != nil {
		return nil, err
	}
	addresses := multiserver.ParseLoose(text)
	parsed := make([][]parsedPart, len(addresses))
	for i, address := range addresses {
		for _, part := range address {
			parsed[i] = append(parsed[i], parsePart(part))
		}
	}
	return parsed, nil
}

func parsePart(part multiserver.Part) parsedPart {
	if host, port, _, err := multiserver.ParseHostPort(part.Name, part, multiserver.Loose); err == nil && (part.Name == "net" || part.Name == "onion") {
		return parsedPart{Name: part.Name, Host: host, Port: port}
	}
	if part.Name == "shs" && len(part.Data) > 0 {
		if key, err := keys.ParsePublicKeyLenient(part.Data[0]); err == nil {
			return parsedPart{Key: key.Bytes()}
		}
	}
	return parsedPart{Name: part.Name, Data: part.Data}
}

// Caller is a peer that wants to connect and has proved its key.
type Caller struct {
	// Key is what the caller has proved.
	Key keys.PublicKey
	// Remote is the transport part of the address that it dialled from, such as "net:192.0.2.7:40112". It is empty when
	// the method "auth" was called instead, to ask what would be.
	Remote string
}

type remoteKey struct{}

// authHook makes an untyped hook of a typed one.
func authHook(h func(next AuthFunc) AuthFunc) muxrpc.Hook {
	return func(next muxrpc.Handler) muxrpc.Handler {
		decide := h(func(ctx context.Context, caller Caller) (Access, error) {
			call, err := authCall(caller.Key)
			if err != nil {
				return Access{}, err
			}
			answer, err := next(context.WithValue(ctx, remoteKey{}, caller.Remote), call)
			return accessOf(answer), err
		})
		return func(ctx context.Context, call *muxrpc.CallInfo) (any, error) {
			var ref string
			if err := call.Args.Decode(&ref); err != nil {
				return nil, err
			}
			key, err := keys.ParsePublicKey(ref)
			if err != nil {
				return nil, muxrpc.Errorf("auth needs the id of a peer")
			}
			remote, _ := ctx.Value(remoteKey{}).(string)
			return decide(ctx, Caller{Key: key, Remote: remote})
		}
	}
}

func authCall(key keys.PublicKey) (*muxrpc.CallInfo, error) {
	args, err := muxrpc.NewArgs(key.Ref())
	return &muxrpc.CallInfo{Path: []string{authMethod}, Type: muxrpc.TypeAsync, Args: args}, err
}

// authorize asks the hooks of "auth" about a caller.
func (a *App) authorize(ctx context.Context, key keys.PublicKey, remote string) (any, error) {
	call, err := authCall(key)
	if err != nil {
		return nil, err
	}
	answer, err := a.auth(context.WithValue(ctx, remoteKey{}, remote), call)
	if err != nil {
		return nil, err
	}
	access := accessOf(answer)
	switch {
	case access.kind == accessRefused && !a.admitFalse:
		return nil, errRefused
	case access.kind != accessGiven:
		return accessOfEverybody, nil
	}
	return access, nil
}

// permissions returns what a peer may call. Whoever we have dialled gets the access of everybody: nobody asked the auth
// hooks about it.
func (a *App) permissions(auth any, isClient bool) muxrpc.Permissions {
	if access, ok := auth.(Access); ok && !isClient && access.kind == accessGiven {
		return access.permissions
	}
	return a.Permissions(anonymous)
}

// addressNow runs the hooked method "address".
func (a *App) addressNow(scope multiserver.Scope) string {
	args, err := muxrpc.NewArgs(string(scope))
	if err != nil {
		return ""
	}
	call := &muxrpc.CallInfo{Path: []string{addressMethod}, Type: muxrpc.TypeSync, Args: args}
	answer, err := a.address(a.life, call)
	if err != nil {
		a.log.Warn("secretstack: a hook of the method address failed", "err", err)
		return ""
	}
	if text, ok := answer.(string); ok {
		return text
	}
	return ""
}

func splitName(method string) []string { return strings.Split(method, ".") }

var _ json.Marshaler = Access{}
