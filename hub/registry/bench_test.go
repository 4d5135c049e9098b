package registry

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
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
