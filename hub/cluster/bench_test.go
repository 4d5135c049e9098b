package cluster

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net"
	"net/url"
	"runtime"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/secretstack/secretstack/keys"
)

// clusterEngines starts engines that are routed to each other, without TLS: it costs bytes on their way, not in memory.
func clusterEngines(tb testing.TB, n int) []*server.Server {
	tb.Helper()
	var all []*server.Server
	for i := range n {
		all = append(all, addEngine(tb, fmt.Sprint("engine-", i), all))
	}
	eventually(tb, "the engines are connected", func() bool {
		for _, s := range all {
			if s.NumRoutes() < n-1 {
				return false
			}
		}
		return true
	})
	return all
}

// addEngine starts an engine that is routed to others.
func addEngine(tb testing.TB, name string, others []*server.Server) *server.Server {
	tb.Helper()
	o := &server.Options{
		ServerName: name, Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true,
		Cluster: server.ClusterOpts{Name: "test", Host: "127.0.0.1", Port: server.RANDOM_PORT},
	}
	for _, s := range others {
		o.Routes = append(o.Routes, &url.URL{Scheme: "nats-route", Host: s.ClusterAddr().String()})
	}
	s, err := server.NewServer(o)
	if err != nil {
		tb.Fatal(err)
	}
	s.Start()
	tb.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(10 * time.Second) {
		tb.Fatal("the engine is not ready")
	}
	return s
}

func inUse() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// BenchmarkPresence measures what a presence costs in memory where the courier is, and at each other node, and how many
// another node gets to know a second.
func BenchmarkPresence(b *testing.B) {
	for _, nodes := range []int{1, 2, 3} {
		b.Run(fmt.Sprintf("nodes=%d", nodes), func(b *testing.B) {
			engines := clusterEngines(b, nodes)
			var all []*Node
			for i, s := range engines {
				all = append(all, open(b, configOf(b, newBus(b, s), fmt.Sprint("node-", i))))
			}
			subjects := someKeys(b.N)
			before := inUse()
			b.ResetTimer()
			for _, key := range subjects {
				all[0].Publish(Courier, key)
			}
			for _, n := range all {
				found(b, n, subjects[b.N-1])
			}
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "presences/s")
			b.ReportMetric((float64(inUse())-float64(before))/float64(b.N), "B/presence")
			runtime.KeepAlive(subjects)
		})
	}
}

func someKeys(n int) []keys.PublicKey {
	all := make([]keys.PublicKey, n)
	for i := range all {
		sum := sha256.Sum256(fmt.Appendf(nil, "presence %d", i))
		all[i], _ = keys.NewPublicKey(sum[:])
	}
	return all
}

// BenchmarkJoin measures how long a node that comes takes to know the presences of another, for each of them.
func BenchmarkJoin(b *testing.B) {
	engines := clusterEngines(b, 1)
	here := open(b, configOf(b, newBus(b, engines[0]), "here"))
	all := someKeys(b.N)
	for _, key := range all {
		here.Publish(Courier, key)
	}
	found(b, here, all[len(all)-1]) // they are told in their order
	cfg := configOf(b, nil, "there")
	b.ResetTimer()
	cfg.Bus = newBus(b, addEngine(b, "engine-there", engines))
	there := open(b, cfg)
	for n := range min(len(all), 1000) {
		found(b, there, all[n*len(all)/min(len(all), 1000)])
	}
}

// BenchmarkAsk measures a question to another node.
func BenchmarkAsk(b *testing.B) {
	engines := clusterEngines(b, 2)
	here, there := open(b, configOf(b, newBus(b, engines[0]), "here")), open(b, configOf(b, newBus(b, engines[1]), "there"))
	courier := identity(b, "courier").Public()
	there.Publish(Courier, courier)
	found(b, here, courier)
	for b.Loop() {
		if _, _, err := here.Ask(b.Context(), Courier, courier, []byte("{}")); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkLink measures opening a link for a circuit.
func BenchmarkLink(b *testing.B) {
	s := engine(b)
	here := open(b, configOf(b, newBus(b, s), "here"))
	cfg := configOf(b, newBus(b, s), "there")
	cfg.Serve = func(_ context.Context, _ keys.PublicKey, _ []byte, accept func(error) (net.Conn, error)) {
		if conn, err := accept(nil); err == nil {
			_ = conn.Close()
		}
	}
	to := open(b, cfg).place()
	for b.Loop() {
		conn, _, err := here.Dial(b.Context(), to, []byte("{}"), true)
		if err != nil {
			b.Fatal(err)
		}
		_ = conn.Close()
	}
}
