package registry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"
)

const (
	logStream  = "registry"
	logSubject = "registry.log"

	// With these the engine's names for key-value streams begin, and their subjects.
	bucketPrefix   = "KV_"
	bucketSubjects = "$KV."

	// engineStorage is the engine's own limit for its files. The disk is the limit that counts: see Limits.MinFree.
	engineStorage = 1 << 50
	engineMemory  = 64 << 20

	// engineMessage is the largest message: a full group, one registration more that heals and resets, and room.
	engineMessage = 4 << 20
)

// engine is one run of the embedded NATS server: one connection inside the process, files below dir, and no network but to
// the other nodes of a cluster. It may also be a connection to somebody else's cluster.
type engine struct {
	engineConfig
	operator nkeys.KeyPair       // see Cluster.apply; nil: it is alone
	server   *server.Server      // nil: somebody else's
	conn     *nats.Conn          // set before started is closed
	js       jetstream.JetStream // set before started is closed
	alarm    *alarm

	started  chan struct{} // closed when start has returned
	startErr error         // set before started is closed

	leave sync.Once
	gone  chan struct{} // closed when the server has ended and let go of its files
}

// An engineConfig says what kind of engine there is to be.
type engineConfig struct {
	dir      string
	limits   Limits
	logger   *slog.Logger
	synced   bool     // a write is acknowledged when it is on disk
	replicas int      // of what is made new
	cluster  *Cluster // nil: it is alone
}

// startEngine starts an engine that is alone, on the files in dir. The engine it returns must be closed, also when there is an
// error.
func startEngine(ctx context.Context, dir string, limits Limits, logger *slog.Logger, synced bool) (*engine, error) {
	return engineConfig{dir: dir, limits: limits, logger: logger, synced: synced, replicas: 1}.start(ctx)
}

func (c engineConfig) options(operator string) *server.Options {
	opts := &server.Options{
		ServerName:             "registry",
		DontListen:             true,
		NoSigs:                 true,
		MaxPayload:             engineMessage,
		StoreDir:               c.dir,
		SyncAlways:             c.synced,
		JetStreamMaxStore:      engineStorage,
		JetStreamMaxMemory:     engineMemory,
		DisableJetStreamBanner: true,
	}
	if c.cluster != nil {
		c.cluster.apply(opts, operator)
	}
	return opts
}

// start starts an engine, which must be closed, also when there is an error.
func (c engineConfig) start(ctx context.Context) (*engine, error) {
	e := &engine{engineConfig: c, alarm: newAlarm(c.cluster != nil), started: make(chan struct{}), gone: make(chan struct{})}
	if c.cluster == nil || c.cluster.URL == "" {
		var err error
		if c.cluster != nil {
			err = c.cluster.portFree(ctx)
		}
		operator := ""
		if err == nil && c.cluster != nil {
			operator, err = e.makeOperator()
		}
		if err == nil {
			e.server, err = server.NewServer(c.options(operator))
		}
		if err != nil {
			close(e.started)
			return e, fmt.Errorf("%w: set up the engine: %w", ErrUnavailable, err)
		}
		e.server.SetLoggerV2(&engineLogger{out: c.logger, alarm: e.alarm}, c.logger.Enabled(ctx, levelEngineDebug), false, false)
	}
	go func() { // it reads all files and knows no context
		defer close(e.started)
		e.startErr = e.run()
	}()
	timeout := time.NewTimer(c.limits.StartTimeout)
	defer timeout.Stop()
	select {
	case <-e.started:
		return e, e.startErr
	case <-timeout.C:
		return e, fmt.Errorf("%w: the engine did not start within %v%s", ErrUnavailable, c.limits.StartTimeout, e.alarm.said())
	case <-ctx.Done():
		return e, fmt.Errorf("registry: start the engine: %w", context.Cause(ctx))
	}
}

// makeOperator makes the key of a user of the engine whom only this process knows.
func (e *engine) makeOperator() (public string, err error) {
	if e.operator, err = nkeys.CreateUser(); err != nil {
		return "", err
	}
	return e.operator.PublicKey()
}

