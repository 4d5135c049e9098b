package registry

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// A request is a petition that waits to be written.
type request struct {
	*petition
	answer chan answer // buffered, so that nobody waits for who has given up
}

type answer struct {
	entry *entry
	err   error
}

// Register gives a key its id: the one it has, or a new one. When it returns, the id is on disk and Lookup finds it.
// Concurrent registrations of one key give the same id, and registrations that come together share a write.
//
// A key that has an id and asks for nothing else costs no write. One that only confirms what is so is not kept
// waiting for it, and need not be written. Its error is ErrEvidence, ErrBoxKey, ErrStale, ErrClaim or
// ErrGivenUp for what is wrong with the registration; ErrUnavailable or ErrClosed, within a bounded time, when nothing can be written; or
// that of ctx. After the last two the id may have been given nonetheless, and asking again tells it.
func (r *Registry) Register(ctx context.Context, reg Registration) (Record, error) {
	p, err := reg.verify(r.cfg.Identity.Public(), r.cfg.Limits.MaxEvidence)
	if err != nil {
		return Record{}, err
	}
	e, deeds, err := (&view{dir: r.dir}).decide(p, r.nowMilli())
	if err != nil {
		return Record{}, err
	}
	if len(deeds) == 0 {
		return e.record(), nil
	}
	if cur := r.dir.keyed(p.key); cur != nil && cur.same(e) {
		e, err = r.confirm(ctx, p, cur)
	} else {
		e, err = r.commit(ctx, p)
	}
	if err != nil {
		return Record{}, err
	}
	return e.record(), nil
}

// confirm writes better evidence of an entry down. The key has the entry, whether that can be written now or not: a courier that comes
// from another node, which was the one that puts writes in their order, is not kept waiting until there is a new one.
func (r *Registry) confirm(ctx context.Context, p *petition, cur *entry) (*entry, error) {
	soon, cancel := context.WithTimeout(ctx, answerSoon)
	defer cancel()
	e, err := r.commit(soon, p)
	if errors.Is(err, ErrUnavailable) || soon.Err() != nil && ctx.Err() == nil && errors.Is(err, soon.Err()) {
		return cur, nil
	}
	return e, err
}

// answerSoon is how long the writer takes for an answer unless something is wrong.
const answerSoon = time.Second

// commit hands a petition to the writer and waits for its answer.
func (r *Registry) commit(ctx context.Context, p *petition) (*entry, error) {
	if err := r.writable(); err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, gaveUp(ctx)
	}
	// The channel of ctx, and a context on top of it, would leave memory behind in ctx, which may be that of an idle courier.
	// So only those ask for it who are not answered soon.
	var end <-chan struct{}
	asked := false
	timer := time.NewTimer(answerSoon)
	defer timer.Stop()
	req := &request{petition: p, answer: make(chan answer, 1)}
	for requests := r.requests; ; {
		select {
		case requests <- req:
			requests = nil
		case a := <-req.answer:
			return a.entry, a.err
		case <-r.done:
			return req.last()
		case <-end:
			return nil, gaveUp(ctx)
		case <-timer.C:
			if asked {
				return nil, errTooMuch
			}
			end, asked = ctx.Done(), true
			// The writer answers all that it has within two writes and the engine's way down.
			timer.Reset(2*r.cfg.Limits.WriteTimeout + r.cfg.Limits.CloseTimeout)
		}
	}
}

// last gives the answer of a writer that has ended.
func (r *request) last() (*entry, error) {
	select {
	case a := <-r.answer: // the last thing it did
		return a.entry, a.err
	default:
		return nil, ErrClosed
	}
}

var errTooMuch = fmt.Errorf("%w: too much waits to be written", ErrUnavailable)

func gaveUp(ctx context.Context) error {
	return fmt.Errorf("registry: register: %w", context.Cause(ctx))
}

// work is the writer: the only goroutine that writes to the log, and the one that replaces an engine that fails.
func (r *Registry) work() {
	defer close(r.done)
	pause := r.cfg.Limits.RetryMin
	for r.life.Err() == nil {
		n, _ := r.current()
		if n != nil {
			pause = r.cfg.Limits.RetryMin
			r.serve(n)
			continue
		}
		r.rest(pause)
		pause = min(2*pause, r.cfg.Limits.RetryMax)
		r.restart(pause)
	}
	r.finish()
}

// serve writes what is asked for, once, or takes down an engine that has failed.
func (r *Registry) serve(n *run) {
	var err error
	rang, later := r.alarmOf(n)
	select {
	case <-r.life.Done():
	case err = <-n.failed:
	case <-rang:
		err = n.alarm.why()
	case <-later:
	case s := <-r.suspects:
		if s.run == n {
			err = s.err
		}
	case first := <-r.requests:
		err = r.write(n, r.gather(first))
	}
	if err != nil && n.broken(err) && (r.fits() || errors.Is(err, ErrDamaged)) {
		r.fail(n, err)
	}
}

// alarmOf tells when an engine of a node has given up its files, also if nobody asks it for anything, and when to look again whether
// another one would fare better.
func (r *Registry) alarmOf(n *run) (rang <-chan struct{}, later <-chan time.Time) {
	switch {
	case n.cluster == nil:
		return nil, nil
	case n.alarm.rung() && !r.fits():
		return nil, time.After(r.cfg.Limits.RetryMin)
	}
	return n.alarm.rang, nil
}

