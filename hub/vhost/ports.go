package vhost

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// A PortRange is the ports from First to Last, both included. The zero value leaves the choice to the system.
type PortRange struct{ First, Last uint16 }

// ParsePortRange reads "40000-40999", or "40000" for one port. No text gives the zero value. Its error is [ErrRange].
func ParsePortRange(s string) (PortRange, error) {
	if s == "" {
		return PortRange{}, nil
	}
	first, last, isRange := strings.Cut(s, "-")
	if !isRange {
		last = first
	}
	from, err := strconv.ParseUint(first, 10, 16)
	if err != nil {
		return PortRange{}, fmt.Errorf("%w: it looks like 40000-40999", ErrRange)
	}
	to, err := strconv.ParseUint(last, 10, 16)
	if err != nil {
		return PortRange{}, fmt.Errorf("%w: it looks like 40000-40999", ErrRange)
	}
	r := PortRange{First: uint16(from), Last: uint16(to)}
	if r.First == 0 || r.First > r.Last {
		return PortRange{}, fmt.Errorf("%w: it goes from a port to a higher one", ErrRange)
	}
	return r, nil
}

// String writes what [ParsePortRange] reads.
func (r PortRange) String() string {
	switch {
	case r == PortRange{}:
		return ""
	case r.First == r.Last:
		return strconv.Itoa(int(r.First))
	}
	return fmt.Sprintf("%d-%d", r.First, r.Last)
}

// Len is how many ports the range has, or 0 for the zero value.
func (r PortRange) Len() int {
	if r == (PortRange{}) {
		return 0
	}
	return int(r.Last) - int(r.First) + 1
}

// Ports hands out the ports of a range and takes them back. A port that came back is handed out last: a courier that still
// knocks at it should not meet another courier's pool.
type Ports struct {
	ports PortRange
	bind  string

	mu   sync.Mutex
	free []uint16 // guarded by mu; the next one first
}

// NewPorts hands out ports of r on the bind address, a host name or an address; "" stands for all of the machine's. Its
// error is [ErrRange].
func NewPorts(bind string, r PortRange) (*Ports, error) {
	p := &Ports{ports: r, bind: bind}
	if r == (PortRange{}) {
		return p, nil
	}
	if r.First == 0 || r.First > r.Last {
		return nil, fmt.Errorf("%w: it goes from a port to a higher one", ErrRange)
	}
	for port := int(r.First); port <= int(r.Last); port++ {
		p.free = append(p.free, uint16(port))
	}
	return p, nil
}

// Free is how many ports of the range are left, or -1 when the system chooses.
func (p *Ports) Free() int {
	if p.ports == (PortRange{}) {
		return -1
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.free)
}

// Listen listens on the next port, with TCP keep-alive as config says. Ports that somebody else uses are passed over.
// Closing the listener gives the port back. Its error is [ErrNoPorts], the context's, or the system's.
func (p *Ports) Listen(ctx context.Context, config net.ListenConfig) (net.Listener, error) {
	if p.ports == (PortRange{}) {
		return config.Listen(ctx, "tcp", net.JoinHostPort(p.bind, "0"))
	}
	for range p.ports.Len() {
		port, ok := p.take()
		if !ok {
			break
		}
		l, err := config.Listen(ctx, "tcp", net.JoinHostPort(p.bind, strconv.Itoa(int(port))))
		if err == nil {
			return &portListener{Listener: l, giveBack: sync.OnceFunc(func() { p.put(port) })}, nil
		}
		p.put(port)
		if !errors.Is(err, syscall.EADDRINUSE) {
			return nil, err
		}
	}
	return nil, fmt.Errorf("%w: all %d of %v are in use", ErrNoPorts, p.ports.Len(), p.ports)
}

func (p *Ports) take() (uint16, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.free) == 0 {
		return 0, false
	}
	port := p.free[0]
	p.free = p.free[1:]
	return port, true
}

func (p *Ports) put(port uint16) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.free = append(p.free, port)
}

// A portListener gives its port back when it is closed.
type portListener struct {
	net.Listener
	giveBack func()
}

func (l *portListener) Close() error {
	err := l.Listener.Close()
	l.giveBack()
	return err
}
