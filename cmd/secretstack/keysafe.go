package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/keys/words"
)

func newKeysExport(g *globals) *cobra.Command {
	weak := false
	cmd := &cobra.Command{
		Use:   "export FILE",
		Short: "write your identity to a file, protected by a passphrase",
		Long: `export writes your identity to a new file that nobody can use without the passphrase that it asks for, or takes from
the environment variable ` + envPassphrase + `. Contacts, messages and keys that rotate has replaced are not in it: to move
everything to another machine, stop the courier and copy the folder --root.`,
		Args: argsBetween(1, 1, "the file to write"),
		RunE: func(cmd *cobra.Command, args []string) error { return exportKeys(cmd.Context(), g, args[0], weak) },
	}
	cmd.Flags().BoolVar(&weak, "weak", false, fmt.Sprintf("take a passphrase of fewer than %d characters", leastPassphrase))
	return cmd
}

// leastPassphrase is how many characters the passphrase of an exported identity has, which may get into anybody's hands.
const leastPassphrase = 8

// notWeak refuses a passphrase that is soon guessed.
func notWeak(ask func() ([]byte, error)) func() ([]byte, error) {
	return func() ([]byte, error) {
		p, err := ask()
		if err == nil && utf8.RuneCount(p) < leastPassphrase {
			clear(p)
			return nil, fmt.Errorf("a passphrase for export has at least %d characters, better some words; --weak takes a shorter one", leastPassphrase)
		}
		return p, err
	}
}

func exportKeys(ctx context.Context, g *globals, path string, weak bool) error {
	id, err := g.load(ctx, g.secretFile())
	if err != nil {
		return noIdentity(g, err)
	}
	passphrase := g.newPassphrase(ctx)
	if !weak {
		passphrase = notWeak(passphrase)
	}
	err = keys.Save(path, id, keys.FileOptions{Passphrase: passphrase})
	if errors.Is(err, fs.ErrExist) {
		return usagef("there is a file %s; choose another name", path)
	}
	if err != nil {
		return err
	}
	return reportIdentity(g, id, path)
}

// noIdentity says what to do where there is none.
func noIdentity(g *globals, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("there is no identity in %s; keys makes one", g.root)
	}
	return err
}

func reportIdentity(g *globals, id *keys.Identity, path string) error {
	if g.json {
		return g.printJSON(map[string]any{"id": id.Public().Ref(), "file": path})
	}
	_, err := fmt.Fprintln(g.out, id.Public().Ref())
	return err
}

func newKeysImport(g *globals) *cobra.Command {
	var fromWords, protect bool
	cmd := &cobra.Command{
		Use:   "import [FILE]",
		Short: "take over an identity from a file or from its recovery words",
		Long: `import takes over the identity in a file, as export or ssb-keys write it, or with --words the one whose 24 recovery
words come on standard input. There must be no identity yet: one that is there is never replaced.`,
		Example: "  secretstack keys import backup.secret\n  secretstack keys import --words",
		Args:    argsBetween(0, 1, "the file to read"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if fromWords != (len(args) == 0) {
				return usagef("import takes either a file or --words")
			}
			return importKeys(cmd.Context(), g, args, protect)
		},
	}
	cmd.Flags().BoolVar(&fromWords, "words", false, "read recovery words from standard input")
	cmd.Flags().BoolVar(&protect, "passphrase", false, "ask for a passphrase that protects the identity here")
	return cmd
}

func importKeys(ctx context.Context, g *globals, args []string, protect bool) error {
	if err := checkFolder(g.root); err != nil {
		return err
	}
	if _, err := os.Lstat(g.secretFile()); err == nil {
		return fmt.Errorf("%s is there already and is not replaced; choose another folder with --root", g.secretFile())
	}
	id, err := readIdentity(ctx, g, args)
	if err != nil {
		return err
	}
	var opts keys.FileOptions
	if protect || os.Getenv(envPassphrase) != "" {
		opts.Passphrase = g.newPassphrase(ctx)
	}
	if err := keys.Save(g.secretFile(), id, opts); err != nil {
		return err
	}
	if err := reportIdentity(g, id, g.secretFile()); err != nil {
		return err
	}
	if !g.json {
		g.hint(fmt.Sprintf(`Contacts and messages have not come along. To move them, too, stop the courier there and copy its folder "courier" into
%s before you start one here. Only one machine at a time can run your courier.`, g.root))
	}
	return nil
}