// fits reports whether an engine is worth being replaced: on a full disk the next one fails too, and in a cluster one that has given
// up its files is still the connection to the other nodes.
func (r *Registry) fits() bool {
	return r.cfg.Cluster == nil || r.roomOnDisk(r.cfg.Limits.MinFree) == nil
}

// broken reports whether an engine has to be replaced because of an error. In a cluster it need not be this node's fault that
// something cannot be written.
func (n *run) broken(err error) bool {
	return n.cluster == nil || n.alarm.rung() || errors.Is(err, ErrDamaged)
}

// gather takes what waits, so that it shares a write.
func (r *Registry) gather(batch ...*request) []*request {
	for len(batch) < r.cfg.Limits.MaxGroup {
		select {
		case req := <-r.requests:
			batch = append(batch, req)
		default:
			return batch
		}
	}
	return batch
}

// write grants and answers requests. Its error says that the engine has failed; then everybody has been told.
func (r *Registry) write(n *run, batch []*request) error {
	for len(batch) > 0 {
		last, _ := r.dir.position()
		answered, err := r.writeGroup(n, batch, last)
		if errors.Is(err, errMoved) {
			err = r.catchUp(n, last)
		}
		if err != nil {
			refuse(batch, err)
			return err
		}
		batch = batch[answered:]
	}
	return nil
}

// writeGroup decides on as many requests as fit one message, writes what they need, and answers them when it is on disk.
// last is where the log ends for the directory that decides.
func (r *Registry) writeGroup(n *run, batch []*request, last uint64) (answered int, err error) {
	previous := r.dir.last()
	v, now := &view{dir: r.dir}, r.nowMilli()
	group, deeds := newGroup(previous), []deed(nil)
	var answers []answer
	for _, req := range batch {
		if len(group) > maxGroupBytes {
			break
		}
		e, needed, err := v.decide(req.petition, now)
		for _, d := range needed {
			group = appendDeed(group, d)
			deeds = append(deeds, *d)
		}
		answers = append(answers, answer{e, err})
	}
	if len(deeds) > 0 {
		sequence, err := n.appendLog(context.Background(), group, last)
		if err != nil {
			return 0, err
		}
		r.mark.write(sequence)
		if err := r.apply(sequence, previous, deeds); err != nil {
			return 0, err
		}
	}
	for i, a := range answers {
		batch[i].answer <- a
	}
	return len(answers), nil
}

// catchUp waits until the directory has taken in what somebody else has written: a write of our own that was given up as
// lost, or one of another node.
func (r *Registry) catchUp(n *run, last uint64) error {
	if n.cluster != nil {
		if err := r.fetch(n); err != nil {
			return err
		}
	}
	applied, moved := r.dir.position()
	if applied > last {
		return nil
	}
	timeout := time.NewTimer(r.cfg.Limits.WriteTimeout)
	defer timeout.Stop()
	select {
	case <-moved:
		return nil
	case <-timeout.C:
		return fmt.Errorf("%w: the log has moved on and cannot be read", ErrUnavailable)
	}
}

func refuse(batch []*request, err error) {
	for _, req := range batch {
		req.answer <- answer{err: err}
	}
}

// fail takes a failed engine down.
func (r *Registry) fail(n *run, err error) {
	err = unavailable(err)
	r.cfg.Logger.Error("registry: nothing can be written, the engine is restarted", "err", err)
	r.mu.Lock()
	r.failed++
	r.mu.Unlock()
	r.setRun(nil, err)
	if err := n.end(); err != nil {
		r.cfg.Logger.Error("registry: end the engine", "err", err)
	}
}

// rest refuses what is asked for while the engine is down, until it is time to try again.
func (r *Registry) rest(pause time.Duration) {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for {
		select {
		case <-r.life.Done():
			return
		case req := <-r.requests:
			r.mu.Lock()
			err := r.down
			r.mu.Unlock()
			req.answer <- answer{err: err}
		case <-r.suspects: // it is known
		case <-timer.C:
			return
		}
	}
}

// restart starts an engine again if the one before has let go of the files.
func (r *Registry) restart(pause time.Duration) {
	select {
	case <-r.files.gone:
	default:
		return
	}
	ctx, cancel := context.WithTimeout(r.life, r.cfg.Limits.StartTimeout)
	defer cancel()
	n, err := r.start(ctx)
	if err != nil {
		r.cfg.Logger.Warn("registry: the engine does not start", "err", err, "again in", pause)
		r.setRun(nil, unavailable(err))
		return
	}
	r.cfg.Logger.Info("registry: the engine works again")
	r.setRun(n, nil)
}

// finish writes what waits and gives everything back.
func (r *Registry) finish() {
	n, _ := r.current()
	if n != nil {
		var err error
		for len(r.requests) > 0 && err == nil {
			err = r.write(n, r.gather())
		}
		r.setRun(nil, ErrClosed)
		r.closeErr = errors.Join(err, n.end())
	}
	for len(r.requests) > 0 {
		refuse(r.gather(), ErrClosed)
	}
	r.closeErr = errors.Join(r.closeErr, r.release())
}

// unavailable makes sure that an error says what it means for whoever asks.
func unavailable(err error) error {
	if errors.Is(err, ErrUnavailable) || errors.Is(err, ErrDamaged) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}
