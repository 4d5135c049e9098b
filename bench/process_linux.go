package main

import (
	"time"

	"golang.org/x/sys/unix"
)

// cpuOf returns the CPU time that a process has used so far, of all its threads, in user and kernel mode.
func cpuOf(pid int) (time.Duration, error) {
	// The clock of a process as the kernel numbers it: MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED).
	clock := ^int32(pid)<<3 | 2
	var t unix.Timespec
	if err := unix.ClockGettime(clock, &t); err != nil {
		return 0, err
	}
	return time.Duration(t.Nano()), nil
}

// mostConnections is how many connections a process of this system may have, with something left for its files.
func mostConnections() int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 1 << 20
	}
	return int(limit.Cur) - 500
}