func (e *engine) run() (err error) {
	if e.server != nil {
		if err := e.startServer(); err != nil {
			return err
		}
		e.conn, err = nats.Connect("", nats.InProcessServer(e.server), nats.NoReconnect(), nats.ErrorHandler(e.complain))
	} else {
		e.conn, err = e.cluster.dial(e.complain)
	}
	if err != nil {
		return fmt.Errorf("%w: reach the engine: %w", ErrUnavailable, err)
	}
	if e.js, err = jetstream.New(e.conn); err != nil {
		return fmt.Errorf("%w: reach the engine: %w", ErrUnavailable, err)
	}
	return nil
}

func (e *engine) startServer() error {
	e.server.Start()
	if !e.server.JetStreamEnabled() {
		err := e.server.EnableJetStream(&server.JetStreamConfig{
			StoreDir: e.dir, SyncAlways: e.synced, MaxStore: engineStorage, MaxMemory: engineMemory,
		})
		if err != nil {
			return fmt.Errorf("%w: start the engine: %w", ErrUnavailable, err)
		}
	}
	if !e.server.ReadyForConnections(e.limits.StartTimeout) {
		return fmt.Errorf("%w: the engine is not ready%s", ErrUnavailable, e.alarm.said())
	}
	return nil
}

// complain logs what the connection to the engine cannot tell anybody else.
func (e *engine) complain(_ *nats.Conn, _ *nats.Subscription, err error) {
	e.logger.Debug("registry: connection to the engine", "err", err)
}

// close ends the engine. It gives up waiting for that after a bounded time; gone tells when it has happened.
func (e *engine) close() error {
	e.leave.Do(func() { go e.shutDown() })
	timeout := time.NewTimer(e.limits.CloseTimeout)
	defer timeout.Stop()
	select {
	case <-e.gone:
		return nil
	case <-timeout.C:
		return fmt.Errorf("%w: the engine did not end within %v", ErrUnavailable, e.limits.CloseTimeout)
	}
}

func (e *engine) shutDown() {
	defer close(e.gone)
	<-e.started
	if e.conn != nil {
		e.conn.Close()
	}
	if e.server != nil {
		e.server.Shutdown()
		e.server.WaitForShutdown()
	}
}

// streams names the streams that the engine has loaded.
func (e *engine) streams(ctx context.Context) ([]string, error) {
	ctx, cancel := e.guard(ctx)
	defer cancel()
	var names []string
	list := e.js.StreamNames(ctx)
	for name := range list.Name() {
		names = append(names, name)
	}
	if err := list.Err(); err != nil {
		return nil, e.failure(ctx, "list streams", err)
	}
	return names, nil
}

// ensureLog opens the log, or makes it, and tells where it ends and which its last message is: a write that failed may have
// left a gap at the end. A log that is there is left as it is: what is not written at every start cannot go wrong then.
func (e *engine) ensureLog(ctx context.Context) (end, last uint64, err error) {
	ctx, cancel := e.guard(ctx)
	defer cancel()
	s, err := e.js.Stream(ctx, logStream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		if e.hasOrigin(nil) {
			s, err = e.js.CreateStream(ctx, logConfig(e.replicas))
		} else {
			err = errOrigin
		}
	}
	if err != nil {
		return 0, 0, e.failure(ctx, "open the log", err)
	}
	if !e.hasOrigin(s) {
		return 0, 0, e.failure(ctx, "open the log", errOrigin)
	}
	m, err := s.GetLastMsgForSubject(ctx, logSubject)
	switch {
	case err == nil:
		last = m.Sequence
	case !errors.Is(err, jetstream.ErrMsgNotFound):
		return 0, 0, e.failure(ctx, "open the log", err)
	}
	return s.CachedInfo().State.LastSeq, last, nil
}

func logConfig(replicas int) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:              logStream,
		Subjects:          []string{logSubject},
		Storage:           jetstream.FileStorage,
		Discard:           jetstream.DiscardNew,
		MaxMsgs:           -1,
		MaxBytes:          -1,
		MaxMsgsPerSubject: -1,
		Replicas:          replicas,
		DenyDelete:        true,
		DenyPurge:         true,
		Duplicates:        time.Second, // sequences are expected instead; this keeps no table
	}
}

// errMoved says that the log has grown beyond what the writer knew.
var errMoved = errors.New("the log has moved on")

