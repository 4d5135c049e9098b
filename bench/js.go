package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"
)

// nodeJS runs the JavaScript peers: scripts in a folder, with packages from npm that are installed there the first
// time they are needed.
type nodeJS struct {
	dir     string
	install func() error
}

func newNodeJS(dir string) *nodeJS {
	return &nodeJS{dir: dir, install: sync.OnceValue(func() error { return installPackages(dir) })}
}

var errNoNode = errors.New("node and npm are not installed")

// installPackages runs `npm ci` unless it has been run before.
func installPackages(dir string) error {
	for _, tool := range []string{"node", "npm"} {
		if _, err := exec.LookPath(tool); err != nil {
			return errNoNode
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "package-lock.json")); err != nil {
		return fmt.Errorf("the JavaScript peers are not in %q: run from the folder bench", dir)
	}
	// npm writes this file last.
	if _, err := os.Stat(filepath.Join(dir, "node_modules", ".package-lock.json")); err == nil {
		return nil
	}
	cmd := exec.Command("npm", "ci")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("npm ci in %s: %w\n%s", dir, err, out)
	}
	return nil
}

// script is a way of starting a peer: that many processes of `node FILE ARGS…`, whose rates add up.
type script struct {
	processes int
	env       []string
	args      []string
}

func (n *nodeJS) start(s script) func(context.Context) (meter, error) {
	return func(ctx context.Context) (meter, error) {
		if err := n.install(); err != nil {
			return nil, err
		}
		var m jsMeter
		for range s.processes {
			process, err := n.launch(ctx, s)
			if err != nil {
				drop(m)
				return nil, err
			}
			m = append(m, process)
		}
		return m, nil
	}
}

// jsMeter measures all its processes at the same time.
type jsMeter []*jsProcess

func (m jsMeter) Measure(ctx context.Context, d time.Duration) (float64, error) {
	rates := make([]float64, len(m))
	ends := make([]func() error, len(m))
	for i, process := range m {
		ends[i] = func() (err error) {
			rates[i], err = process.measure(ctx, d)
			return err
		}
	}
	err := together(func() {}, ends...)
	sum := 0.0
	for _, rate := range rates {
		sum += rate
	}
	return sum, err
}

func (m jsMeter) Close() error {
	var errs []error
	for _, process := range m {
		errs = append(errs, process.close())
	}
	return errors.Join(errs...)
}

// jsProcess is a node process that follows js/drive.js: a line in, a line out.
type jsProcess struct {
	cmd     *exec.Cmd
	in      io.WriteCloser
	answers chan jsAnswer // closed when the process has nothing more to say
}

type jsAnswer struct {
	Ready  bool    `json:"ready"`
	Crypto string  `json:"crypto"`
	Rate   float64 `json:"rate"`
	Error  string  `json:"error"`
}

const (
	jsStartTime = 30 * time.Second
	jsGrace     = 30 * time.Second // beyond the time that was asked for
)

func (n *nodeJS) launch(ctx context.Context, s script) (*jsProcess, error) {
	// The packages use what node has deprecated since; the warnings are about them, not about us.
	cmd := exec.CommandContext(ctx, "node", append([]string{"--no-deprecation"}, s.args...)...)
	cmd.Dir = n.dir
	cmd.Env = append(os.Environ(), s.env...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &jsProcess{cmd: cmd, in: in, answers: make(chan jsAnswer, 1)}
	go p.listen(out)
	ready, err := p.next(ctx, jsStartTime)
	if err == nil {
		err = ready.checkCrypto()
	}
	if err != nil {
		return nil, errors.Join(err, p.close())
	}
	return p, nil
}

// checkCrypto refuses to pass the slow JavaScript cryptography off as what the packages do with libsodium.
func (a jsAnswer) checkCrypto() error {
	if a.Crypto == "JavaScript" {
		return errors.New("chloride could not load sodium-native's prebuilt library on this machine")
	}
	return nil
}

func (p *jsProcess) listen(out io.Reader) {
	defer close(p.answers)
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		var a jsAnswer
		if err := json.Unmarshal(lines.Bytes(), &a); err != nil {
			a = jsAnswer{Error: lines.Text()}
		}
		p.answers <- a
	}
}

func (p *jsProcess) measure(ctx context.Context, d time.Duration) (float64, error) {
	if _, err := fmt.Fprintf(p.in, `{"seconds":%g}`+"\n", d.Seconds()); err != nil {
		return 0, err
	}
	a, err := p.next(ctx, d+jsGrace)
	if err == nil && a.Rate <= 0 {
		err = fmt.Errorf("node measured %g", a.Rate)
	}
	return a.Rate, err
}

func (p *jsProcess) next(ctx context.Context, d time.Duration) (jsAnswer, error) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case a, ok := <-p.answers:
		if !ok {
			return a, errors.New("node ended by itself")
		}
		if a.Error != "" {
			return a, errors.New("node: " + a.Error)
		}
		return a, nil
	case <-timer.C:
		return jsAnswer{}, fmt.Errorf("node said nothing for %v", d)
	case <-ctx.Done():
		return jsAnswer{}, ctx.Err()
	}
}

// close ends the process: the script does so by itself when its input ends, and is killed if it does not.
func (p *jsProcess) close() error {
	drop(p.in)
	kill := time.AfterFunc(2*time.Second, func() { _ = p.cmd.Process.Kill() })
	defer kill.Stop()
	for range p.answers {
	}
	return p.cmd.Wait()
}
