package secretstack

import (
	"context"

	"github.com/secretstack/secretstack/multiserver"
	tcp "github.com/secretstack/secretstack/multiserver/net"
)

// NetPlugin adds the transport "net", which is TCP. Every stack has it that is not bare. Where no connections are
// configured, it listens on [Config.Host] and [Config.Port] in all scopes.
func NetPlugin() Plugin {
	return NewPlugin(Info{Name: "multiserver-net"}, func(_ context.Context, s *Setup) error {
		if s.app.cfg.configured {
			return s.Transport(tcp.New(tcp.Options{}))
		}
		return s.Transport(tcp.New(tcp.Options{}), multiserver.DefaultConfig(s.app.cfg.host, s.app.cfg.port))
	})
}

// SHSPlugin adds the transform "shs", the secret handshake. Every stack has it that is not bare.
func SHSPlugin() Plugin {
	return NewPlugin(Info{Name: "multiserver-shs"}, func(_ context.Context, s *Setup) error {
		return s.Transform(multiserver.SHS(multiserver.SHSConfig{
			Identity:  s.app.cfg.identity,
			AppKey:    s.app.cfg.appKey,
			Authorize: s.Authorize,
		}))
	})
}

// NoAuthPlugin adds the transform "noauth", which proves nothing: whoever reaches a socket that is configured with it
// has the app's own key and full access. It is for sockets that only the owner of the app can reach.
func NoAuthPlugin() Plugin {
	return NewPlugin(Info{Name: "no-auth"}, func(_ context.Context, s *Setup) error {
		return s.Transform(multiserver.NoAuth(multiserver.NoAuthConfig{
			Self: s.app.ID(),
			Auth: FullAccess(),
		}))
	})
}

// TransportPlugin adds a transport that needs nothing of the app, such as those of packages multiserver/ws and
// multiserver/unix. It can be dialled with "shs"; to listen with it, name it in the configuration's connections.
func TransportPlugin(t multiserver.Transport) Plugin {
	return NewPlugin(Info{Name: "multiserver-" + t.Name()}, func(_ context.Context, s *Setup) error {
		return s.Transport(t, multiserver.Config{
			Outgoing: map[string][]multiserver.Outgoing{t.Name(): {{Transform: "shs"}}},
		})
	})
}
