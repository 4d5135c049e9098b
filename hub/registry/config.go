package registry

import (
	"errors"
	"log/slog"
	"time"

	"github.com/secretstack/secretstack/keys"
)

// Config says how a registry is opened. Dir and Identity are needed.
type Config struct {
	// Dir is the data folder. It is made if it is not there (mode 0700). One process has it at a time.
	Dir string

	// Identity is the hub's. Statements must be meant for its public key, and it signs receipts. A hub that changes its
	// identity can no longer check what it holds.
	Identity *keys.Identity

	// Logger gets what operators should know, and at debug level what the engine says. Nil: nothing is logged.
	Logger *slog.Logger

	// Limits bounds what can be bounded.
	Limits Limits

	// Cluster makes the registry one of several. Nil: it is alone.
	Cluster *Cluster

	// Replicas is how many nodes of a cluster hold everything: 1, 3 or 5. A write is acknowledged when a majority of them has
	// synced it. Zero: 3 in a cluster. More than 1 are refused without one.
	Replicas int

	// Lost is called with each record that holds no more: its key has got another id, or was given up for another key. It is
	// called for what this node has written, before whoever asked for that is answered, and for what others have, as soon as
	// it is known; also while Open reads what was stored. It must return soon, and may be called concurrently. Nil: nobody is told.
	Lost func(Record)

	// Now is the clock that dates records. No decision depends on it. Nil: time.Now.
	Now func() time.Time
}

// Limits are the bounds of a registry. The zero value of each field means its default.
type Limits struct {
	// MaxEvidence is the most bytes of proof that are kept with a record. Zero: 16 KiB. At most 256 KiB.
	MaxEvidence int

	// MaxGroup is how many registrations share one write to disk at most. Zero: 512.
	MaxGroup int

	// MaxWaiting is how many registrations wait for the disk at most; further ones wait to be let in. Zero: 4096.
	MaxWaiting int

	// MaxValue is the most bytes of a value in a bucket. Zero: 256 KiB. At most 512 KiB.
	MaxValue int

	// MinFree is how many bytes must be free on the disk for anything to be written. A disk that other programs fill up
	// then never meets the engine in the middle of a write. Zero: 64 MiB. Less than zero: not looked at.
	MinFree int64

	// WriteTimeout bounds one write to disk. Zero: 5 s.
	WriteTimeout time.Duration

	// StartTimeout bounds the start of the engine, which reads all that is stored. Zero: 5 min. Open waits for other nodes longer
	// than that.
	StartTimeout time.Duration

	// CloseTimeout bounds the engine's way down. Zero: 10 s.
	CloseTimeout time.Duration

	// RetryMin and RetryMax bound the pause between attempts to restart a failed engine. Zero: 1 s and 30 s.
	RetryMin, RetryMax time.Duration
}

const (
	maxEvidence = 256 << 10
	maxValue    = 512 << 10

	// maxGroupBytes is from when on a group takes no further registration. See engineMessage.
	maxGroupBytes = 512 << 10
)

func (c Config) withDefaults() (Config, error) {
	if c.Dir == "" {
		return c, errors.New("registry: no data folder given")
	}
	if c.Identity.IsZero() {
		return c, errors.New("registry: no identity given")
	}
	if err := c.checkCluster(); err != nil {
		return c, err
	}
	if c.Replicas == 0 {
		c.Replicas = 1
		if c.Cluster != nil {
			c.Replicas = defaultReplicas
		}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Lost == nil {
		c.Lost = func(Record) {}
	}
	c.Limits.fill()
	return c, nil
}

func (c Config) checkCluster() error {
	switch {
	case c.Cluster == nil && c.Replicas > 1:
		return errors.New("registry: more than one replica needs a cluster")
	case c.Replicas != 0 && c.Replicas != 1 && c.Replicas != 3 && c.Replicas != 5:
		return errors.New("registry: there can be 1, 3 or 5 replicas")
	case c.Cluster == nil:
		return nil
	}
	return c.Cluster.check()
}

// fill puts the defaults in.
func (l *Limits) fill() {
	setDefault(&l.MaxEvidence, 16<<10)
	setDefault(&l.MaxGroup, 512)
	setDefault(&l.MaxWaiting, 4096)
	setDefault(&l.MaxValue, 256<<10)
	setDefault(&l.WriteTimeout, 5*time.Second)
	setDefault(&l.StartTimeout, 5*time.Minute)
	setDefault(&l.CloseTimeout, 10*time.Second)
	setDefault(&l.RetryMin, time.Second)
	setDefault(&l.RetryMax, 30*time.Second)
	l.MaxEvidence = min(l.MaxEvidence, maxEvidence)
	l.MaxValue = min(l.MaxValue, maxValue)
	if l.MinFree == 0 {
		l.MinFree = 64 << 20
	}
}

func setDefault[T int | time.Duration](field *T, value T) {
	if *field <= 0 {
		*field = value
	}
}