func readIdentity(ctx context.Context, g *globals, args []string) (*keys.Identity, error) {
	if len(args) == 1 {
		id, err := g.load(ctx, args[0])
		if errors.Is(err, fs.ErrNotExist) {
			return nil, usagef("there is no file %s", args[0])
		}
		return id, err
	}
	if isTerminal(g.in) {
		fmt.Fprintln(g.err, "Type the 24 words; Ctrl-D ends them.")
	}
	text, err := readUntil(ctx, func() ([]byte, error) { return io.ReadAll(io.LimitReader(g.in, 4096)) })
	if err != nil {
		return nil, err
	}
	defer clear(text)
	seed, err := words.ToSeed(string(text))
	if err != nil {
		return nil, err
	}
	defer clear(seed)
	return keys.FromSeed(seed)
}

func newKeysWords(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "words",
		Short: "show the 24 words from which your identity can be made again",
		Long: `words shows your identity as 24 English words. Write them on paper and keep it where nobody else looks: whoever reads
them is you. "keys import --words" makes the identity again from them.`,
		Args: argsBetween(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			id, err := g.load(cmd.Context(), g.secretFile())
			if err != nil {
				return noIdentity(g, err)
			}
			seed := id.Seed()
			defer clear(seed)
			text, err := words.FromSeed(seed)
			if err != nil {
				return err
			}
			if g.json {
				return g.printJSON(map[string]any{"id": id.Public().Ref(), "words": text})
			}
			_, err = fmt.Fprintln(g.out, text)
			return err
		},
	}
}

func newKeysRotate(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "rotate",
		Short: "change to a new key, and tell your contacts",
		Long: `rotate makes a new identity in place of yours. The next time your courier starts, it tells each contact so, with a
statement that the old key signs: they go on knowing you, and messages that are on their way are not lost. Your id at hubs
stays: they give it to the new key, and nothing to the old one any more. The old secret stays beside the new one, as secret.1, secret.2 and so on, to read what was sealed for it.

A key that was stolen can make such statements, too. If it was, meet your contacts and give them a new card.`,
		Args: argsBetween(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error { return rotateKeys(cmd.Context(), g) },
	}
}

func rotateKeys(ctx context.Context, g *globals) error {
	passphrase := g.passphraseOnce(ctx)
	old, err := keys.Load(g.secretFile(), keys.FileOptions{Passphrase: passphrase.ask})
	if err != nil {
		return noIdentity(g, err)
	}
	id, err := keys.Generate()
	if err != nil {
		return err
	}
	var opts keys.FileOptions
	if passphrase.asked != nil {
		opts.Passphrase = passphrase.ask
	}
	if err := g.replaceSecret(id, opts); err != nil {
		return err
	}
	fmt.Fprintf(g.err, "The new key takes the place of %s. If your courier is running, start it again.\n", old.Public())
	return reportIdentity(g, id, g.secretFile())
}

// replaceSecret puts a new secret file in the place of the old one, which stays under another name. At each moment there
// is a secret file.
func (g *globals) replaceSecret(id *keys.Identity, opts keys.FileOptions) error {
	next := g.secretFile() + ".next"
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) { // left by one that was interrupted
		return err
	}
	if err := keys.Save(next, id, opts); err != nil {
		return err
	}
	for n := 1; ; n++ {
		err := os.Link(g.secretFile(), g.formerFile(n))
		if err == nil {
			break
		}
		if !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return os.Rename(next, g.secretFile())
}

// oncePassphrase remembers the passphrase that it has asked for.
type oncePassphrase struct {
	first func() ([]byte, error)
	asked []byte
}

func (g *globals) passphraseOnce(ctx context.Context) *oncePassphrase {
	return &oncePassphrase{first: g.askPassphrase(ctx)}
}

func (o *oncePassphrase) ask() ([]byte, error) {
	if o.asked == nil {
		p, err := o.first()
		if err != nil {
			return nil, err
		}
		o.asked = p
	}
	return slices.Clone(o.asked), nil
}
