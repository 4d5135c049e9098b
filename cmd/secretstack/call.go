package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/multiserver"
	"github.com/secretstack/secretstack/muxrpc"
	"github.com/secretstack/secretstack/plugins/hubclient"
	"github.com/secretstack/secretstack/shs"
)

// callFlags are what call can be told.
type callFlags struct {
	hub     string
	kind    string
	raw     bool
	timeout duration
	linger  duration
}

func newCall(g *globals) *cobra.Command {
	f := callFlags{timeout: duration(15 * time.Second), linger: duration(time.Second)}
	cmd := &cobra.Command{
		Use:   "call ADDRESS METHOD [JSON…]",
		Short: "call a peer's method and print the result",
		Long: `call connects to a peer, calls one of its methods and prints what it answers. Arguments are JSON: text needs its
quotes. A source prints a line for each item until it ends or you press Ctrl-C; a sink or a duplex takes its items from
standard input, a JSON value on each line.

Which type a method has is asked of the peer (its "manifest"); a peer that does not tell needs --type.`,
		Example: `  secretstack call ADDRESS manifest
  secretstack call ADDRESS greeter.hello '"bob"'
  secretstack call ADDRESS blobs.add --type sink --raw <picture.jpg
  secretstack call --hub HUB-ADDRESS TUNNEL-ADDRESS manifest`,
		Args: argsBetween(2, -1, "the peer's address, the method, and the method's arguments as JSON"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return call(cmd.Context(), g, f, args[0], args[1], args[2:])
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.hub, "hub", "", "hub that leads to the peer, for tunnel: addresses: its address, or HOST:PORT")
	flags.StringVar(&f.kind, "type", "", "async, sync, source, sink or duplex (default: what the peer's manifest says)")
	flags.BoolVarP(&f.raw, "raw", "r", false, "bytes and text as they are instead of JSON, both ways")
	flags.Var(&f.timeout, "timeout", "how long connecting may take, and how long an async answer")
	flags.Var(&f.linger, "linger", "after the end of standard input, how long a duplex waits for another item")
	return cmd
}

func call(ctx context.Context, g *globals, f callFlags, address, method string, texts []string) error {
	if err := f.check(); err != nil {
		return err
	}
	target, err := parseTarget(address)
	if err != nil {
		return err
	}
	args, err := parseArguments(texts)
	if err != nil {
		return err
	}
	app, err := startCaller(ctx, g)
	if err != nil {
		return err
	}
	defer app.Close(context.WithoutCancel(ctx))

	if key, ok := target[0].Key(); ok && key.Equal(app.ID()) && target[0].Transport().Name == "tunnel" {
		return usagef("the address leads to yourself: it has your own key; to call as somebody else, choose another --root")
	}
	if f.hub != "" {
		found, err := findOurHubs(ctx, []string{f.hub})
		if err != nil {
			return err
		}
		f.hub = withoutInvite(found.texts[0])
	}
	peer, err := connect(ctx, app, f, address)
	if err != nil {
		return explainDial(err)
	}
	kind, err := methodType(ctx, peer, f, method)
	if err != nil {
		return err
	}
	c := caller{globals: g, flags: f, peer: peer, method: method, args: args}
	return explainCall(c.run(ctx, kind), method, kind)
}

// check refuses values that no call can have.
func (f callFlags) check() error {
	if f.kind != "" && !muxrpc.CallType(f.kind).Valid() {
		return usagef("--type %q is none of async, sync, source, sink and duplex", f.kind)
	}
	if f.timeout <= 0 {
		return usagef("--timeout must be more than 0, such as 5s")
	}
	return nil
}

// parseTarget reads the address of the peer to call; at least one of several must be one that we can dial.
func parseTarget(address string) ([]multiserver.Address, error) {
	if _, err := keys.ParsePublicKey(address); err == nil {
		return nil, usagef("that is a key, not an address; an address says where the peer is as well, as in net:HOST:PORT~shs:KEY")
	}
	parsed, err := multiserver.Parse(address)
	if err != nil {
		return nil, usagef("%w", err)
	}
	for _, a := range parsed {
		problem := dialProblem(a)
		if problem == nil {
			return parsed, nil
		}
		err = errors.Join(err, problem)
	}
	return nil, usagef("%w", err)
}

// dialProblem says why we cannot dial an address, whoever is there.
func dialProblem(a multiserver.Address) error {
	transport := a.Transport().Name
	if transport == "wss" {
		transport = "ws"
	}
	ways := dialAll()
	allowed, known := ways[transport]
	if !known {
		return fmt.Errorf("there is no transport %q; there are %s", transport, strings.Join(slices.Sorted(maps.Keys(ways)), ", "))
	}
	for _, transform := range a.Transforms() {
		if !slices.ContainsFunc(allowed, func(o multiserver.Outgoing) bool { return o.Transform == transform.Name }) {
			return fmt.Errorf("%s: addresses cannot be called with ~%s: add ~shs: and the peer's key", transport, transform.Name)
		}
	}
	return nil
}

// parseArguments checks that every argument is JSON and says how to write one that is not.
func parseArguments(texts []string) ([]any, error) {
	args := make([]any, 0, len(texts))
	for i, text := range texts {
		if !json.Valid([]byte(text)) {
			text = strings.TrimSpace(text) // guardNumbers may have put a space before it
			quoted, _ := json.Marshal(text)
			return nil, usagef("argument %d, %s, is not JSON; if it is text, write '%s'", i+1, text, quoted)
		}
		args = append(args, json.RawMessage(text))
	}
	return args, nil
}

// connect dials the peer, the hub first if one was named.
func connect(ctx context.Context, app *secretstack.App, f callFlags, address string) (*secretstack.Peer, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(f.timeout))
	defer cancel()
	if f.hub != "" {
		if _, err := app.Connect(ctx, f.hub); err != nil {
			return nil, fmt.Errorf("the hub: %w", err)
		}
	} else if strings.HasPrefix(address, "tunnel:") {
		return nil, usagef("a tunnel: address leads through a hub: name the hub's address with --hub")
	}
	return app.Connect(ctx, address)
}

