package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
)

// writeTable prints one line a peer, then what has to be known about each of them.
func writeTable(w io.Writer, rep report) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	notes := &footnotes{}
	_, _ = fmt.Fprintln(tw, "row\t\tunit\tours\tpeer\tfigure\tratio\ttarget\tmet")
	for _, r := range rep.Rows {
		writeRow(tw, r, notes)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	if err := notes.write(w); err != nil {
		return err
	}
	_, err := io.WriteString(w, warning(rep.Others))
	return err
}

func writeRow(w io.Writer, r result, notes *footnotes) {
	ours, peers := split(r.Peers)
	head := []string{r.Key, r.Title, r.Unit, ours.cell(notes)}
	line := func(cells ...string) {
		_, _ = fmt.Fprintln(w, strings.Join(append(head, cells...), "\t"))
		head = []string{"", "", "", ""}
	}
	for _, p := range peers {
		line(p.Name+notes.mark(p), figureCell(p), ratioCell(p), targetCell(p), metCell(p))
	}
	for _, g := range r.Gauges {
		line(g.Name, gaugeCell(g), "-", fmt.Sprintf("≤ %g", g.AtMost), yesNo(g.met()))
	}
	if len(peers)+len(r.Gauges) == 0 {
		line("-", "-", "-", "-", "-")
	}
}

// ourResult is our figure, if we were measured.
type ourResult []peerResult

func (o ourResult) cell(notes *footnotes) string {
	if len(o) == 0 {
		return "-"
	}
	return figureCell(o[0]) + notes.mark(o[0])
}

func split(all []peerResult) (ours ourResult, peers []peerResult) {
	for _, p := range all {
		if p.Ours {
			ours = append(ours, p)
		} else {
			peers = append(peers, p)
		}
	}
	return ours, peers
}

func gaugeCell(g gaugeResult) string {
	if g.Missing != "" {
		return "none: " + g.Missing
	}
	return strconv.FormatFloat(g.Value, 'f', 3, 64)
}

func figureCell(p peerResult) string {
	if p.Missing != "" {
		return "none"
	}
	if len(p.Rounds) == 0 && p.Median == 0 {
		return "-" // it does not tell this
	}
	return figure(p.Median)
}

func ratioCell(p peerResult) string {
	if p.Ratio == 0 {
		return "-"
	}
	return strconv.FormatFloat(p.Ratio, 'f', 2, 64)
}

func targetCell(p peerResult) string {
	if p.AtLeast == 0 {
		return "-"
	}
	return "≥ " + strconv.FormatFloat(p.AtLeast, 'f', 2, 64)
}

func metCell(p peerResult) string {
	switch {
	case p.AtLeast == 0:
		return "-"
	case p.Ratio == 0:
		return "not measured"
	default:
		return yesNo(p.met())
	}
}

func yesNo(met bool) string {
	if met {
		return "yes"
	}
	return "NO"
}

// figure writes 4190.3 as 4,190, 11.26 as 11.3 and 0.1472 as 0.147.
func figure(v float64) string {
	switch {
	case v < 1:
		return strconv.FormatFloat(v, 'f', 3, 64)
	case v < 10:
		return strconv.FormatFloat(v, 'f', 2, 64)
	case v < 100:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	digits := strconv.FormatFloat(v, 'f', 0, 64)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

// footnotes numbers what is said below the table; the same text has one number.
type footnotes struct{ texts []string }

func (f *footnotes) mark(p peerResult) string {
	marks := ""
	for _, text := range []string{p.Note, p.Missing} {
		if text != "" {
			marks += fmt.Sprintf(" [%d]", f.number(text))
		}
	}
	return marks
}

func (f *footnotes) number(text string) int {
	for i, known := range f.texts {
		if known == text {
			return i + 1
		}
	}
	f.texts = append(f.texts, text)
	return len(f.texts)
}

func (f *footnotes) write(w io.Writer) error {
	for i, text := range f.texts {
		if _, err := fmt.Fprintf(w, "[%d] %s\n", i+1, text); err != nil {
			return err
		}
	}
	return nil
}
