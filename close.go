package secretstack

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/secretstack/secretstack/muxrpc"
)

// DefaultCloseTimeout is how long [App.Close] lets open calls finish unless the configuration says otherwise.
const DefaultCloseTimeout = 5 * time.Second

// stragglers is how long Close waits, once the grace is over, for what has been told to end: connections that say
// goodbye, which have a bound of their own below this one, and work of plugins.
const stragglers = 3 * time.Second

// callbacks is the same for the functions of plugins that Close calls.
const callbacks = time.Second

// Close ends the app: it stops listening and dialling, tells the plugins, says goodbye to the peers, and waits until
// everything the app has started is gone. Calls that are open may finish until ctx ends or, when it has no deadline,
// for the time of Limits.CloseTimeout; then they are cut off. Close returns soon after that whatever a peer or a plugin
// does; the error names the plugins whose work would not end.
//
// Close may be called again, by anybody: it waits for the same end and returns the same error. The end of any caller's
// context hurries all.
func (a *App) Close(ctx context.Context) error {
	a.closeOnce.Do(func() {
		deadline, ok := ctx.Deadline()
		if !ok {
			deadline = time.Now().Add(a.closeTimeout())
		}
		go a.shutdown(deadline)
	})
	defer context.AfterFunc(ctx, a.hurryUp)()
	<-a.done
	return a.closeErr
}

func (a *App) closeTimeout() time.Duration {
	if a.cfg.limits.CloseTimeout > 0 {
		return a.cfg.limits.CloseTimeout
	}
	return DefaultCloseTimeout
}

// shutdown ends the app. It does what Close says; deadline is when open calls are cut off at the latest.
func (a *App) shutdown(deadline time.Time) {
	grace, cancel := context.WithDeadline(a.hurry, deadline)
	defer cancel()
	onClose, self := a.beginClosing()
	a.letIn()

	var stuck []string
	if !finishes(grace, a.stopListening) {
		stuck = append(stuck, "a function for OnConnect")
	}
	if !finishes(grace, func() { callAll(onClose) }) {
		stuck = append(stuck, "a function for OnClose")
	}
	a.stopWork()
	for _, p := range a.Peers() {
		go a.closePeer(p, grace, deadline.Add(stragglers)) // settle waits for its end
	}
	stuck = append(stuck, a.settle(grace)...)
	for _, end := range self {
		end.Abort(ErrClosed)
		if !finishes(grace, func() { _ = end.Close(a.life) }) { // waits for its handlers
			stuck = append(stuck, "calls of the app to itself")
		}
	}
	a.endLife()
	a.removeDir()
	if len(stuck) > 0 {
		a.closeErr = fmt.Errorf("secretstack: closed, but did not end: %s", strings.Join(stuck, ", "))
	}
	a.hurryUp()
	close(a.done)
}

// closePeer lets open calls finish while the grace lasts. After that it ends them, but still says goodbye.
func (a *App) closePeer(p *Peer, grace context.Context, deadline time.Time) {
	ctx, cancel := context.WithDeadline(a.life, deadline)
	defer cancel()
	defer context.AfterFunc(grace, func() { p.Abort(ErrClosed) })()
	_ = p.Close(ctx) // why it ended is in the log of the session
}

// beginClosing keeps new connections and new work out.
func (a *App) beginClosing() (onClose []func(), self []*muxrpc.Session) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.state = closing
	a.queued = nil
	if a.detach != nil {
		a.detach()
	}
	if a.idle != nil {
		a.idle.Stop()
	}
	onClose = slices.Clone(a.onClose)
	slices.Reverse(onClose)
	return onClose, a.self
}

func callAll(list []func()) {
	for _, f := range list {
		f()
	}
}

func (a *App) stopListening() {
	if a.server != nil {
		_ = a.server.Close() // its error is about sockets that nobody needs any more
	}
}

// finishes runs f, and reports whether it returned before the grace was over, or soon after.
func finishes(grace context.Context, f func()) bool {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	late, stop := after(grace, callbacks)
	defer stop()
	select {
	case <-done:
		return true
	case <-late.Done():
		return false
	}
}

// after returns a context that ends when the grace has been over for d.
func after(grace context.Context, d time.Duration) (late context.Context, stop func()) {
	late, end := context.WithCancel(context.Background())
	unwatch := context.AfterFunc(grace, func() {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
			end()
		case <-late.Done():
		}
	})
	return late, func() {
		unwatch()
		end()
	}
}

// settle waits until no connection is open and no background work is left, and names what is.
func (a *App) settle(grace context.Context) []string {
	late, stop := after(grace, stragglers)
	defer stop()
	for {
		a.mu.Lock()
		open, jobs, changed := a.open, slices.Sorted(maps.Keys(a.jobs)), a.changed
		a.mu.Unlock()
		if open == 0 && len(jobs) == 0 {
			return nil
		}
		select {
		case <-changed:
			continue
		case <-late.Done():
		}
		var left []string
		for _, by := range jobs {
			left = append(left, fmt.Sprintf("background work of plugin %q", by))
		}
		if open > 0 {
			left = append(left, fmt.Sprintf("handlers of %d connections", open))
		}
		return left
	}
}

func (a *App) removeDir() {
	a.mu.Lock()
	dir, temporary := a.dir, a.temporary
	a.mu.Unlock()
	if !temporary {
		return
	}
	if err := os.RemoveAll(dir); err != nil {
		a.log.Warn("secretstack: cannot remove the temporary folder", "err", err)
	}
}