// methodType returns what the user said, else what the peer's manifest says, else async.
func methodType(ctx context.Context, peer *secretstack.Peer, f callFlags, method string) (muxrpc.CallType, error) {
	if f.kind != "" {
		return muxrpc.CallType(f.kind), nil
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(f.timeout))
	defer cancel()
	manifest, err := peer.Manifest(ctx)
	if err != nil {
		return muxrpc.TypeAsync, nil // the peer does not tell: most methods are async
	}
	if kind := manifest.Lookup(strings.Split(method, ".")...); kind != "" {
		return kind, nil
	}
	return "", fmt.Errorf("the peer has no method %q; it has: %s", method, strings.Join(methodNames(manifest), ", "))
}

func methodNames(manifest muxrpc.Manifest) []string {
	const most = 40
	names := manifest.Methods()
	if len(names) > most {
		names = append(names[:most:most], "…")
	}
	for i, name := range names {
		names[i] = printable(name)
	}
	return names
}

// explainDial says in a person's words why there is no connection, and what to do.
func explainDial(err error) error {
	var usage *usageError
	var remote *muxrpc.RemoteError
	if _, atHub := errors.AsType[*hubclient.HubError](err); atHub {
		return explainCircuit(err, "the peer")
	}
	switch {
	case errors.As(err, &usage):
		return err
	case errors.As(err, &remote):
		return fmt.Errorf("the hub answered: %s; is the peer running, and connected to this hub?", remoteText(remote))
	case errors.Is(err, context.Canceled):
		return errors.New("interrupted before there was a connection")
	case errors.Is(err, shs.ErrAppKey):
		return errors.New("cannot connect: the peer is on another network, or speaks something else; if it is a network of its own, give its --app-key")
	case errors.Is(err, shs.ErrRefused), errors.Is(err, shs.ErrServerKey):
		return errors.New("cannot connect: the peer hung up on us; the key in the address is not its own, or it does not let yours in ('secretstack keys' shows it)")
	case errors.Is(err, shs.ErrTimeout), errors.Is(err, context.DeadlineExceeded):
		return errors.New("cannot connect: no answer in time; is the peer running, and is the address right?")
	}
	question := ""
	if _, noHost := errors.AsType[*net.DNSError](err); noHost || errors.Is(err, syscall.ECONNREFUSED) {
		question = "; is the peer running, and is the address right?"
	}
	return fmt.Errorf("cannot connect: %s%s", plain(err), question)
}

// explainCall adds what to do to the errors of a call.
func explainCall(err error, method string, kind muxrpc.CallType) error {
	var remote *muxrpc.RemoteError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.Canceled) && (kind == muxrpc.TypeSource || kind == muxrpc.TypeDuplex):
		return nil // Ctrl-C is how one ends these
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("interrupted before %s was done", method)
	case muxrpc.IsDenied(err):
		return fmt.Errorf("the peer does not allow you to call %s", method)
	case errors.As(err, &remote):
		return fmt.Errorf("the peer answered: %s", remoteText(remote))
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("no answer in time: raise --timeout if %s takes long", method)
	case errors.Is(err, muxrpc.ErrTooLarge), errors.Is(err, muxrpc.ErrWriteTimeout), errors.Is(err, muxrpc.ErrPacketTimeout):
		return err // it ends the session too, but says more
	case errors.Is(err, muxrpc.ErrSessionClosed), errors.Is(err, muxrpc.ErrUnexpectedEnd), errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("the connection was cut; is the peer still running?")
	}
	return err
}

// remoteText is what the peer answered, fit for a terminal.
func remoteText(e *muxrpc.RemoteError) string {
	if e.Message != "" {
		return printable(e.Message)
	}
	return printable(string(e.Value))
}
