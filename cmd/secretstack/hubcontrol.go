package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/hub"
	"github.com/secretstack/secretstack/hub/admin"
	"github.com/secretstack/secretstack/hub/admission"
	"github.com/secretstack/secretstack/hub/registry"
	"github.com/secretstack/secretstack/multiserver"
	"github.com/secretstack/secretstack/multiserver/unix"
	"github.com/secretstack/secretstack/muxrpc"
)

// longestSocket is what the systems with the shortest paths of unix sockets take.
const longestSocket = 103

// controlSocket is where a hub listens to the owner of its folder.
func controlSocket(dir string) string { return filepath.Join(dir, "control", "socket") }

// controlWorks reports whether a hub with the data folder can have a control socket.
func controlWorks(dir string) bool {
	path, err := filepath.Abs(controlSocket(dir))
	return err == nil && runtime.GOOS != "windows" && len(path) <= longestSocket
}

var errNoHub = errors.New("no hub is running with this --root, or it is starting still, as a node does that waits for others")

// noHub says that no hub can be asked, and where there is a node's credential why that may be.
func (g *globals) noHub() error {
	if _, err := os.Stat(g.credentialFile()); err == nil {
		return fmt.Errorf("%w; a node that waits for others has none yet: its log says so, and secretstack hub health", errNoHub)
	}
	return errNoHub
}

// withHub calls f with a connection to the hub that runs on this machine with our root.
func withHub(ctx context.Context, g *globals, f func(ctx context.Context, p *secretstack.Peer) error) error {
	if g.root == "" {
		return usagef("--root is empty")
	}
	if _, err := os.Stat(controlSocket(g.hubDir())); err != nil {
		return g.noHub()
	}
	stack := secretstack.New(secretstack.Options{})
	if err := stack.Use(secretstack.TransportPlugin(unix.New(unix.Options{})), secretstack.NoAuthPlugin()); err != nil {
		return err
	}
	app, err := stack.Start(context.WithoutCancel(ctx), secretstack.Config{
		Logger:      slog.New(slog.DiscardHandler),
		Connections: &multiserver.Config{Outgoing: map[string][]multiserver.Outgoing{"unix": {{Transform: "noauth"}}}},
	})
	if err != nil {
		return err
	}
	defer func() { _ = app.Close(context.WithoutCancel(ctx)) }()
	address := multiserver.Address{multiserver.NewPart("unix", controlSocket(g.hubDir())), multiserver.NewPart("noauth", "")}
	p, err := app.Connect(ctx, strings.TrimSuffix(address.String(), ":"))
	if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist) {
		return g.noHub()
	}
	if err != nil {
		return err
	}
	return f(ctx, p)
}

// ask calls a method of the running hub.
func ask[R any](ctx context.Context, g *globals, method string, args ...any) (answer R, err error) {
	err = withHub(ctx, g, func(ctx context.Context, p *secretstack.Peer) error {
		answer, err = muxrpc.Call[R](ctx, p, "hubControl."+method, args...)
		if remote, ok := errors.AsType[*muxrpc.RemoteError](err); ok {
			return errors.New(remote.Message)
		}
		return err
	})
	return answer, err
}

func newHubStatus(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "show how the hub on this machine is doing",
		Long:  `status asks the hub that runs on this machine with the same --root.`,
		Args:  argsBetween(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := ask[hub.ControlStatus](cmd.Context(), g, "status")
			switch {
			case err != nil:
				return err
			case g.json:
				return g.printJSON(s)
			}
			line := func(label string, value any) { fmt.Fprintf(g.out, "%-10s %v\n", label, value) }
			line("key", s.Key)
			line("address", strings.Join(s.Addresses, "\n           "))
			line("admission", s.Mode)
			line("ids", s.Records)
			line("couriers", fmt.Sprintf("%d, and %d of Secrez", s.Native, s.Secrez))
			line("peers", s.Peers)
			line("running", fmt.Sprintf("%d requests, %d tunnels, %d circuits", s.Requests, s.Tunnels, s.Circuits))
			line("since", s.Started.Local().Format(time.DateTime))
			if s.Cluster != nil {
				line("cluster", clusterWords(s.Cluster))
				line("nodes", strings.Join(nodeLines(s.Cluster.Nodes), "\n           "))
				for _, advice := range s.Cluster.Advice() {
					line("to do", printable(advice))
				}
				line("across", fmt.Sprintf("%d circuits and %d tunnels of visitors here, %d and %d of couriers here",
					s.Cluster.CircuitsOut, s.Cluster.TunnelsOut, s.Cluster.CircuitsIn, s.Cluster.TunnelsIn))
			}
			if s.Draining {
				line("draining", "yes")
			}
			if s.Problem != "" {
				line("problem", printable(s.Problem))
			}
			return nil
		},
	}
}

func clusterWords(c *admin.Cluster) string {
	if c.Alone {
		return c.Name + ", cut off from the majority"
	}
	return c.Name
}

