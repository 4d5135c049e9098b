package hub

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/secretstack/secretstack/circuit"
	"github.com/secretstack/secretstack/hub/native"
	"github.com/secretstack/secretstack/hub/port"
)

// Serve accepts peers and visitors on the listeners that New has opened, and on those that it is given, which it owns
// from then on. All of them are one port: what a connection speaks decides. It returns when the hub is told to drain or
// close, and when ctx ends; then it has stopped listening, and what was accepted lives on. It can be called once.
func (h *Hub) Serve(ctx context.Context, more ...net.Listener) error {
	listeners, err := h.take(more)
	if err != nil {
		return err
	}
	for _, ln := range more {
		if err := h.intake.advertise(ctx, ln, h.cfg.Domain); err != nil {
			for _, ln := range listeners {
				_ = ln.Close()
			}
			return err
		}
	}
	l := h.cfg.Limits
	p := port.Open(port.Options{
		TrustedProxies: h.cfg.TrustedProxies, RequireHeader: h.cfg.RequireProxyHeader, Connect: h.admission.Connect,
		TLS: h.cfg.TLS, Timeout: l.FirstBytes, MaxPending: l.MaxPending, MaxUnproved: l.MaxUnproved,
		MaxPerAddress: l.MaxUnprovedPer, Circuit: circuit.Match, Logger: h.log,
	}, listeners[0], listeners[1:]...)
	h.port.Store(p)
	server := h.webServer(p)
	h.mu.Lock()
	h.server = server
	h.mu.Unlock()

	accepting, stop := context.WithCancel(ctx)
	defer stop()
	failed := make(chan error, 1)
	var loops sync.WaitGroup
	loops.Go(func() { h.intake.serve(accepting, p) })
	loops.Go(func() { failed <- server.Serve(p.HTTP()) })
	loops.Go(func() { h.serveCircuits(p.Circuits()) })
	select {
	case <-accepting.Done():
	case <-h.stop:
	case err = <-failed:
	}
	stop()
	err = errors.Join(notClosed(err), notClosed(p.Close()))
	loops.Wait()
	return err
}

// webServer makes the HTTP server of a port.
func (h *Hub) webServer(p *port.Port) *http.Server {
	server, l := p.Server(h), h.cfg.Limits
	if l.HeaderTimeout > 0 {
		server.ReadHeaderTimeout = l.HeaderTimeout
	}
	if l.VisitorIdle > 0 {
		server.IdleTimeout = l.VisitorIdle
	}
	if l.MaxRequestHeader > 0 {
		server.MaxHeaderBytes = l.MaxRequestHeader
	}
	h.observeConns(server)
	return server
}

// notClosed returns err, unless it says that something was closed, as it should be.
func notClosed(err error) error {
	if errors.Is(err, net.ErrClosed) || errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// take gives Serve its listeners.
func (h *Hub) take(more []net.Listener) ([]net.Listener, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	listeners := append(h.listeners[:len(h.listeners):len(h.listeners)], more...)
	var err error
	switch {
	case h.closed:
		err = ErrClosed
	case h.served:
		err = errors.New("hub: Serve was called before")
	case len(listeners) == 0:
		err = errors.New("hub: there is no listener to serve: name one in Config.Listen, or pass one")
	}
	if err != nil {
		for _, ln := range more {
			_ = ln.Close()
		}
		return nil, err
	}
	h.served = true
	return listeners, nil
}

// Drain ends the hub so that nobody loses anything: nothing new begins, couriers are told where to go and when, requests and
// circuits that run may end, until ctx does. Then the hub is closed as Close does it. It returns soon after the end of ctx.
func (h *Hub) Drain(ctx context.Context) error {
	h.draining.Store(true)
	h.halt()
	h.log.Info("hub: draining", "couriers", len(h.directory.published()), "requests", h.visitors.count())
	h.leaveNodes()
	h.sayDrain(ctx)
	var circuits sync.WaitGroup
	circuits.Go(func() { _ = h.circuits.Close(ctx) }) // what it does not finish is cut off
	if server := h.httpServer(); server != nil {
		_ = server.Shutdown(ctx) // what it does not finish is cut off by Close
	}
	h.visitors.wait(ctx)
	circuits.Wait()
	return h.Close(context.WithoutCancel(ctx))
}

// halt stops accepting.
func (h *Hub) halt() { h.stopOnce.Do(func() { close(h.stop) }) }

func (h *Hub) httpServer() *http.Server {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.server
}

// mostNotices is how many couriers are told something at the same time.
const mostNotices = 256

// sayDrain tells all couriers that the hub is about to end, and where else it is: where the configuration says, or at other
// nodes, over which they are spread.
func (h *Hub) sayDrain(ctx context.Context) {
	live := h.live.Load()
	to := h.shelters()
	if live.DrainTo != "" {
		to = []string{live.DrainTo}
	}
	places := make(chan struct{}, mostNotices)
	var told sync.WaitGroup
	defer told.Wait()
	for i, s := range h.directory.published() {
		n := native.Notice{Type: native.NoticeDrain, After: live.DrainPause.Milliseconds()}
		if len(to) > 0 {
			n.Address, n.After = to[i%len(to)], 0
		}
		select {
		case places <- struct{}{}:
		case <-ctx.Done():
			return
		}
		told.Go(func() {
			defer func() { <-places }()
			_ = h.notify(s.peer, n) // who does not hear it sees the end
		})
	}
}

// closeGrace bounds each part of Close.
const closeGrace = 5 * time.Second

// Close ends the hub at once: connections are ended in order where they can be, and what runs is cut off when ctx ends,
// or after some seconds. It waits until everything that the hub has started is gone. Closing again waits for the same end.
func (h *Hub) Close(ctx context.Context) error {
	h.closeOnce.Do(func() { h.closeErr = h.close(ctx) })
	return h.closeErr
}

func (h *Hub) close(ctx context.Context) error {
	h.draining.Store(true)
	h.halt()
	h.mu.Lock()
	h.closed = true
	listeners, server := h.listeners, h.server
	h.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, closeGrace)
	defer cancel()
	var errs []error
	for _, ln := range listeners {
		errs = append(errs, notClosed(ln.Close()))
	}
	if server != nil {
		_ = server.Close()
	}
	h.visitors.end(errDraining)
	h.end()
	if h.circuitEnds != nil {
		expired, stop := context.WithCancel(ctx)
		stop()
		_ = h.circuits.Close(expired)
		errs = append(errs, notClosed(h.circuitEnds.Close()))
	}
	h.directory.closeWeb()
	if h.app != nil {
		errs = append(errs, h.app.Close(ctx))
	}
	if h.pools != nil {
		_ = h.pools.Close()
	}
	errs = append(errs, h.closeCluster())
	h.jobs.Wait()
	if h.mailboxes != nil {
		errs = append(errs, h.mailboxes.Close())
	}
	if h.admission != nil {
		errs = append(errs, h.admission.Close())
	}
	if h.registry != nil {
		errs = append(errs, h.registry.Close())
	}
	return errors.Join(errs...)
}
