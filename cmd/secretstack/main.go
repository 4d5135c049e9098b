// Command secretstack runs hubs and peers, and calls them. Every command explains itself with --help.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
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
	context.AfterFunc(ctx, stop) // a second Ctrl-C kills, whatever is stuck
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
	root.SetArgs(guardNumbers(root, args))
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	return s.fail(err, cmd.CommandPath())
}

// fail prints why a command has failed and returns its exit code.
func (s streams) fail(err error, command string) int {
	var usage *usageError
	if !errors.As(err, &usage) && !isCobraUsage(err) {
		fmt.Fprintln(s.err, "secretstack:", strings.ReplaceAll(plain(err), "\n", "\n  ")) // only the first line says who speaks
		return exitFailed
	}
	line, _, _ := strings.Cut(plain(err), "\n")
	fmt.Fprintf(s.err, "secretstack: %s (see %s --help)\n", line, command)
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

// guardNumbers puts a space before the negative numbers among the arguments of call. To JSON the space is nothing, but
// without it they would be taken for flags.
func guardNumbers(root *cobra.Command, args []string) []string {
	cmd, _, err := root.Find(args)
	if err != nil || cmd.Name() != "call" {
		return args
	}
	guarded := slices.Clone(args)
	for i, arg := range args {
		if arg == "--" {
			break
		}
		if len(arg) > 1 && arg[0] == '-' && '0' <= arg[1] && arg[1] <= '9' && (i == 0 || !takesNext(cmd, args[i-1])) {
			guarded[i] = " " + arg
		}
	}
	return guarded
}

// takesNext reports whether arg is a flag whose value is the argument after it.
func takesNext(cmd *cobra.Command, arg string) bool {
	name, long := strings.CutPrefix(arg, "--")
	flag := cmd.Flag(name)
	return long && flag != nil && flag.NoOptDefVal == ""
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
