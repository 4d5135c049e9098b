package main

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// liveLine is the last line of a terminal, which changes while something goes on. Where there is no terminal, nobody sees it.
type liveLine struct {
	w        io.Writer
	terminal bool

	mu   sync.Mutex
	text string // guarded by mu
}

func newLiveLine(w io.Writer) *liveLine { return &liveLine{w: w, terminal: isTerminal(w)} }

// show changes the line.
func (l *liveLine) show(text string) {
	if !l.terminal {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if text != l.text {
		fmt.Fprint(l.w, "\r\x1b[K", text)
		l.text = text
	}
}

// log puts a line above it. Without a terminal it is a line like any other. Others' words in it cannot make a second one.
func (l *liveLine) log(text string) {
	text = printable(text)
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.terminal {
		fmt.Fprintln(l.w, text)
		return
	}
	fmt.Fprint(l.w, "\r\x1b[K", text, "\n", l.text)
}

// end takes the line away.
func (l *liveLine) end() { l.show("") }

// traffic is how much goes on: connections that are open, and bytes so far.
type traffic struct {
	mu             sync.Mutex
	open, all      int
	sent, received uint64
	at             time.Time
	rate           float64 // bytes a second, either way
}

// opened and closed count connections.
func (t *traffic) opened() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.open++
	t.all++
}

func (t *traffic) closed() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.open--
}

// passed says how many bytes there have been by now.
func (t *traffic) passed(now time.Time, sent, received uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if took := now.Sub(t.at).Seconds(); took > 0 && !t.at.IsZero() {
		t.rate = float64(sent-t.sent+received-t.received) / took
	}
	t.sent, t.received, t.at = sent, received, now
}

// String is the text of the live line.
func (t *traffic) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var b strings.Builder
	switch {
	case t.all == 0:
		return "waiting for connections"
	case t.open == 1:
		b.WriteString("1 connection")
	default:
		fmt.Fprintf(&b, "%d connections", t.open)
	}
	fmt.Fprintf(&b, ", %d in all, sent %s, received %s", t.all, amount(t.sent), amount(t.received))
	if t.rate >= 1 {
		fmt.Fprintf(&b, ", %s/s", amount(uint64(t.rate)))
	}
	return b.String()
}

// amount writes a number of bytes.
func amount(n uint64) string {
	const unit = 1000
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	value, prefix := float64(n)/unit, 0
	for value >= 999.95 && prefix < len("kMGTP")-1 {
		value /= unit
		prefix++
	}
	return fmt.Sprintf("%.1f %cB", value, "kMGTP"[prefix])
}
