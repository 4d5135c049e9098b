package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"github.com/secretstack/secretstack/keys"
)

func newKeys(g *globals) *cobra.Command {
	var protect bool
	cmd := &cobra.Command{
		Use:   "keys",
		Short: "show your identity; make one first if there is none",
		Long: `keys prints the public key that names you; --json also names the file that holds the secret one, which is
"secret" in the folder --root. Whoever has that file is you: keep a copy where nobody else finds it. Without a file, keys
makes a new identity. The identity of a hub is in the folder "hub" below --root: keys --root ROOT/hub prints it.

A secret file may be protected by a passphrase. Every command asks for it, or takes it from the environment variable
` + envPassphrase + `; a new secret file is protected whenever that is set.`,
		Example: "  secretstack keys\n  secretstack keys --passphrase   # protect a new identity with a passphrase",
		Args:    argsBetween(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return showKeys(cmd.Context(), g, protect)
		},
	}
	cmd.AddCommand(newKeysExport(g), newKeysImport(g), newKeysWords(g), newKeysRotate(g))
	cmd.Flags().BoolVar(&protect, "passphrase", false, "ask for a passphrase that protects the new secret file")
	return cmd
}

func showKeys(ctx context.Context, g *globals, protect bool) error {
	id, created, err := loadOrMake(ctx, g, protect)
	if err != nil {
		return err
	}
	if g.json {
		return g.printJSON(map[string]any{
			"id": id.Public().Ref(), "file": g.secretFile(), "created": created,
		})
	}
	fmt.Fprintln(g.out, id.Public().Ref())
	if created && isTerminal(g.out) {
		fmt.Fprintf(g.err, "This is your new identity. Its secret is in %s: keep a copy in a safe place.\n", g.secretFile())
	}
	return nil
}

func loadOrMake(ctx context.Context, g *globals, protect bool) (id *keys.Identity, created bool, err error) {
	if err := checkFolder(g.root); err != nil {
		return nil, false, err
	}
	_, err = os.Lstat(g.secretFile())
	created = errors.Is(err, fs.ErrNotExist)
	if protect && !created {
		return nil, false, usagef("--passphrase is for a new identity, and %s exists", g.secretFile())
	}
	if protect {
		id, err = keys.LoadOrCreate(g.secretFile(), keys.FileOptions{Passphrase: g.newPassphrase(ctx)})
	} else {
		id, err = g.identityIn(ctx, g.root)
	}
	if errors.Is(err, errInterrupted) {
		err = errInterrupted
	}
	return id, created, err
}

// newPassphrase asks twice, since nobody sees what is typed.
func (g *globals) newPassphrase(ctx context.Context) func() ([]byte, error) {
	return func() ([]byte, error) {
		first, err := g.askPassphrase(ctx)()
		if err != nil || os.Getenv(envPassphrase) != "" {
			return first, err
		}
		second, err := g.prompt(ctx, "The same again: ")
		if err != nil {
			return nil, err
		}
		if string(first) != string(second) {
			return nil, errors.New("the two passphrases differ: nothing was written")
		}
		return first, nil
	}
}
