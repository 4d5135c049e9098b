// Package native holds what a hub and its couriers say to each other over their own connection, the secret handshake with
// muxrpc inside: the names of the methods, their arguments and answers, and the errors that a courier can act on. Both
// plugins/hubclient and hub speak it; neither knows the other. See docs/PROTOCOL.md §11.
package native

import (
	"time"

	"github.com/secretstack/secretstack/hub/registry/claim"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/secrez"
)

// The methods that a hub serves.
const (
	MethodPublish = "hub.publish" // async: PublishRequest → Published
	MethodReset   = "hub.reset"   // async: ResetRequest → Published
	MethodWhois   = "hub.whois"   // async: WhoisRequest → Who
	MethodStatus  = "hub.status"  // async: nothing → Status
)

// The methods that a courier serves for the hubs that it has connected to.
const (
	MethodHTTP   = "hubclient.http"   // duplex of bytes: one connection of HTTP/1.1, on which the hub is the client
	MethodNotice = "hubclient.notice" // async: Notice → nothing
)

// MaxRotations bounds the changes of keys that come with one PublishRequest.
const MaxRotations = 8

// What a courier serves, as it says when it publishes itself.
const (
	ServesHTTP     = "http"     // MethodHTTP
	ServesCircuits = "circuits" // hubclient.circuit
)

// PublishRequest asks for the id of the key that the courier has proved, and says that the courier is to be reached through
// the connection on which it is made.
type PublishRequest struct {
	// Signed is a statement that asks to register, for this hub and the courier's key.
	claim.Signed
	// Receipt is the latest that the courier has from this hub. Nil: it has none.
	Receipt *claim.Receipt `json:"receipt,omitempty"`
	// Rotations are statements (package keys/rotation) by which other keys are given up for the courier's, the latest first
	// and at most MaxRotations. If one of those keys has an id here and the courier's has none, it gets that. Nil: none.
	Rotations [][]byte `json:"rotations,omitempty"`
	// Invite is the code of an invitation, for a hub that asks for one. Empty: none.
	Invite string `json:"invite,omitempty"`
	// Serves is what the courier serves. Unknown words mean nothing.
	Serves []string `json:"serves,omitempty"`
	// Addresses is where the courier can be reached, for those who do not find it here. Nil: it does not say.
	Addresses *claim.Addresses `json:"addresses,omitempty"`
}

// ResetRequest asks for a new id in place of the one that the statement names.
type ResetRequest struct {
	claim.Signed
	Receipt *claim.Receipt `json:"receipt,omitempty"`
}

// Published is what a hub answers to PublishRequest and ResetRequest.
type Published struct {
	ID secrez.ID `json:"id"`
	// URL is where the courier's HTTP is, if the hub serves it. Empty: it does not.
	URL      string `json:"url,omitempty"`
	Sequence uint64 `json:"sequence"`
	// Receipt is the hub's word for all that, to be kept.
	Receipt claim.Receipt `json:"receipt"`
	// PublicKey is the courier's key in the form of Secrez, box half included.
	PublicKey secrez.PublicKey `json:"publicKey"`
	// Hub is what the hub is called. It may be empty.
	Hub string `json:"hub,omitempty"`
}

// WhoisRequest asks about an id or about a key, one of the two.
type WhoisRequest struct {
	ID  secrez.ID      `json:"id,omitzero"`
	Key keys.PublicKey `json:"key,omitzero"`
}

// Who is what a hub answers to WhoisRequest.
type Who struct {
	ID        secrez.ID        `json:"id"`
	Key       keys.PublicKey   `json:"key"`
	PublicKey secrez.PublicKey `json:"publicKey"`
	URL       string           `json:"url,omitempty"`
	// Online says that the courier can be reached now, and Serves how: a courier of Secrez serves "http".
	Online bool     `json:"online"`
	Serves []string `json:"serves,omitempty"`
	// Addresses is what the courier has said last of where it can be reached. Nil: nothing, or the hub has forgotten it.
	Addresses *claim.Addresses `json:"addresses,omitempty"`
}

// Status is what a courier may know of a hub. It is also what couriers ask for to see whether the hub is still there.
type Status struct {
	Hub       string `json:"hub,omitempty"` // what the hub is called
	Version   string `json:"version,omitempty"`
	Domain    string `json:"domain,omitempty"`
	Admission string `json:"admission"` // "open", "invite" or "closed"
	// Draining says that the hub is about to end.
	Draining bool `json:"draining,omitempty"`
	// Published says whether this connection is the one by which the courier is reached.
	Published bool `json:"published"`
}

// The kinds of Notice.
const (
	NoticeDrain    = "drain"    // the hub is about to end, or the courier should be elsewhere
	NoticeReplaced = "replaced" // another connection of the same key has published itself
)

// Notice is what a hub tells a courier of its own accord.
type Notice struct {
	Type string `json:"type"`
	// Text is for people. It may be empty.
	Text string `json:"text,omitempty"`
	// Address is where the hub is to be found instead; it has the same key there. Empty: where it was.
	Address string `json:"address,omitempty"`
	// After is how long to wait before coming there, in ms.
	After int64 `json:"after,omitempty"`
}

// Pause is After as a duration, no longer than a day.
func (n Notice) Pause() time.Duration {
	const most = 24 * time.Hour
	return time.Duration(min(max(n.After, 0), most.Milliseconds())) * time.Millisecond
}
