// Package rooms is what the two sides of a room, the portal and its attendants, say to each other: the messages of the
// plugins room and tunnel, which do not know each other. See docs/PROTOCOL.md §7.
package rooms

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"github.com/secretstack/secretstack/muxrpc"
)

// MethodConnect opens a tunnel: an attendant calls it at the portal, and the portal at the target.
const MethodConnect = "tunnel.connect"

// ConnectRequest is the argument of tunnel.connect.
type ConnectRequest struct {
	Target string `json:"target"`
	// Portal is the room that the caller means; rooms older than that leave it out and send an instance instead.
	Portal   string          `json:"portal,omitempty"`
	Instance json.RawMessage `json:"instance,omitempty"`
	// Origin is who calls. The portal fills it in, whatever the caller wrote.
	Origin string `json:"origin,omitempty"`
}

// ReadConnectRequest returns the request in the arguments of a call, or nil when there is none. One that is longer than
// so many bytes is refused: it is kept as long as its tunnel lasts.
func ReadConnectRequest(args muxrpc.Args, longest int) (*ConnectRequest, error) {
	if len(args.At(0)) > longest {
		return nil, muxrpc.Errorf("the request is too long")
	}
	var request *ConnectRequest
	err := args.Decode(&request)
	return request, err
}

// ErrNoRequest is the answer to a call without a request.
var ErrNoRequest = muxrpc.Errorf("opts *must* be provided")

// ShownTarget is as much of a target as errors repeat: a reference, whole.
func ShownTarget(target string) string {
	const longest = 100 // a reference has 53
	return Cut(target, longest)
}

// Cut returns no more than the first n bytes of a text, and no part of a character.
func Cut(text string, n int) string {
	if len(text) <= n {
		return text
	}
	return strings.ToValidUTF8(text[:n], "")
}

// Change is an item of room.attendants: who is there ("state"), or who has "joined" or "left".
type Change struct {
	Type string   `json:"type"`
	IDs  []string `json:"ids,omitempty"` // of a state
	ID   string   `json:"id,omitempty"`  // of the others
}

// The types of a Change.
const (
	ChangeState  = "state"
	ChangeJoined = "joined"
	ChangeLeft   = "left"
)

// Ping answers tunnel.ping with the time in milliseconds, from which the other side learns the delay and the clock's
// difference.
func Ping(context.Context, muxrpc.None) (int64, error) { return time.Now().UnixMilli(), nil }