// clockSkew is from when on it is said that the clocks of two nodes differ: an answer may be under way for a while.
const clockSkew = 5 * time.Second

// nodeLines tells of each node what it does, how much, and how far behind it is.
func nodeLines(nodes []admin.Node) (lines []string) {
	widest := 0
	for _, n := range nodes {
		widest = max(widest, len(n.Name))
	}
	for _, n := range nodes {
		words := []string{n.State()}
		if n.Self {
			words = append(words, "this one")
		}
		if n.Seen {
			words = append(words, counted(n.Couriers, "courier"), counted(n.Peers, "peer"))
		}
		if skew := time.Duration(n.Skew * float64(time.Second)).Round(time.Second); skew.Abs() > clockSkew {
			words = append(words, "its clock differs by "+skew.String())
		}
		if n.Lag > 0 {
			words = append(words, counted(int(n.Lag), "write")+" behind")
		}
		lines = append(lines, fmt.Sprintf("%-*s  %s", widest, printable(n.Name), strings.Join(words, ", ")))
	}
	return lines
}

func newHubBackup(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "backup FILE",
		Short: "write all that the hub holds to a file",
		Long: `backup writes the hub's identity, ids, lists and certificates to a new file ("-": the standard output), while the hub goes
on or when it is stopped. Whoever has the file can be the hub: keep it as safe as the folder.`,
		Example: "  secretstack hub backup hub-2030-01-31.tar",
		Args:    argsBetween(1, 1, "the name of the file to write"),
		RunE:    func(cmd *cobra.Command, args []string) error { return backupHub(cmd.Context(), g, args[0]) },
	}
}

func backupHub(ctx context.Context, g *globals, file string) error {
	if file == "-" {
		_, err := backupTo(ctx, g, g.out)
		return err
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s is there already; name a new file", file)
	}
	if err != nil {
		return err
	}
	records, err := backupTo(ctx, g, f)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(file))
	}
	if g.json {
		return g.printJSON(map[string]any{"file": file, "records": records})
	}
	fmt.Fprintf(g.out, "%s holds the hub, with %s\n", file, counted(records, "id"))
	return nil
}

func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// backupTo asks the running hub, and reads the folder when there is none.
func backupTo(ctx context.Context, g *globals, w io.Writer) (records int, err error) {
	status, err := ask[hub.ControlStatus](ctx, g, "status")
	if errors.Is(err, errNoHub) {
		return backupFolder(ctx, g, w)
	}
	if err != nil {
		return 0, err
	}
	return status.Records, withHub(ctx, g, func(ctx context.Context, p *secretstack.Peer) error {
		for chunk, err := range muxrpc.Source[[]byte](ctx, p, "hubControl.backup") {
			if err != nil {
				return err
			}
			if _, err := w.Write(chunk); err != nil {
				return err
			}
		}
		return nil
	})
}

func backupFolder(ctx context.Context, g *globals, w io.Writer) (records int, err error) {
	dir := g.hubDir()
	if _, err := os.Stat(filepath.Join(dir, "registry")); err != nil {
		return 0, fmt.Errorf("there is no hub in %s; name another folder with --root", dir)
	}
	id, err := g.load(ctx, filepath.Join(dir, "secret"))
	if err != nil {
		return 0, err
	}
	archive, err := hub.Backup(ctx, dir, id, w)
	if errors.Is(err, registry.ErrLocked) {
		err = fmt.Errorf("%w; a hub is running that has no control socket: stop it, or choose a --root with a shorter name for it", err)
	}
	return archive.Records, err
}

func newHubRestore(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "restore FILE",
		Short: "make a hub of what backup has written",
		Long: `restore unpacks a backup ("-": from the standard input) into the folder "hub" below --root, which must be empty or not there
yet. Then "secretstack hub" runs it. Ids that were given after the backup come back by themselves, with the couriers that have
them; couriers of Secrez get theirs from the backup only.`,
		Example: "  secretstack hub restore hub-2030-01-31.tar --root /var/lib/secretstack",
		Args:    argsBetween(1, 1, "the name of the file to read"),
		RunE:    func(cmd *cobra.Command, args []string) error { return restoreHub(cmd.Context(), g, args[0]) },
	}
}

func restoreHub(ctx context.Context, g *globals, file string) error {
	if g.root == "" {
		return usagef("--root is empty")
	}
	in := g.in
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }()
		in = f
	}
	if err := os.MkdirAll(g.root, 0o700); err != nil {
		return err
	}
	archive, err := hub.Restore(ctx, in, g.hubDir())
	switch {
	case errors.Is(err, registry.ErrNotEmpty):
		return fmt.Errorf("there is something in %s; move it away, or choose another --root", g.hubDir())
	case errors.Is(err, hub.ErrBackup), errors.Is(err, registry.ErrArchive):
		return fmt.Errorf("%s is no sound backup: %s", file, plain(err))
	case err != nil:
		return err
	case g.json:
		return g.printJSON(map[string]any{"dir": g.hubDir(), "id": archive.Hub.Ref(), "records": archive.Records, "created": archive.Created})
	}
	fmt.Fprintf(g.out, "%s holds the hub %s, with %s, as it was on %s\n", g.hubDir(), archive.Hub.Short(),
		counted(archive.Records, "id"), archive.Created.Local().Format(time.DateTime))
	return nil
}

