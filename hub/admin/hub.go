package admin

import (
	"net/netip"
	"time"

	"github.com/secretstack/secretstack/hub/circuits"
	"github.com/secretstack/secretstack/hub/mailbox"
	"github.com/secretstack/secretstack/hub/port"
	"github.com/secretstack/secretstack/hub/registry"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/secrez"
)

// Hub is what this package must know of a running hub. Its methods are called concurrently, at every scrape and every few
// seconds for each open page. They answer from memory, without waiting for the network or the disk.
type Hub interface {
	// About tells what does not change while the hub runs, except at a reload.
	About() About

	// Status tells how the hub is doing now.
	Status() Status

	// Couriers lists who is connected, in any order. The slice is the caller's.
	Couriers() []Courier

	// Disconnect closes all connections of a key and tells how many there were. The peer may come back: a deny rule keeps
	// it away.
	Disconnect(key keys.PublicKey) int

	// InviteLink writes an invite's code as the link that a person gets, with the hub's address in it.
	InviteLink(code string) string
}

// About says which hub this is.
type About struct {
	Version string
	Key     keys.PublicKey
	Domain  string    // "": none is configured
	Address string    // the first of the addresses that the hub tells peers
	Started time.Time // when this process started to serve

	// Limits are the bounds in force, in the order and the words in which they are shown. No secret is among them.
	Limits []Limit
}

// Limit is one bound in force, such as {"connections of an address", "256"}.
type Limit struct {
	Name  string
	Value string
}

// Status is how a hub is doing at one moment.
type Status struct {
	// Draining says that the hub takes nobody new, because it is about to end.
	Draining bool

	// Problems are reasons of the hub's own for not being ready, one sentence each: a listener that failed, a certificate
	// that ran out. What Draining and Registry say is not repeated here.
	Problems []string

	// Cluster is how the nodes are doing. Nil: the hub is alone.
	Cluster *Cluster

	Registry     registry.Status
	Certificates []Certificate
	Port         port.Stats
	Circuits     circuits.Stats
	Mailboxes    mailbox.Stats

	Pools    int // couriers with a port for raw tunnel sockets
	Sockets  int // raw tunnel sockets, of all pools
	Waiting  int // visitors that wait for a courier's connection
	Requests int // HTTP exchanges under way
	Tunnels  int // tunnels through the room
}

// Certificate is one that the hub shows to visitors.
type Certificate struct {
	Name    string    // what it is for: a domain, or "*." and a domain
	Expires time.Time // zero: there is none yet
	Problem string    // why it could not be renewed, the last time that was tried; "": nothing is wrong
}

// Courier is one who is connected.
type Courier struct {
	Key   keys.PublicKey
	ID    secrez.ID  // the zero ID: has none
	Kind  Kind       // how it is connected
	Addr  netip.Addr // where it comes from
	Since time.Time  // when this connection was made, or this registration

	Received int64 // bytes from the courier
	Sent     int64 // bytes to the courier
}

// Kind is how a courier is connected.
type Kind string

// The kinds of couriers.
const (
	KindNative Kind = "native" // one connection on which the secret handshake proved the key
	KindSecrez Kind = "secrez" // registered with the v1 API, and raw tunnel sockets
	KindRoom   Kind = "room"   // attends the room, without an id
)

var kinds = []Kind{KindNative, KindSecrez, KindRoom}
