package native

import (
	"time"

	"github.com/secretstack/secretstack/circuit"
	"github.com/secretstack/secretstack/hub/registry/claim"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/secrez"
)

// The methods of circuits. See docs/PROTOCOL.md §12.
const (
	MethodConnect = "hub.connect"       // async, at the hub: ConnectRequest → Connected
	MethodCircuit = "hubclient.circuit" // async, at the courier: CircuitOffer → nothing
)

// NoCircuits says that a courier is here and serves no circuits.
const NoCircuits Code = "no-circuits"

// ConnectRequest asks for a circuit to an id or to a key, one of the two.
type ConnectRequest struct {
	ID  secrez.ID      `json:"id,omitzero"`
	Key keys.PublicKey `json:"key,omitzero"`
}

// Connected is a circuit that waits for its ends, as the visitor sees it.
type Connected struct {
	Key   keys.PublicKey `json:"key"` // of the target
	Token circuit.Token  `json:"token"`
	// Lifetime is how long the token can be presented, in ms from now.
	Lifetime int64 `json:"lifetime"`
	// Addresses is what the target has signed, if it has signed any.
	Addresses *claim.Addresses `json:"addresses,omitempty"`
}

// CircuitOffer is the same as the target sees it.
type CircuitOffer struct {
	Origin   keys.PublicKey `json:"origin"` // of the visitor, as it has proved to the hub
	Token    circuit.Token  `json:"token"`
	Lifetime int64          `json:"lifetime"`
}

// Patience is Lifetime as a duration, no longer than a minute.
func (o CircuitOffer) Patience() time.Duration { return patience(o.Lifetime) }

// Patience is Lifetime as a duration, no longer than a minute.
func (c Connected) Patience() time.Duration { return patience(c.Lifetime) }

func patience(ms int64) time.Duration {
	return time.Duration(min(max(ms, 0), time.Minute.Milliseconds())) * time.Millisecond
}
