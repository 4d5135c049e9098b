// Command secretstack runs hubs and peers, and calls them. Every command explains itself with --help.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// version is what the commands print; release builds set it with -ldflags "-X main.version=…".
var version = "0.1.0-dev"

// Exit codes, the same for every command.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], streams{os.Stdin, os.Stdout, os.Stderr})
	stop()
	os.Exit(code)
}

// streams are what a command reads from and writes to.
type streams struct {
	in       io.Reader
	out, err io.Writer
}

// run executes one command line and returns its exit code.
func run(ctx context.Context, args []string, s streams) int {
	root := newRoot(s)
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	var usage *usageError
	if !errors.As(err, &usage) && !isCobraUsage(err) {
		fmt.Fprintln(s.err, "secretstack:", plain(err))
		return exitFailed
	}
	line, _, _ := strings.Cut(plain(err), "\n")
	fmt.Fprintf(s.err, "secretstack: %s (see %s --help)\n", line, cmd.CommandPath())
	return exitUsage
}

// usageError is a mistake in the command line: the exit code is 2.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error {
	return &usageError{fmt.Errorf(format, args...)}
}

// isCobraUsage recognises the errors that cobra makes itself before any command of ours has run.
func isCobraUsage(err error) bool {
	return strings.HasPrefix(err.Error(), "unknown command")
}

// plain returns the text of err without the names of our packages, which tell a person nothing.
func plain(err error) string {
	return strings.NewReplacer("secretstack: ", "", "multiserver: ", "", "muxrpc: ", "", "keys: ", "").Replace(err.Error())
}

// argsBetween accepts from least to most arguments (most < 0: any number); what names them for a person.
func argsBetween(least, most int, what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) < least {
			return usagef("something is missing: it takes %s", what)
		}
		if most >= 0 && len(args) > most {
			return usagef("%q is too much: it takes %s", args[most], what)
		}
		return nil
	}
}
