package cluster

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/secretstack/secretstack/keys"
)

// The version of what nodes say to each other. A node works with those of the version before and of the next.
const version = 1

// Bus is the connection by which nodes talk. *registry.Registry is one.
type Bus interface {
	// Conn gives the connection, or nil while there is none, and a channel that is closed when there is another.
	Conn() (*nats.Conn, <-chan struct{})
}

// Config says what a node is. Bus, Name, Identity, AppKey, Listener, Answer and Serve are needed.
type Config struct {
	Bus Bus
	// Name is the node's own, no other node's. Identity is the node's key pair, not the hub's. AppKey is the cluster's.
	Name     string
	Identity *keys.Identity
	AppKey   keys.AppKey
	// Listener takes links, and is closed with the node. Advertise is where other nodes find it. Empty: its address.
	Listener  net.Listener
	Advertise string
	// Release is the program's version, for people.
	Release string

	// Answer answers a question about somebody that this node has published, or about the node, which has published itself. Its
	// error travels if it is a [Refusal]; ErrOffline says that nobody is here after all.
	Answer func(ctx context.Context, as Role, key keys.PublicKey, question []byte) ([]byte, error)
	// Serve takes a link that another node has opened, with its request. It must call accept once, from its own goroutine: with
	// why not, or with nil, and then it owns the connection that it gets, also after it has returned. ctx ends when the other node
	// has gone, which need not show on the link, and with this node: then the link is to be closed.
	Serve func(ctx context.Context, from keys.PublicKey, request []byte, accept func(error) (net.Conn, error))
	// Drains is called when another node says that it is about to end. It must return soon. Nil: nobody is told.
	Drains func()
	// Load tells how many couriers and how many connections this node has, and whether it is about to end. Nil: nothing is told.
	Load func() Load

	Limits Limits
	// Logger gets what operators should know. Nil: nothing is logged.
	Logger *slog.Logger

	version int // in tests: another one
}

// Load is how much a node has to do, and where its couriers find it.
type Load struct {
	Couriers int    `json:"couriers"`
	Peers    int    `json:"peers"`
	Draining bool   `json:"draining,omitempty"`
	Public   string `json:"public,omitempty"` // an address that leads to this node and no other
	// Room is another text whenever others are in the room of this node. Empty: nobody is.
	Room string `json:"room,omitempty"`
}

// Limits are the bounds of a node. The zero value of each field means its default.
type Limits struct {
	AskTimeout    time.Duration // for one node to answer a question; 0: 2 s
	AskAttempts   int           // when a node does not answer; 0: 3
	AnswerTimeout time.Duration // for this node to answer one; 0: 10 s
	MaxAnswers    int           // questions that are answered at once; 0: 1024
	LinkTimeout   time.Duration // to open a link, request and answer included; 0: 15 s
	MaxLinks      int           // links of other nodes that are being opened or open; 0: 65536
	HelloEvery    time.Duration // between two words of this node about itself; 0: 1 s
}

const (
	maxQuestion = 64 << 10 // bytes of a question, an answer or a request
	mostHellos  = 1024     // of other nodes that wait to be heard
	silentAfter = 5        // hellos that a node may miss before it is counted as gone
)

func (c Config) withDefaults() (Config, error) {
	if c.Bus == nil || c.Name == "" || c.Identity.IsZero() || c.AppKey.IsZero() || c.Listener == nil || c.Answer == nil ||
		c.Serve == nil {
		return c, errors.New("cluster: the configuration of the node is not complete")
	}
	if c.Advertise == "" {
		c.Advertise = c.Listener.Addr().String()
	}
	if c.Load == nil {
		c.Load = func() Load { return Load{} }
	}
	if c.Drains == nil {
		c.Drains = func() {}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.version == 0 {
		c.version = version
	}
	l := &c.Limits
	setDefault(&l.AskTimeout, 2*time.Second)
	setDefault(&l.AskAttempts, 3)
	setDefault(&l.AnswerTimeout, 10*time.Second)
	setDefault(&l.MaxAnswers, 1024)
	setDefault(&l.LinkTimeout, 15*time.Second)
	setDefault(&l.MaxLinks, 65536)
	setDefault(&l.HelloEvery, time.Second)
	return c, nil
}

func setDefault[T int | time.Duration](field *T, value T) {
	if *field <= 0 {
		*field = value
	}
}

// works reports whether this node works with one of another version.
func (c Config) works(other int) bool { return other >= c.version-1 && other <= c.version+1 }