// appendLog writes one message to the log, provided that it ends with the message last, and returns when it is on disk.
func (e *engine) appendLog(ctx context.Context, group []byte, last uint64) (uint64, error) {
	ctx, cancel := e.guard(ctx)
	defer cancel()
	ack, err := e.js.Publish(ctx, logSubject, group, jetstream.WithExpectLastSequence(last), jetstream.WithRetryAttempts(0))
	if isWrongSequence(err) {
		return 0, errMoved
	}
	if err != nil {
		return 0, e.failure(ctx, "write", err)
	}
	return ack.Sequence, nil
}

func isWrongSequence(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && (api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence ||
		api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant)
}

// readLog fetches one message of the log.
func (e *engine) readLog(ctx context.Context, sequence uint64) ([]byte, error) {
	ctx, cancel := e.guard(ctx)
	defer cancel()
	s, err := e.js.Stream(ctx, logStream)
	if err != nil {
		return nil, e.failure(ctx, "read", err)
	}
	m, err := s.GetMsg(ctx, sequence)
	if err != nil {
		return nil, e.failure(ctx, "read", err)
	}
	return m.Data, nil
}

// A message is one message of a stream.
type message struct {
	subject  string
	header   nats.Header
	data     []byte
	sequence uint64
	pending  uint64 // messages of the stream that follow this one
}

// follow hands out the messages of a stream from a sequence on, until ctx ends or fn fails, and returns why it ended.
// With headersOnly they come without their data.
func (e *engine) follow(ctx context.Context, stream string, from uint64, headersOnly bool, fn func(message) error) error {
	c, err := e.js.OrderedConsumer(ctx, stream, jetstream.OrderedConsumerConfig{
		MaxResetAttempts: 1, // more would go on without the context and without the connection
		DeliverPolicy:    jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:      max(from, 1),
		HeadersOnly:      headersOnly,
	})
	if err != nil {
		return e.failure(ctx, "follow "+stream, err)
	}
	var opts []jetstream.PullMessagesOpt
	if e.cluster != nil {
		opts = append(opts, jetstream.PullExpiry(readExpiry), jetstream.PullHeartbeat(readHeartbeat))
	}
	messages, err := c.Messages(opts...)
	if err != nil {
		return e.failure(ctx, "follow "+stream, err)
	}
	defer messages.Stop()
	for {
		m, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return e.failure(ctx, "follow "+stream, err)
		}
		meta, err := m.Metadata()
		if err != nil {
			return e.failure(ctx, "follow "+stream, err)
		}
		err = fn(message{m.Subject(), m.Headers(), m.Data(), meta.Sequence.Stream, meta.NumPending})
		if err != nil {
			return err
		}
	}
}

// guard bounds one request to the engine: by the write timeout, and by the engine saying that it cannot write. The engine
// answers nothing then.
func (e *engine) guard(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, leave := detached(ctx)
	ctx, stop := e.alarm.guard(ctx)
	ctx, cancel := context.WithTimeoutCause(ctx, e.limits.WriteTimeout,
		fmt.Errorf("no answer from the disk within %v%s", e.limits.WriteTimeout, e.alarm.said()))
	return ctx, func() { cancel(); stop(); leave() }
}

// detached gives a context that ends when ctx does, and says no more than that: a caller's own reason, such as that its peer
// has hung up, must not be taken for a failure of the engine.
func detached(ctx context.Context) (context.Context, func()) {
	own, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { cancel(ctx.Err()) })
	return own, func() {
		stop()
		cancel(nil)
	}
}

// failure says why a request to the engine failed. Everything but the caller's own giving up is ErrUnavailable.
func (e *engine) failure(ctx context.Context, what string, err error) error {
	cause := context.Cause(ctx)
	if cause != nil && !errors.Is(cause, context.Canceled) && !errors.Is(cause, context.DeadlineExceeded) {
		return fmt.Errorf("%w: %s: %w", ErrUnavailable, what, cause)
	}
	if cause != nil {
		return fmt.Errorf("registry: %s: %w", what, cause)
	}
	return fmt.Errorf("%w: %s: %w", ErrUnavailable, what, err)
}
