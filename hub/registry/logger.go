package registry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// levelEngineDebug is the level of what the engine says for its own developers.
const levelEngineDebug = slog.LevelDebug - 4

// engineLogger passes on what the engine says. Its notices are not an operator's business and go out at debug level.
type engineLogger struct {
	out                *slog.Logger
	alarm              *alarm
	strangers, foreign seldom
}

func (l *engineLogger) say(level slog.Level, format string, args []any) string {
	text := fmt.Sprintf(format, args...)
	l.out.Log(context.Background(), level, "engine: "+text)
	return text
}

func (l *engineLogger) Debugf(format string, args ...any)  { l.say(levelEngineDebug, format, args) }
func (l *engineLogger) Tracef(format string, args ...any)  { l.say(levelEngineDebug, format, args) }
func (l *engineLogger) Noticef(format string, args ...any) { l.say(slog.LevelDebug, format, args) }

func (l *engineLogger) Warnf(format string, args ...any) {
	if isWaiting(format) {
		l.say(slog.LevelDebug, format, args)
		return
	}
	l.alarm.note(l.say(slog.LevelWarn, format, args), stopsWriting(format))
}

func (l *engineLogger) Errorf(format string, args ...any) {
	if isWaiting(format) {
		l.say(slog.LevelDebug, format, args)
		return
	}
	if isHandshake(format) {
		l.stranger(format, args)
		return
	}
	l.alarm.note(l.say(slog.LevelError, format, args), !l.alarm.amongOthers || stopsWriting(format))
}

// stranger passes on that somebody has not proved to be a node. Anybody can make the engine say so as often as he likes, and can put
// words of his own into it, such as names of certificates.
func (l *engineLogger) stranger(format string, args []any) {
	level := slog.LevelDebug
	foreign := strings.Contains(fmt.Sprintf(format, args...), "certificate")
	switch {
	case foreign && l.foreign.now():
		level = slog.LevelError
		l.out.Error("registry: a machine that is no node of this cluster, or a node with another credential: all need a copy of the same file")
	case !foreign && l.strangers.now():
		level = slog.LevelError
	}
	l.alarm.note(l.say(level, format, args), false)
}

// strangersEvery is how often it is said that somebody has not proved to be a node.
const strangersEvery = time.Minute

// seldom says of what may happen often whether it is to be told now. The zero value is ready.
type seldom struct {
	mu   sync.Mutex
	next time.Time // guarded by mu
}

func (s *seldom) now() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if now.Before(s.next) {
		return false
	}
	s.next = now.Add(strangersEvery)
	return true
}

// stopsWriting recognises what the engine says when it gives up its files. It looks at the engine's own words alone: what they
// are filled with may be a stranger's.
func stopsWriting(format string) bool {
	return strings.Contains(format, "disabling JetStream") || strings.Contains(format, "will be DISABLED")
}

// isWaiting recognises what the engine says while other nodes are away. The registry says so itself.
func isWaiting(format string) bool {
	return strings.HasPrefix(format, "Error trying to connect to route") || strings.HasPrefix(format, "Waiting for routing") ||
		strings.Contains(format, "has not established contact with a meta leader")
}

// isHandshake recognises what the engine says when a connection of others did not come about.
func isHandshake(format string) bool {
	return strings.Contains(format, "TLS") && (strings.Contains(format, "handshake error") || strings.Contains(format, "handshake timeout"))
}

func (l *engineLogger) Fatalf(format string, args ...any) { l.Errorf(format, args...) }

// alarmDelay leaves an answer that is on its way the time to arrive.
const alarmDelay = 200 * time.Millisecond

// An alarm ends the requests to an engine that has said that it fails. Such an engine answers nothing, and waiting for the
// deadline would tell nothing more.
type alarm struct {
	amongOthers bool          // in a cluster, whose engines complain of each other
	rang        chan struct{} // closed when the engine has said that it fails

	mu      sync.Mutex
	failed  bool                            // guarded by mu
	reason  string                          // why it fails; guarded by mu
	last    string                          // guarded by mu
	next    int                             // guarded by mu
	waiting map[int]context.CancelCauseFunc // guarded by mu
}

func newAlarm(amongOthers bool) *alarm {
	return &alarm{amongOthers: amongOthers, rang: make(chan struct{}), waiting: map[int]context.CancelCauseFunc{}}
}

// guard gives a context that ends when the engine says that it fails.
func (a *alarm) guard(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	a.mu.Lock()
	defer a.mu.Unlock()
	n := a.next
	a.next++
	a.waiting[n] = cancel
	return ctx, func() {
		a.mu.Lock()
		delete(a.waiting, n)
		a.mu.Unlock()
		cancel(nil)
	}
}

// note remembers the last warning or error, and ends what waits if the engine fails.
func (a *alarm) note(text string, fails bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.last = text
	if !fails {
		return
	}
	if !a.failed {
		a.failed, a.reason = true, text
		close(a.rang)
	}
	for _, cancel := range a.waiting {
		time.AfterFunc(alarmDelay, func() { cancel(errors.New(text)) })
	}
}

// rung reports whether the engine has said that it fails.
func (a *alarm) rung() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.failed
}

// why is the error of an engine that has said that it fails.
func (a *alarm) why() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return fmt.Errorf("%w: %s", ErrUnavailable, a.reason)
}

// said gives the last warning or error, to be put behind another text.
func (a *alarm) said() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.last == "" {
		return ""
	}
	return " (" + a.last + ")"
}
