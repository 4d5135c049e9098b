// Command bench measures secretstack beside its peers, in one run on one machine, and prints a table.
//
//	go run .
//
// Flags choose rows (-only 1,3a), peers (-peer secretstack), the length of a round (-seconds), the number of rounds
// (-rounds) and the output (-json). README.md tells how to read the table.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"runtime/pprof"
	"strings"
	"time"
)

type options struct {
	only    []string
	asJSON  bool
	profile string
	heap    string
	js      string
	plan    plan

	hubProfile string
}

func main() {
	if playRole() {
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	opts, err := parseFlags(os.Args[1:], os.Stderr)
	if err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return
		}
		os.Exit(2) // the flag package has said what is wrong
	}
	if err := run(ctx, opts, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func parseFlags(args []string, stderr io.Writer) (options, error) {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	only := flags.String("only", "", "measure only these `rows`, for example 1,3a (3 means 3a and 3b)")
	var peer *regexp.Regexp
	flags.Func("peer", "measure only peers whose name matches the `regexp`", func(text string) (err error) {
		peer, err = regexp.Compile(text)
		return err
	})
	seconds := flags.Float64("seconds", 1, "`length` of a round")
	rounds := flags.Int("rounds", 5, "`number` of rounds that count")
	asJSON := flags.Bool("json", false, "print every round as JSON instead of the table")
	quiet := flags.Bool("quiet", false, "do not tell about the rounds on standard error")
	profile := flags.String("cpuprofile", "", "write a CPU profile to `file`; use it with -only and -peer")
	heap := flags.String("memprofile", "", "write a heap profile of our server in the rows idle and 8 to `file`")
	hubProfile := flags.String("hubprofile", "", "write a CPU profile of our hub, a process of its own, to `file`")
	js := flags.String("js", "js", "`folder` of the JavaScript peers")
	if err := flags.Parse(args); err != nil {
		return options{}, err
	}
	opts := options{asJSON: *asJSON, profile: *profile, heap: *heap, js: *js, hubProfile: *hubProfile}
	opts.plan = plan{Round: time.Duration(*seconds * float64(time.Second)), Rounds: *rounds, Peer: peer}
	opts.plan.Say = func(format string, args ...any) { _, _ = fmt.Fprintf(stderr, format+"\n", args...) }
	if *quiet {
		opts.plan.Say = func(string, ...any) {}
	}
	if *only != "" {
		opts.only = strings.Split(*only, ",")
	}
	if opts.plan.Round <= 0 || opts.plan.Rounds <= 0 {
		err := errors.New("-seconds and -rounds must be more than 0")
		_, _ = fmt.Fprintln(stderr, err)
		return options{}, err
	}
	return opts, nil
}

func run(ctx context.Context, opts options, out io.Writer) error {
	rows, err := selectRows(allRows(opts.js, opts.heap), opts.only)
	if err != nil {
		return err
	}
	if opts.hubProfile != "" {
		if err := os.Setenv(hubProfileVariable, opts.hubProfile); err != nil {
			return err
		}
	}
	stopProfile, err := startProfile(opts.profile)
	if err != nil {
		return err
	}
	before, errTicks := readCPUTicks()
	var rep report
	for _, r := range rows {
		opts.plan.Say("row %s: %s, %s", r.Key, r.Title, r.Unit)
		rep.Rows = append(rep.Rows, measureRow(ctx, r, opts.plan)...)
	}
	if after, err := readCPUTicks(); err == nil && errTicks == nil {
		rep.Others = after.busyWithOthers(before)
	}
	if err := errors.Join(stopProfile(), ctx.Err()); err != nil {
		return err
	}
	if opts.asJSON {
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		return enc.Encode(rep)
	}
	return writeTable(out, rep)
}

// report is what a run prints.
type report struct {
	Rows []result `json:"rows"`
	// Others is which part of the machine other programs took during the run, from 0 to 1.
	Others float64 `json:"busy_with_others"`
}

func startProfile(path string) (stop func() error, err error) {
	if path == "" {
		return func() error { return nil }, nil
	}
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() error {
		pprof.StopCPUProfile()
		return f.Close()
	}, nil
}
