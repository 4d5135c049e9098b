package main

import (
	"encoding/binary"
	"fmt"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/secretstack/secretstack/hub/native"
	"github.com/secretstack/secretstack/secrez"
)

// envClock says by how much the clock of a process is to be wrong: a duration.
const envClock = "SECRETSTACK_TEST_CLOCK"

// The kernel has no clock for some processes alone, and a static program loads no library that could be put before it. But each asks
// the kernel's own code, vDSO, for the time, by way of this pointer.
//
//go:linkname vdsoClockgettimeSym runtime.vdsoClockgettimeSym
var vdsoClockgettimeSym uintptr

func init() {
	if text := os.Getenv(envClock); text != "" {
		by, err := time.ParseDuration(text)
		if err == nil {
			err = shiftClock(by)
		}
		if err != nil {
			panic(err)
		}
	}
}

// shiftClock makes the clock of this process wrong, for everything in it. The monotonic clock stays as it is.
func shiftClock(by time.Duration) error {
	if vdsoClockgettimeSym == 0 {
		return fmt.Errorf("there is no vDSO")
	}
	le := binary.LittleEndian
	code := []byte{0x57, 0x56, 0x48, 0x83, 0xec, 0x08}                            // push rdi; push rsi; sub rsp, 8
	code = le.AppendUint64(append(code, 0x48, 0xb8), uint64(vdsoClockgettimeSym)) // mov rax, the kernel's
	code = append(code, 0xff, 0xd0, 0x48, 0x83, 0xc4, 0x08, 0x5e, 0x5f)           // call rax; add rsp, 8; pop rsi; pop rdi
	code = append(code, 0x85, 0xff, 0x75, 0x0d)                                   // if edi is CLOCK_REALTIME
	code = le.AppendUint64(append(code, 0x48, 0xb8), uint64(by/time.Second))      // mov rax, seconds
	code = append(code, 0x48, 0x01, 0x06, 0x31, 0xc0, 0xc3)                       // add [rsi], rax; xor eax, eax; ret
	page, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return err
	}
	copy(page, code)
	if err := unix.Mprotect(page, unix.PROT_READ|unix.PROT_EXEC); err != nil {
		return err
	}
	before := time.Now()
	vdsoClockgettimeSym = uintptr(unsafe.Pointer(unsafe.SliceData(page)))
	if moved := time.Now().Round(0).Sub(before.Round(0)); (moved - by).Abs() > time.Minute {
		return fmt.Errorf("the clock has moved by %v", moved)
	}
	return nil
}

// TestClocksOfNodesAreWrong: one is ten minutes ahead and one ten minutes behind.
func TestClocksOfNodesAreWrong(t *testing.T) {
	const wrong = 10 * time.Minute
	f := newFarNodes(t, clocksWrong)
	f.configure("[limits.mailboxes]\nkeep = \"21m\"") // between two nodes clocks differ by 20
	f.clocks = [3]time.Duration{wrong, 0, -wrong}
	f.begin()
	for i, by := range f.clocks {
		for j, other := range f.clocks {
			if i != j {
				f.nodes[i].says(fmt.Sprintf("node=hub-%d ahead=%v", j+1, other-by))
			}
		}
	}
	if r := command(t, "", "hub", "status", "--root", f.roots[1]); !strings.Contains(r.out, "its clock differs by 10m0s") || !strings.Contains(r.out, "its clock differs by -10m0s") {
		t.Errorf("the status of the node whose clock is right: %s", r.out)
	}

	// Couriers of Secrez: a node takes what was signed by its own clock, and says clearly why it refuses the rest.
	for i, by := range f.clocks {
		id := someone(t, 500+i)
		if i != 1 {
			status, text := f.nodes[i].visit(f.nodes[i].registrationAt(id, time.Now()))
			if status < 400 || status >= 500 || !strings.Contains(text, "look at your clock") {
				t.Errorf("node %d answers %d %s", i+1, status, text)
			}
		}
		var answer struct{ ID secrez.ID }
		f.eventually("a registration by the node's own clock", func() bool {
			status, err := getJSON(http.DefaultClient, f.nodes[i].registrationAt(id, time.Now().Add(by)), &answer)
			return err == nil && status == http.StatusOK
		})
		f.given[answer.ID] = id
	}
	// Others depend on no clock.
	l := newLedger(f, 1)
	var ids []secrez.ID
	for i := range f.nodes {
		ids = append(ids, await(t, f.courier(i), "online", isOnline).ID)
	}
	stop := l.work()
	f.eventually("all nodes acknowledge", func() bool { return l.advanced(20, 0, 1, 2) })
	stop()
	f.nodes[0].signal(syscall.SIGKILL) // when it starts, it removes what is too old
	f.start(0)
	l.balance()
	f.whole(0, 1, 2)
	for i := range f.nodes {
		c := l.client(someone(t, 1), i)
		for _, id := range ids {
			f.eventually("a node knows a courier", func() bool {
				who, err := tell[native.Who](c, native.MethodWhois, native.WhoisRequest{ID: id})
				return err == nil && who.Online
			})
		}
	}
}
