package circuit

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

const tellsSilence = true

// silence returns for how long the other side's system has left unanswered what ours has asked it again and again; zero
// when it answers, or is asked nothing.
//
// TCP_USER_TIMEOUT would be simpler, but it ends connections whose other end does not read for a while.
func silence(tcp *net.TCPConn) (time.Duration, error) {
	raw, err := tcp.SyscallConn()
	if err != nil {
		return 0, err
	}
	var info *unix.TCPInfo
	var asked error
	if err := raw.Control(func(fd uintptr) {
		info, asked = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	}); err != nil {
		return 0, err
	}
	if asked != nil {
		return 0, asked
	}
	unacknowledged := info.Unacked > 0 && info.Retransmits > 0
	unansweredProbes := info.Probes > 1 // one may just be on its way
	if !unacknowledged && !unansweredProbes {
		return 0, nil
	}
	return time.Duration(info.Last_ack_recv) * time.Millisecond, nil
}

// askOften keeps the system from waiting longer and longer, up to two minutes, before it asks the other side again: for
// what it has not acknowledged, or whether it reads by now. Older systems do not know the option.
func askOften(tcp *net.TCPConn, every time.Duration) {
	raw, err := tcp.SyscallConn()
	if err != nil {
		return
	}
	longest := min(max(every, time.Second), 120*time.Second) // what the option takes
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_RTO_MAX_MS, int(longest.Milliseconds()))
	})
}
