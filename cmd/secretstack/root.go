package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/secretstack/secretstack/keys"
)

// Environment variables that stand in for flags.
const (
	envRoot       = "SECRETSTACK_ROOT"
	envAppKey     = "SECRETSTACK_APP_KEY"
	envPassphrase = "SECRETSTACK_PASSPHRASE"
)

// globals are the flags of every command, and where it reads and writes.
type globals struct {
	streams
	root    string
	appKey  string
	json    bool
	verbose bool

	rootFlag, appKeyFlag *pflag.Flag
}

func newRoot(s streams) *cobra.Command {
	g := &globals{streams: s}
	root := &cobra.Command{
		Use:   "secretstack",
		Short: "secure peer-to-peer networks, and the hub that carries what it cannot read",
		Long: `secretstack runs hubs and peers, and calls them.

  secretstack hub                          run a hub
  secretstack serve --hub ADDRESS          run a peer that others reach through the hub
  secretstack call ADDRESS METHOD [JSON…]  call a peer's method

  secretstack courier                      run your courier, which sends and takes messages for you
  secretstack whoami                       show your contact card, for those who want to write to you
  secretstack contact add NAME CARD        make somebody a contact
  secretstack chat NAME                    talk
  secretstack share 3000 --allow NAME      let a contact use a service of this machine
  secretstack connect NAME/3000 9000       use it there, at a port of your own

Addresses look like net:HOST:PORT~shs:KEY; hub and serve print theirs.`,
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
		// Only the bare command gets here: cobra has refused unknown words before.
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		Args: cobra.NoArgs,
	}
	root.SetIn(s.in)
	root.SetOut(s.out)
	root.SetErr(s.err)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return explainFlag(err) })
	flags := root.PersistentFlags()
	flags.StringVar(&g.root, "root", defaultRoot(), "folder for identity and data (environment: "+envRoot+")")
	flags.StringVar(&g.appKey, "app-key", os.Getenv(envAppKey), "app key of the network in base64 (environment: "+envAppKey+"; default: the main network)")
	flags.BoolVar(&g.json, "json", false, "print JSON, for programs")
	flags.BoolVarP(&g.verbose, "verbose", "v", false, "log what happens")
	g.rootFlag, g.appKeyFlag = flags.Lookup("root"), flags.Lookup("app-key")
	g.appKeyFlag.DefValue = ""
	root.AddCommand(newHub(g), newServe(g), newCall(g), newKeys(g), newMan(),
		newCourier(g), newContact(g), newSend(g), newChat(g), newMessages(g), newWhoami(g), newStatus(g), newDoctor(g), newShare(g), newConnect(g))
	refuseUnknown(root)
	return root
}

// refuseUnknown makes cobra's own commands refuse words that they do not know, as ours do.
func refuseUnknown(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, cmd := range root.Commands() {
		switch cmd.Name() {
		case "help":
			cmd.Args = func(_ *cobra.Command, args []string) error {
				if _, rest, err := root.Find(args); err != nil || len(rest) > 0 {
					return usagef("there is no command %q", strings.Join(args, " "))
				}
				return nil
			}
		case "completion":
			cmd.Args = cobra.NoArgs
			cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
		}
	}
}

// explainFlag says what a flag takes; the parsers of numbers only say what their functions are called.
func explainFlag(err error) error {
	invalid, ok := errors.AsType[*pflag.InvalidValueError](err)
	if !ok {
		return &usageError{err}
	}
	flag, value := invalid.GetFlag(), invalid.GetValue()
	switch flag.Value.Type() {
	case "uint16":
		return usagef("--%s takes a number from 0 to 65535, not %q", flag.Name, value)
	case "int", "int64":
		return usagef("--%s takes a number, not %q", flag.Name, value)
	case "duration":
		return usagef("--%s takes a time such as 5s, 12h or 7d, not %q", flag.Name, value)
	}
	return &usageError{err}
}

func defaultRoot() string {
	if dir := os.Getenv(envRoot); dir != "" {
		return dir
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return ".secretstack"
	}
	return filepath.Join(home, ".secretstack")
}

func (g *globals) secretFile() string { return filepath.Join(g.root, "secret") }

// rootGiven reports whether somebody has chosen the folder.
func (g *globals) rootGiven() bool { return g.rootFlag.Changed || os.Getenv(envRoot) != "" }

