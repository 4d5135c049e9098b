package cluster

import "errors"

var (
	// ErrOffline says that no node has the courier.
	ErrOffline = errors.New("cluster: no node has the courier")
	// ErrVersion says that a node is of a version that this one cannot work with.
	ErrVersion = errors.New("cluster: a node is of a version that does not work with this one")
	// ErrUnreachable says that a node did not answer, or that the bus is down.
	ErrUnreachable = errors.New("cluster: the node cannot be reached")
	// ErrBusy says that a node has as much to do as it may.
	ErrBusy = errors.New("cluster: the node has too much to do")
	// ErrClosed says that this node is closed.
	ErrClosed = errors.New("cluster: closed")
)

// Refusal is an answer that says no, in words that both nodes know. It travels as it is.
type Refusal string

// Error is the refusal.
func (r Refusal) Error() string { return string(r) }

// The refusals that are this package's own.
const (
	refusedVersion Refusal = "cluster:version"
	refusedBusy    Refusal = "cluster:busy"
	refusedAway    Refusal = "cluster:away"

	refusedMalformed Refusal = "malformed"
	refusedFailed    Refusal = "failed"
)

// meaning gives the error for a refusal that has come from another node.
func meaning(r Refusal) error {
	switch r {
	case refusedVersion:
		return ErrVersion
	case refusedBusy:
		return ErrBusy
	case refusedAway:
		return ErrOffline
	}
	return r
}

// refusalOf gives what another node is told of an error.
func refusalOf(err error) Refusal {
	var r Refusal
	switch {
	case errors.As(err, &r):
		return r
	case errors.Is(err, ErrOffline):
		return refusedAway
	}
	return refusedFailed // what is behind it is this node's own business
}
