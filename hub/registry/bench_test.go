package registry

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/secretstack/secretstack/secrez"
)

// BenchmarkRegister measures new registrations, each on disk before it returns, signatures checked, with so many asking at a
// time. Signing is not the hub's work and is done before.
func BenchmarkRegister(b *testing.B) {
	for _, asking := range []int{1, 16, 64, 256} {
		b.Run(fmt.Sprintf("asking=%d", asking), func(b *testing.B) {
			r := open1(b, config(b, b.TempDir()))
			regs := make([]Registration, b.N)
			for i := range regs {
				regs[i] = native(b, identity(b, uint64(i)))
			}
			todo := make(chan Registration, asking)
			var wg sync.WaitGroup
			b.ResetTimer()
			for range asking {
				wg.Go(func() {
					for reg := range todo {
						if _, err := r.Register(b.Context(), reg); err != nil {
							b.Error(err)
						}
					}
				})
			}
			for _, reg := range regs {
				todo <- reg
			}
			close(todo)
			wg.Wait()
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "registrations/s")
			b.ReportMetric(float64(b.N)/float64(r.Status().Writes), "registrations/write")
		})
	}
}

// BenchmarkRegisterAgain measures what a courier costs that comes back: no write.
func BenchmarkRegisterAgain(b *testing.B) {
	r := open1(b, config(b, b.TempDir()))
	reg := native(b, identity(b, 1))
	for b.Loop() {
		if _, err := r.Register(b.Context(), reg); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkEngineWrite measures what one synced write of the engine costs, without a registry around it.
func BenchmarkEngineWrite(b *testing.B) {
	limits := Limits{}
	limits.fill()
	e, err := startEngine(b.Context(), b.TempDir(), limits, testLogger(), true)
	defer func() { _ = e.close() }()
	if err != nil {
		b.Fatal(err)
	}
	kv, err := e.js.CreateKeyValue(b.Context(), jetstream.KeyValueConfig{Bucket: "b"})
	if err != nil {
		b.Fatal(err)
	}
	n := 0
	for b.Loop() {
		n++
		if _, err := kv.Create(b.Context(), fmt.Sprint(n), make([]byte, 300)); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSync measures what the disk gives: append 300 bytes and sync.
func BenchmarkSync(b *testing.B) {
	f, err := os.Create(filepath.Join(b.TempDir(), "f"))
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	for b.Loop() {
		if _, err := f.Write(make([]byte, 300)); err != nil {
			b.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkMemory measures what a record costs on disk, and in memory: every node of a cluster has all of them in both. Run it with
// -benchtime 100000x or more.
func BenchmarkMemory(b *testing.B) {
	dir := b.TempDir()
	r := open1(b, config(b, dir))
	fill(b, r, 0, 1000) // what the first ones cause to be made once
	heap, disk := heapInUse(), folderSize(b, dir)
	b.ResetTimer()
	fill(b, r, 1000, uint64(b.N))
	b.StopTimer()
	b.ReportMetric((heapInUse()-heap)/float64(b.N), "B/record")
	b.ReportMetric((folderSize(b, dir)-disk)/float64(b.N), "disk-B/record")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
	runtime.KeepAlive(r)
}

// BenchmarkDirectory measures the memory of a record in the registry's own tables, without an engine.
func BenchmarkDirectory(b *testing.B) {
	deeds := make([]deed, 1)
	d := newDirectory()
	heap := heapInUse()
	for i := range b.N {
		raw := sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(i)))
		deeds[0] = deed{key: raw, id: secrez.NewID(), sequence: 1}
		if _, _, err := d.apply(uint64(i+1), uint64(i), deeds); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	b.ReportMetric((heapInUse()-heap)/float64(b.N), "B/record")
	runtime.KeepAlive(d)
}

func heapInUse() float64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}

func folderSize(tb testing.TB, dir string) (size float64) {
	tb.Helper()
	err := filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		if err == nil {
			size += float64(info.Size())
		}
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
	return size
}

// BenchmarkLookup measures looking up an id among 10,000.
func BenchmarkLookup(b *testing.B) {
	r := open1(b, config(b, b.TempDir()))
	fill(b, r, 0, 10_000)
	var some Record
	for rec := range r.All() {
		some = rec
	}
	b.ResetTimer()
	for b.Loop() {
		if _, ok := r.Lookup(some.ID); !ok {
			b.Fatal("not found")
		}
	}
}

// BenchmarkOpen measures opening a registry of 10,000.
func BenchmarkOpen(b *testing.B) {
	dir := b.TempDir()
	r := open1(b, config(b, dir))
	fill(b, r, 0, 10_000)
	closed(b, r)
	b.ResetTimer()
	for b.Loop() {
		r, err := Open(b.Context(), config(b, dir))
		if err != nil {
			b.Fatal(err)
		}
		if r.Count() != 10_000 {
			b.Fatal("not all are there: ", r.Count())
		}
		closed(b, r)
	}
}