func newHubInvite(g *globals) *cobra.Command {
	var terms admission.Invite
	var lasts duration
	var list bool
	var revoke string
	cmd := &cobra.Command{
		Use:   "invite",
		Short: "make an invitation to the hub on this machine",
		Long: `invite makes an invitation for a hub that asks for one, and prints the link with which a person joins: it goes where the
hub's address would. The code in it is shown this once.`,
		Example: "  secretstack hub invite --uses 5 --lasts 7d --note 'the club'\n  secretstack hub invite --list",
		Args:    argsBetween(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case list:
				return listInvites(cmd.Context(), g)
			case revoke != "":
				_, err := ask[muxrpc.None](cmd.Context(), g, "revoke", revoke)
				return err
			}
			if terms.Uses < 1 || terms.Uses > admission.MaxUses {
				return usagef("--uses takes how many may use it, from 1 to %d, not %d", admission.MaxUses, terms.Uses)
			}
			if lasts > 0 {
				terms.Expires = time.Now().Add(time.Duration(lasts))
			}
			made, err := ask[hub.ControlInvite](cmd.Context(), g, "invite", terms)
			switch {
			case err != nil:
				return err
			case g.json:
				return g.printJSON(made)
			}
			fmt.Fprintln(g.out, made.Link)
			return nil
		},
	}
	flags := cmd.Flags()
	flags.IntVar(&terms.Uses, "uses", 1, "how many may use it")
	flags.Var(&lasts, "lasts", "how long it can be used, such as 7d (default: for ever)")
	flags.StringVar(&terms.Note, "note", "", "what it is for, for yourself")
	flags.BoolVar(&list, "list", false, "list the invitations instead")
	flags.StringVar(&revoke, "revoke", "", "end the invitation of this number instead")
	return cmd
}

func listInvites(ctx context.Context, g *globals) error {
	invites, err := ask[[]admission.Invite](ctx, g, "invites")
	if err != nil || g.json {
		return errors.Join(err, g.printJSON(invites))
	}
	if len(invites) == 0 {
		g.hint("There are no invitations. To make one: secretstack hub invite")
	}
	for _, i := range invites {
		state := counted(i.Left(time.Now()), "use") + " left"
		if i.Revoked {
			state = "revoked"
		}
		fmt.Fprintf(g.out, "%s  %d of %d used, %s  %s\n", i.ID, len(i.Members), i.Uses, state, printable(i.Note))
	}
	return nil
}

func newHubRule(g *globals) *cobra.Command {
	var remove bool
	cmd := &cobra.Command{
		Use:   "rule [RULE]",
		Short: "allow or deny somebody at the hub on this machine",
		Long: `rule makes a rule hold, also for those who are connected: 'deny' or 'allow', followed by a key, an id, an address or a network,
and if need be by 'until DATE' and '# NOTE'. Without a rule it lists those that there are.`,
		Example: "  secretstack hub rule 'deny 192.0.2.0/24'\n  secretstack hub rule --remove 192.0.2.0/24\n  secretstack hub rule",
		Args:    argsBetween(0, 1, "one rule, in quotes"),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case len(args) == 0 && !remove:
				return listRules(cmd.Context(), g)
			case len(args) == 0:
				return usagef("--remove takes whom the rule is about")
			case remove:
				return removeRule(cmd.Context(), g, args[0])
			}
			rule, err := admission.ParseRule(args[0])
			if err != nil {
				return usagef("%s", plain(err))
			}
			_, err = ask[muxrpc.None](cmd.Context(), g, "setRule", rule)
			return err
		},
	}
	cmd.Flags().BoolVar(&remove, "remove", false, "remove the rule about a key, an id, an address or a network instead")
	return cmd
}

func removeRule(ctx context.Context, g *globals, text string) error {
	subject, err := admission.ParseSubject(text)
	if err != nil {
		return usagef("%s", plain(err))
	}
	_, err = ask[muxrpc.None](ctx, g, "removeRule", subject)
	return err
}

func listRules(ctx context.Context, g *globals) error {
	rules, err := ask[[]admission.Rule](ctx, g, "rules")
	if err != nil || g.json {
		return errors.Join(err, g.printJSON(rules))
	}
	if len(rules) == 0 {
		g.hint("There are no rules. To make one: secretstack hub rule 'deny 192.0.2.0/24'")
	}
	var b bytes.Buffer
	for _, r := range rules {
		b.WriteString(printable(r.String()))
		if r.Fixed {
			b.WriteString("  (from the configuration)")
		}
		b.WriteByte('\n')
	}
	_, err = g.out.Write(b.Bytes())
	return err
}
