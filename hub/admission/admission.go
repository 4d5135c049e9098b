package admission

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/secretstack/secretstack/internal/netaddr"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/secrez"
)

// Mode says what those may do about whom there is no rule.
type Mode string

const (
	// ModeOpen lets everybody visit and publish.
	ModeOpen Mode = "open"

	// ModeInvite lets everybody visit; publishing needs an invite once.
	ModeInvite Mode = "invite"

	// ModeClosed lets nobody visit or publish whom no rule allows.
	ModeClosed Mode = "closed"
)

// ParseMode reads a mode; no text means ModeOpen. Its error is [ErrRule].
func ParseMode(s string) (Mode, error) {
	switch m := Mode(s); m {
	case "":
		return ModeOpen, nil
	case ModeOpen, ModeInvite, ModeClosed:
		return m, nil
	}
	return "", fmt.Errorf("%w: the mode is open, invite or closed", ErrRule)
}

// UnmarshalText reads what ParseMode reads.
func (m *Mode) UnmarshalText(text []byte) error {
	parsed, err := ParseMode(string(text))
	if err == nil {
		*m = parsed
	}
	return err
}

// Config says how admission works. Rules, Invites and IDOf are needed.
type Config struct {
	// Mode is where the hub begins. Zero: ModeOpen.
	Mode Mode

	// Rules and Invites are the buckets RulesBucket and InvitesBucket of the registry. Nothing else writes to them.
	Rules, Invites Bucket

	// IDOf finds the id of a key in memory, or gives the zero id. It is called on every visit while there are rules about ids,
	// and when somebody publishes.
	IDOf func(keys.PublicKey) secrez.ID

	// Fixed holds the rules of the configuration file: one about each subject. See Admission.SetFixed.
	Fixed []Rule

	// Limits bounds what anybody may ask for. See Admission.SetLimits.
	Limits Limits

	// OnChange is called after anything has changed that can make somebody unwelcome: the mode, rules, or that a rule expires.
	// It is called again if something changes while it runs, but never twice at a time. It may call everything but Close, which
	// waits for it. Nil: nobody wants to know.
	OnChange func()

	// Tracked is for how many addresses, and for how many keys, rates are remembered. Zero: 65536 each, which takes at most
	// 5 MiB and 6 MiB.
	Tracked int

	// MaxRules is how many rules may be stored. Zero: 100000.
	MaxRules int

	// MaxInvites is how many invites may be stored, with those that are kept for the sake of their members. Zero: 10000.
	MaxInvites int

	// Logger gets who was let in and put out by whom. Codes of invites are never logged. Nil: nothing is logged.
	Logger *slog.Logger

	// Now is the clock for what expires; rates have their own. Nil: time.Now.
	Now func() time.Time
}

