package mailbox

import (
	"errors"
	"log/slog"
	"time"

	"github.com/secretstack/secretstack/hub/registry"
	"github.com/secretstack/secretstack/keys"
)

const (
	// MinSize is the smallest size class of envelopes, in bytes. Each other is twice the one before.
	MinSize = 1 << 10
	// MaxSize is the largest size class, in bytes.
	MaxSize = 256 << 10
	// SecretSize is the length of Config.Secret in bytes.
	SecretSize = 32
)

// Config says how mailboxes are kept. Registry and Secret are needed.
type Config struct {
	// Registry has the engine on which they lie.
	Registry *registry.Registry
	// Secret keys the hashes by which senders are known. With another one the lists of allowed senders mean nobody.
	Secret [SecretSize]byte
	// Limits bounds what is kept.
	Limits Limits
	// Arrived is told of each deposit when it is on disk. It must not block. Nil: nobody is.
	Arrived func(recipient keys.PublicKey)
	// Logger gets what operators should know. Nil: nothing is logged.
	Logger *slog.Logger
	// Now is the clock by which envelopes expire. Nil: time.Now.
	Now func() time.Time
}

// Limits are the bounds. The zero value of each field means its default.
type Limits struct {
	MaxAllowed int // keys and tokens in the list of one mailbox; 0: 4096, which is also the most

	MaxMessages       int   // that wait in one mailbox; 0: 1024
	MaxBytes          int64 // 0: 32 MiB
	MaxPerSender      int   // of these, those of one sender; 0: 256
	MaxBytesPerSender int64 // 0: 8 MiB
	MaxSent           int   // of one sender in all mailboxes; 0: 8192
	MaxSentBytes      int64 // 0: 256 MiB
	MaxTotal          int   // in all mailboxes; 0: 1,048,576
	MaxTotalBytes     int64 // 0: 4 GiB

	MaxRequestSize        int   // bytes of an envelope of a stranger; 0: 16 KiB
	MaxRequests           int   // that wait in one request box; 0: 32
	MaxRequestBytes       int64 // 0: 256 KiB
	MaxRequestsPerSender  int   // of these, those of one stranger; 0: 2
	MaxRequestsSent       int   // of one stranger in all request boxes; 0: 64
	MaxTotalRequests      int   // in all request boxes; 0: 131,072
	MaxTotalRequestsBytes int64 // 0: 512 MiB

	SmallMessages int   // up to which a mailbox may use the last quarter of MaxTotal; 0: 64
	SmallBytes    int64 // and of MaxTotalBytes; 0: 1 MiB

	Keep         time.Duration // until mail expires; 0: 30 days
	KeepRequests time.Duration // until requests do; 0: 14 days

	MaxWriting         int // deposits of mail that wait for the disk; 0: 64. Others wait for them
	MaxWritingRequests int // and of requests; 0: 16
}

const mostAllowed = 4096

func (l Limits) withDefaults() Limits {
	for _, d := range []struct {
		field *int
		value int
	}{
		{&l.MaxAllowed, mostAllowed}, {&l.MaxMessages, 1024}, {&l.MaxPerSender, 256}, {&l.MaxSent, 8192}, {&l.MaxTotal, 1 << 20},
		{&l.MaxRequestSize, 16 << 10}, {&l.MaxRequests, 32}, {&l.MaxRequestsPerSender, 2}, {&l.MaxRequestsSent, 64},
		{&l.MaxTotalRequests, 1 << 17}, {&l.SmallMessages, 64}, {&l.MaxWriting, 64}, {&l.MaxWritingRequests, 16},
	} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	for _, d := range []struct {
		field *int64
		value int64
	}{
		{&l.MaxBytes, 32 << 20}, {&l.MaxBytesPerSender, 8 << 20}, {&l.MaxSentBytes, 256 << 20}, {&l.MaxTotalBytes, 4 << 30},
		{&l.MaxRequestBytes, 256 << 10}, {&l.MaxTotalRequestsBytes, 512 << 20}, {&l.SmallBytes, 1 << 20},
	} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	l.MaxAllowed = min(l.MaxAllowed, mostAllowed)
	setDefault(&l.Keep, 30*24*time.Hour)
	setDefault(&l.KeepRequests, 14*24*time.Hour)
	return l
}

func setDefault(field *time.Duration, value time.Duration) {
	if *field <= 0 {
		*field = value
	}
}

func (c Config) withDefaults() (Config, error) {
	if c.Registry == nil || c.Secret == [SecretSize]byte{} {
		return c, errors.New("mailbox: Registry and Secret are needed")
	}
	c.Limits = c.Limits.withDefaults()
	if c.Arrived == nil {
		c.Arrived = func(keys.PublicKey) {}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c, nil
}
