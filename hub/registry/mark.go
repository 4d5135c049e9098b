package registry

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
)

const (
	markName  = "acknowledged"
	markMagic = "secretstack mark1"
	markSlot  = 32 // magic, number, check; two slots, written in turn
)

// A mark remembers up to which message of the log everything has been acknowledged. It is written after the engine has
// synced that message and before anybody is told, and is not synced itself: it survives the process, and after a power cut
// it may be behind but never ahead. A log that ends before the mark has lost something.
type mark struct {
	mu   sync.Mutex
	f    *os.File // guarded by mu
	last uint64   // guarded by mu
	slot int64    // guarded by mu
}

// openMark opens the mark, or makes one at zero.
func openMark(dir string) (*mark, error) {
	f, err := os.OpenFile(filepath.Join(dir, markName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	m := &mark{f: f}
	for slot := range int64(2) {
		var b [markSlot]byte
		if n, _ := f.ReadAt(b[:], slot*markSlot); n == markSlot {
			m.take(b, slot)
		}
	}
	return m, nil
}

func (m *mark) take(b [markSlot]byte, slot int64) {
	if string(b[:len(markMagic)]) != markMagic || binary.BigEndian.Uint32(b[markSlot-4:]) != crc32.ChecksumIEEE(b[:markSlot-4]) {
		return
	}
	if n := binary.BigEndian.Uint64(b[markSlot-12:]); n >= m.last {
		m.last, m.slot = n, slot
	}
}

func (m *mark) read() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.last
}

// write moves the mark forward. Failing to is no reason not to acknowledge: the mark is then only behind.
func (m *mark) write(n uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n <= m.last {
		return
	}
	var b [markSlot]byte
	copy(b[:], markMagic)
	binary.BigEndian.PutUint64(b[markSlot-12:], n)
	binary.BigEndian.PutUint32(b[markSlot-4:], crc32.ChecksumIEEE(b[:markSlot-4]))
	slot := 1 - m.slot
	if _, err := m.f.WriteAt(b[:], slot*markSlot); err == nil {
		m.last, m.slot = n, slot
	}
}

func (m *mark) close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.f.Close(); err != nil && !errors.Is(err, fs.ErrClosed) {
		return err
	}
	return nil
}
