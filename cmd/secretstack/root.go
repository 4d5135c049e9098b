package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
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
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })
	flags := root.PersistentFlags()
	flags.StringVar(&g.root, "root", defaultRoot(), "folder for identity and data (environment: "+envRoot+")")
	flags.StringVar(&g.appKey, "app-key", os.Getenv(envAppKey), "app key of the network in base64 (environment: "+envAppKey+"; default: the main network)")
	flags.BoolVar(&g.json, "json", false, "print JSON, for programs")
	flags.BoolVarP(&g.verbose, "verbose", "v", false, "log what happens")
	flags.Lookup("app-key").DefValue = ""
	root.AddCommand(newHub(g), newServe(g), newCall(g), newKeys(g), newMan())
	return root
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

// identityIn loads the identity of a folder, or makes one.
func (g *globals) identityIn(dir string) (*keys.Identity, error) {
	path := filepath.Join(dir, "secret")
	id, err := keys.Load(path, keys.FileOptions{Passphrase: g.askPassphrase})
	if !errors.Is(err, fs.ErrNotExist) {
		return id, err
	}
	return keys.LoadOrCreate(path, keys.FileOptions{})
}

func (g *globals) networkKey() (keys.AppKey, error) {
	if g.appKey == "" {
		return keys.MainNet(), nil
	}
	k, err := keys.ParseAppKey(g.appKey)
	if err != nil {
		return k, usagef("--app-key: %w", err)
	}
	return k, nil
}

// askPassphrase takes the passphrase of a protected secret file from the environment or from the terminal.
func (g *globals) askPassphrase() ([]byte, error) {
	if p := os.Getenv(envPassphrase); p != "" {
		return []byte(p), nil
	}
	return g.prompt("Passphrase: ")
}

func (g *globals) prompt(text string) ([]byte, error) {
	tty, ok := g.in.(*os.File)
	if !ok || !term.IsTerminal(int(tty.Fd())) {
		return nil, fmt.Errorf("the secret file needs a passphrase: run this in a terminal or set %s", envPassphrase)
	}
	fmt.Fprint(g.err, text)
	p, err := term.ReadPassword(int(tty.Fd()))
	fmt.Fprintln(g.err)
	return p, err
}

// logger writes to the error stream: everything with --verbose, otherwise warnings and worse.
func (g *globals) logger() *slog.Logger {
	level := slog.LevelWarn
	if g.verbose {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(g.err, &slog.HandlerOptions{Level: level}))
}

// isTerminal reports whether a person reads w.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
