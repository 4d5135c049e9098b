package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// cpuTicks is CPU time since boot, of all programs and of this one with the processes that it has waited for, in the
// kernel's ticks.
type cpuTicks struct{ capacity, busy, own float64 }

// readCPUTicks reads Linux's counters; on other systems it fails.
func readCPUTicks() (cpuTicks, error) {
	system, errSystem := os.ReadFile("/proc/stat")
	own, errOwn := os.ReadFile("/proc/self/stat")
	if err := errors.Join(errSystem, errOwn); err != nil {
		return cpuTicks{}, err
	}
	return parseCPUTicks(string(system), string(own))
}

// parseCPUTicks takes the texts of /proc/stat and /proc/PID/stat.
func parseCPUTicks(system, own string) (cpuTicks, error) {
	line, _, _ := strings.Cut(system, "\n")
	// user nice system idle iowait irq softirq steal; what follows is part of user and nice
	all, err := numbers(strings.Fields(strings.TrimPrefix(line, "cpu")), 0, 8)
	if err != nil {
		return cpuTicks{}, err
	}
	// The second field is the program's name in parentheses, which may hold anything; utime is the 14th.
	ours, err := numbers(strings.Fields(own[strings.LastIndexByte(own, ')')+1:]), 11, 15)
	if err != nil {
		return cpuTicks{}, err
	}
	var t cpuTicks
	for i, n := range all {
		t.capacity += n
		if i != 3 && i != 4 {
			t.busy += n
		}
	}
	for _, n := range ours {
		t.own += n
	}
	return t, nil
}

func numbers(fields []string, from, to int) ([]float64, error) {
	if len(fields) < to {
		return nil, fmt.Errorf("%d fields, want %d", len(fields), to)
	}
	var values []float64
	for _, field := range fields[from:to] {
		n, err := strconv.ParseFloat(field, 64)
		if err != nil {
			return nil, err
		}
		values = append(values, n)
	}
	return values, nil
}

// busyWithOthers returns which part of the machine's CPU time other programs took since before, from 0 to 1.
func (t cpuTicks) busyWithOthers(before cpuTicks) float64 {
	capacity := t.capacity - before.capacity
	if capacity <= 0 {
		return 0
	}
	return max(0, (t.busy-before.busy-(t.own-before.own))/capacity)
}

// quiet is the part of the machine that others may take before the figures are called unreliable.
const quiet = 0.05

// warning says what others did to the figures, or nothing.
func warning(others float64) string {
	if others <= quiet {
		return ""
	}
	return fmt.Sprintf("other programs took %.0f %% of the machine meanwhile: the figures mean little, "+
		"and the ratios are to be taken with care\n", 100*others)
}
