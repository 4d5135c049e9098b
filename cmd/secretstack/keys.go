package main

import (
	"encoding/json"
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
		Long: `keys shows the public key that names you, and the file that holds the secret one. Whoever has that file is you:
keep a copy where nobody else finds it. Without a file, keys makes a new identity.`,
		Example: "  secretstack keys\n  secretstack keys --passphrase   # protect a new identity with a passphrase",
		Args:    argsBetween(0, 0, "no arguments"),
		RunE: func(*cobra.Command, []string) error {
			return showKeys(g, protect)
		},
	}
	cmd.Flags().BoolVar(&protect, "passphrase", false, "ask for a passphrase that protects the new secret file")
	return cmd
}

func showKeys(g *globals, protect bool) error {
	id, created, err := loadOrMake(g, protect)
	if err != nil {
		return err
	}
	if g.json {
		return json.NewEncoder(g.out).Encode(map[string]any{
			"id": id.Public().Ref(), "file": g.secretFile(), "created": created,
		})
	}
	fmt.Fprintln(g.out, id.Public().Ref())
	if created && isTerminal(g.out) {
		fmt.Fprintf(g.err, "This is your new identity. Its secret is in %s: keep a copy in a safe place.\n", g.secretFile())
	}
	return nil
}

func loadOrMake(g *globals, protect bool) (id *keys.Identity, created bool, err error) {
	id, err = keys.Load(g.secretFile(), keys.FileOptions{Passphrase: g.askPassphrase})
	if err == nil && protect {
		return nil, false, usagef("--passphrase is for a new identity, and %s exists", g.secretFile())
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return id, false, err
	}
	var opts keys.FileOptions
	if protect {
		opts.Passphrase = g.newPassphrase
	}
	id, err = keys.LoadOrCreate(g.secretFile(), opts)
	return id, err == nil, err
}

// newPassphrase asks twice, since nobody sees what is typed.
func (g *globals) newPassphrase() ([]byte, error) {
	first, err := g.askPassphrase()
	if err != nil || os.Getenv(envPassphrase) != "" {
		return first, err
	}
	second, err := g.prompt("The same again: ")
	if err != nil {
		return nil, err
	}
	if string(first) != string(second) {
		return nil, errors.New("the two passphrases differ: nothing was written")
	}
	return first, nil
}
