package secretstack_test

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"strings"
	"testing"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/internal/memnet"
	"github.com/secretstack/secretstack/internal/testkit"
	"github.com/secretstack/secretstack/muxrpc"
)

var (
	identity   = testkit.Identity
	leakCheck  = testkit.LeakCheck
	eventually = testkit.Eventually
)

// testPlugin is the plugin "test" of the recorded JavaScript peers.
func testPlugin() secretstack.Plugin {
	return secretstack.NewPlugin(secretstack.Info{
		Name:        "test",
		Version:     "1.0.0",
		Permissions: secretstack.Anonymous("hello", "fail", "count", "never", "eat"),
	}, func(_ context.Context, s *secretstack.Setup) error {
		return errors.Join(
			muxrpc.HandleSync(s, "hello", func(ctx context.Context, name string) (string, error) {
				return "Hello, " + name + " from " + secretstack.PeerFrom(ctx).Key().Ref()[:6], nil
			}),
			muxrpc.HandleAsync(s, "fail", func(context.Context, muxrpc.None) (muxrpc.None, error) {
				return muxrpc.None{}, muxrpc.Errorf("nope")
			}),
			muxrpc.HandleSource(s, "count", func(_ context.Context, n int) iter.Seq2[int, error] {
				return func(yield func(int, error) bool) {
					for i := 0; i <= n && yield(i, nil); i++ {
					}
				}
			}),
			muxrpc.HandleAsync(s, "never", func(ctx context.Context, _ muxrpc.None) (muxrpc.None, error) {
				<-ctx.Done()
				return muxrpc.None{}, ctx.Err()
			}),
			muxrpc.HandleSink(s, "eat", func(_ context.Context, _ muxrpc.None, items iter.Seq2[any, error]) error {
				for _, err := range items {
					if err != nil {
						return err
					}
				}
				return nil
			}),
			muxrpc.HandleSync(s, "secret", func(context.Context, muxrpc.None) (int, error) { return 1, nil }),
			muxrpc.HandleSync(s, "die", func(context.Context, muxrpc.None) (muxrpc.None, error) { return muxrpc.None{}, nil }),
		)
	})
}

// plugin makes a plugin of a function without context.
func plugin(name string, init func(s *secretstack.Setup) error) secretstack.Plugin {
	return secretstack.NewPlugin(secretstack.Info{Name: name}, func(_ context.Context, s *secretstack.Setup) error { return init(s) })
}

// quiet is the configuration of an app named name on the loopback interface.
func quiet(t testing.TB, name string) secretstack.Config {
	return secretstack.Config{
		Identity: identity(t, name),
		Host:     "127.0.0.1",
		Logger:   slog.New(slog.DiscardHandler),
	}
}

func stackOf(t testing.TB, opts secretstack.Options, plugins ...secretstack.Plugin) *secretstack.Stack {
	t.Helper()
	stack := secretstack.New(opts)
	if err := stack.Use(plugins...); err != nil {
		t.Fatal(err)
	}
	return stack
}

// start starts an app that is closed at the end of the test, which fails when anything of it is left.
func start(t testing.TB, stack *secretstack.Stack, cfg secretstack.Config) *secretstack.App {
	t.Helper()
	app, err := stack.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := app.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return app
}

func connect(t testing.TB, from, to *secretstack.App) *secretstack.Peer {
	t.Helper()
	p, err := from.Connect(t.Context(), to.Address("device"))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// mem is a stack of apps in memory and starts one; see memnet.Network.
func memStack(t testing.TB, plugins ...secretstack.Plugin) *secretstack.Stack {
	return stackOf(t, secretstack.Options{Bare: true}, append(plugins, memnet.Plugin(memnet.New()))...)
}

func memConfig(t testing.TB, name string) secretstack.Config {
	cfg := quiet(t, name)
	cfg.Host = ""
	cfg.Settings = secretstack.Settings{"memory": map[string]any{"name": name}}
	return cfg
}

func wantDenied(t testing.TB, err error) {
	t.Helper()
	remote, ok := errors.AsType[*muxrpc.RemoteError](err)
	if !ok || !strings.HasSuffix(remote.Message, "is not in list of allowed methods") {
		t.Errorf("the call should be denied, but: %v", err)
	}
}

func wantErr(t testing.TB, err error, text string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), text) {
		t.Errorf("error is %v, want one with %q", err, text)
	}
}