func (c Config) withDefaults() (Config, error) {
	if c.Rules == nil || c.Invites == nil || c.IDOf == nil {
		return c, errors.New("admission: Rules, Invites and IDOf must be given")
	}
	var err error
	if c.Mode, err = ParseMode(string(c.Mode)); err != nil {
		return c, err
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	for _, d := range []struct {
		field *int
		value int
	}{{&c.Tracked, defaultTracked}, {&c.MaxRules, 100_000}, {&c.MaxInvites, 10_000}} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	return c, nil
}

// Admission answers who may use a hub. All its methods may be called concurrently.
type Admission struct {
	cfg  Config
	log  *slog.Logger
	gate *Gate

	start     time.Time // of the rates' clock
	limits    atomic.Pointer[inForce]
	addresses *table[[16]byte]
	proved    *table[[32]byte]
	idRules   atomic.Int64 // how many ids have a rule, to spare the search for a key's id
	counts    counts

	ruleFeed, inviteFeed feed

	mu      sync.RWMutex
	mode    Mode                             // guarded by mu
	lists   lists                            // what all rules come to; guarded by mu
	rules   map[Subject]heldRule             // the stored ones; guarded by mu
	fixed   []Rule                           // guarded by mu
	invites map[string]*heldInvite           // by id; guarded by mu
	members map[[keys.PublicKeySize]byte]int // how many invites each member has redeemed; guarded by mu
	due     time.Time                        // when something expires or is to be removed; zero: nothing; guarded by mu
	moved   chan struct{}                    // closed and replaced when a bucket's change has been taken in; guarded by mu

	turn    chan struct{} // held by who changes an invite
	changed chan struct{} // tells tend that something has changed

	life context.Context // ends with Close
	end  context.CancelFunc
	work sync.WaitGroup
}

// Open reads the lists and begins to follow them. Its error is [ErrRule] for something in cfg, [ErrStored], [ErrUnavailable],
// or that of ctx.
func Open(ctx context.Context, cfg Config) (*Admission, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	a := &Admission{
		cfg: cfg, log: cfg.Logger, gate: NewGate(0, 0),
		start: time.Now(), addresses: newTable[[16]byte](cfg.Tracked), proved: newTable[[32]byte](cfg.Tracked),
		mode: cfg.Mode, lists: newLists(), rules: map[Subject]heldRule{}, invites: map[string]*heldInvite{},
		members: map[[keys.PublicKeySize]byte]int{}, moved: make(chan struct{}),
		turn: make(chan struct{}, 1), changed: make(chan struct{}, 1),
		life: life, end: end,
	}
	a.ruleFeed = feed{name: RulesBucket, bucket: cfg.Rules, take: a.takeRule, loaded: make(chan error, 1)}
	a.inviteFeed = feed{name: InvitesBucket, bucket: cfg.Invites, take: a.takeInvite, loaded: make(chan error, 1)}
	if err := errors.Join(a.SetLimits(cfg.Limits), a.SetFixed(cfg.Fixed)); err != nil {
		end()
		return nil, err
	}
	if err := a.load(ctx); err != nil {
		return nil, errors.Join(err, a.Close())
	}
	a.quiet()
	a.work.Go(func() { a.tend(life) })
	return a, nil
}

// load begins to follow the buckets, and waits until what is in them is known.
func (a *Admission) load(ctx context.Context) error {
	for _, f := range []*feed{&a.ruleFeed, &a.inviteFeed} {
		a.work.Go(func() { a.follow(a.life, f) })
	}
	for _, f := range []*feed{&a.ruleFeed, &a.inviteFeed} {
		select {
		case err := <-f.loaded:
			if err != nil {
				return fmt.Errorf("admission: read bucket %s: %w", f.name, failure(err))
			}
		case <-ctx.Done():
			return fmt.Errorf("admission: read bucket %s: %w", f.name, context.Cause(ctx))
		}
	}
	return nil
}

// Close ends everything that runs in the background and waits for it. Questions are still answered.
func (a *Admission) Close() error {
	a.end()
	a.work.Wait()
	return nil
}

// Mode tells the mode.
func (a *Admission) Mode() Mode {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.mode
}

// SetMode changes the mode of this node until it ends. Its error is [ErrRule].
func (a *Admission) SetMode(m Mode) error {
	m, err := ParseMode(string(m))
	if err != nil {
		return err
	}
	a.mu.Lock()
	before := a.mode
	a.mode = m
	a.mu.Unlock()
	if m != before {
		a.log.Info("admission: mode changed", "mode", string(m))
		a.poke()
	}
	return nil
}

// SetLimits changes the limits. They hold when it returns; connections that are there stay. Its error is [ErrRule]; then
// nothing has changed.
func (a *Admission) SetLimits(l Limits) error {
	f, err := l.inForce()
	if err != nil {
		return err
	}
	a.limits.Store(f)
	a.gate.set(bound(l.Connections, defaultConnections), bound(l.ConnectionsPerAddress, defaultPerAddress), f.free)
	return nil
}

// Gate gives the gate through which all connections go. Its bounds are those of [Limits].
func (a *Admission) Gate() *Gate { return a.gate }

// Connect asks for a new connection, of which nothing is known but its address. Its error is that of [Admission.Network], or
// a *[RateError].
func (a *Admission) Connect(addr netip.Addr) error {
	if err := a.Network(addr); err != nil {
		return err
	}
	return a.Allow(Connection, addr)
}

// Network asks whether an address is welcome, and counts nothing. Its error is [ErrDenied].
func (a *Admission) Network(addr netip.Addr) error {
	addr = netaddr.Plain(addr)
	a.mu.RLock()
	v := a.lists.network(addr, a.cfg.Now)
	a.mu.RUnlock()
	if v == denied {
		return a.counts.deny()
	}
	return nil
}

// Visit asks whether somebody who has proved a key may use the hub, and counts nothing. Its error is [ErrDenied], also for
// the zero key.
func (a *Admission) Visit(addr netip.Addr, key keys.PublicKey) error {
	if s := a.look(addr, key, secrez.ID{}); !s.welcome() {
		return a.counts.deny()
	}
	return nil
}

// Reach asks whether visitors may be led to the courier that has an id and a key, and counts nothing. Its error is
// [ErrDenied].
func (a *Admission) Reach(id secrez.ID, key keys.PublicKey) error {
	if s := a.look(netip.Addr{}, key, id); !s.welcome() {
		return a.counts.deny()
	}
	return nil
}

// Publish asks whether somebody who has proved a key may have an id, and redeems his invite if that is what it takes. It does
// not register anything. Invites that are not needed are not looked at.
//
// The id is one that the caller knows to be the key's from elsewhere than Config.IDOf, such as a receipt of this hub that it
// has verified; the zero id if there is none. A key without an id is counted as [NewID].
//
// Its error is [ErrDenied], [ErrInviteNeeded], [ErrInvite], a *[RateError], [ErrUnavailable], or that of ctx. After
// ErrUnavailable or an error of ctx the same call can be made again: no use of the invite is lost.
func (a *Admission) Publish(ctx context.Context, addr netip.Addr, key keys.PublicKey, id secrez.ID, invite string) error {
	s := a.look(addr, key, id)
	if !s.welcome() {
		return a.counts.deny()
	}
	known := !id.IsZero() || !a.cfg.IDOf(key).IsZero()
	if known {
		return nil
	}
	invited := s.mode != ModeInvite || s.network == allowed || s.courier == allowed || s.member
	if !invited && invite == "" {
		a.counts.uninvited.Add(1)
		return ErrInviteNeeded
	}
	if err := a.Allow(NewID, addr); err != nil {
		return err
	}
	if invited {
		return nil
	}
	err := a.redeem(ctx, key, invite)
	if errors.Is(err, ErrInvite) {
		a.counts.uninvited.Add(1)
	}
	return err
}

// A standing is what is known of somebody at a moment.
type standing struct {
	zero    bool // there is no key
	mode    Mode
	network verdict
	courier verdict
	member  bool
}

func (a *Admission) look(addr netip.Addr, key keys.PublicKey, id secrez.ID) standing {
	ids := [2]secrez.ID{id}
	if a.idRules.Load() > 0 {
		ids[1] = a.cfg.IDOf(key)
	}
	array := key.Array()
	addr = netaddr.Plain(addr)
	a.mu.RLock()
	defer a.mu.RUnlock()
	return standing{
		zero:    key.IsZero(),
		mode:    a.mode,
		network: a.lists.network(addr, a.cfg.Now),
		courier: a.lists.courier(array, ids, a.cfg.Now),
		member:  a.members[array] > 0,
	}
}

// welcome reports whether somebody may use the hub at all.
func (s standing) welcome() bool {
	if s.zero || s.network == denied || s.courier == denied {
		return false
	}
	return s.mode != ModeClosed || s.courier == allowed
}

// Allow counts one thing more for an address. Its error is a *[RateError]; then nothing is counted.
func (a *Admission) Allow(kind Kind, addr netip.Addr) error {
	limits := a.limits.Load()
	addr = netaddr.Plain(addr)
	if limits.free(addr) {
		return nil
	}
	return a.charge(kind, a.addresses.take(block(addr), kind, limits.address[kind], a.clock()))
}

// AllowKey counts one thing more for a proved key and for the address from where it comes. Its error is a *[RateError]. From
// an address without limits, a key has none.
func (a *Admission) AllowKey(kind Kind, addr netip.Addr, key keys.PublicKey) error {
	limits := a.limits.Load()
	addr = netaddr.Plain(addr)
	if limits.free(addr) {
		return nil
	}
	now := a.clock()
	// The key comes first: who asks too often with one key does not use up what others behind the same address have.
	if err := a.charge(kind, a.proved.take(key.Array(), kind, limits.key[kind], now)); err != nil {
		return err
	}
	return a.charge(kind, a.addresses.take(block(addr), kind, limits.address[kind], now))
}

func (a *Admission) charge(kind Kind, wait time.Duration) error {
	if wait == 0 {
		return nil
	}
	a.counts.limited[kind].Add(1)
	return &RateError{Kind: kind, RetryAfter: wait}
}

// clock is the rates' time in nanoseconds: it never jumps.
func (a *Admission) clock() int64 { return int64(time.Since(a.start)) }