// checkFolder makes the folder for identity and data, so that a bad one is told apart from a bad identity.
func checkFolder(dir string) error {
	if dir == "" {
		return usagef("--root is empty")
	}
	err := os.MkdirAll(dir, 0o700)
	switch cause, _ := errors.AsType[*fs.PathError](err); {
	case err == nil:
		return nil
	case cause == nil || errors.Is(err, syscall.ENOTDIR):
		return usagef("--root %s is no folder; choose another with --root", dir)
	default:
		return usagef("--root %s cannot be made: %s; choose another with --root", dir, cause.Err)
	}
}

// identityIn loads the identity of a folder, or makes one. A passphrase in the environment protects the new one, too.
func (g *globals) identityIn(ctx context.Context, dir string) (*keys.Identity, error) {
	path := filepath.Join(dir, "secret")
	id, err := g.load(ctx, path)
	if !errors.Is(err, fs.ErrNotExist) {
		return id, err
	}
	var opts keys.FileOptions
	if os.Getenv(envPassphrase) != "" {
		opts.Passphrase = g.askPassphrase(ctx)
	}
	return keys.LoadOrCreate(path, opts)
}

// load loads an identity and says in a person's words what is wrong with the passphrase.
func (g *globals) load(ctx context.Context, path string) (*keys.Identity, error) {
	id, err := keys.Load(path, keys.FileOptions{Passphrase: g.askPassphrase(ctx)})
	switch {
	case errors.Is(err, errInterrupted):
		return nil, errInterrupted
	case errors.Is(err, keys.ErrPassphrase):
		return nil, fmt.Errorf("wrong passphrase for %s", path)
	}
	return id, err
}

// networkKey is the app key that somebody has chosen, else the zero one, so that a configuration can name another.
func (g *globals) networkKey() (keys.AppKey, error) {
	if g.appKey == "" {
		return keys.AppKey{}, nil
	}
	k, err := keys.ParseAppKey(g.appKey)
	if err == nil {
		return k, nil
	}
	from := "--app-key"
	if !g.appKeyFlag.Changed {
		from = envAppKey
	}
	return k, usagef("%s: %s", from, plain(err))
}

// errInterrupted is the error of a question that Ctrl-C has ended.
var errInterrupted = errors.New("interrupted")

// askPassphrase takes the passphrase of a protected secret file from the environment or from the terminal.
func (g *globals) askPassphrase(ctx context.Context) func() ([]byte, error) {
	return func() ([]byte, error) {
		if p := os.Getenv(envPassphrase); p != "" {
			return []byte(p), nil
		}
		return g.prompt(ctx, "Passphrase: ")
	}
}

func (g *globals) prompt(ctx context.Context, text string) ([]byte, error) {
	tty, ok := g.in.(*os.File)
	if !ok || !term.IsTerminal(int(tty.Fd())) {
		return nil, fmt.Errorf("the secret file needs a passphrase: run this in a terminal or set %s", envPassphrase)
	}
	fd := int(tty.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return nil, err
	}
	fmt.Fprint(g.err, text)
	defer fmt.Fprintln(g.err)
	p, err := readUntil(ctx, func() ([]byte, error) { return term.ReadPassword(fd) })
	if errors.Is(err, errInterrupted) {
		return nil, errors.Join(err, term.Restore(fd, before))
	}
	if err == nil && len(p) == 0 {
		return nil, errors.New("the passphrase is empty")
	}
	return p, err
}

// readUntil ends with ctx although read does not: nothing can interrupt a read from a terminal.
func readUntil(ctx context.Context, read func() ([]byte, error)) ([]byte, error) {
	type answer struct {
		text []byte
		err  error
	}
	answers := make(chan answer, 1)
	go func() {
		text, err := read()
		answers <- answer{text, err}
	}()
	select {
	case a := <-answers:
		return a.text, a.err
	case <-ctx.Done():
		return nil, errInterrupted
	}
}

// logger writes to the error stream: everything with --verbose, otherwise warnings and worse.
func (g *globals) logger() *slog.Logger {
	level := slog.LevelWarn
	if g.verbose {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(g.err, &slog.HandlerOptions{Level: level}))
}

// hint tells a person what to do next; a program that reads the output is not told.
func (g *globals) hint(text string) {
	if isTerminal(g.out) {
		fmt.Fprintln(g.err, text)
	}
}

// isTerminal reports whether a person is at the other end of a stream.
func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
