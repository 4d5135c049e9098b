package hubclient

import (
	"context"
	"iter"
	"time"

	"github.com/secretstack/secretstack/hub/native"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/secrez"
)

// Status is how the app stands with one hub.
type Status struct {
	// Hub is the hub's key, Address where the app looks for it, Name what it calls itself, which may be empty.
	Hub     keys.PublicKey
	Address string
	Name    string
	// ID is the app's id there, the latest known one while it is offline; URL is where its HTTP is. Zero: not known yet,
	// and for URL, that the hub serves none.
	ID  secrez.ID
	URL string
	// Sequence counts the ids that the app has had there.
	Sequence uint64
	// Mailbox is how the app's mailbox there was when the hub was last told who may leave mail. See [Client.AllowMail].
	Mailbox native.MailboxStatus
	// Online says that the app can be reached through the hub, and Since from when on that has been, or has not been, so.
	Online bool
	Since  time.Time
	// Err is why the app is not online, or what else went wrong last; nil: nothing. It is a [*native.Error] when the hub
	// refuses the app.
	Err error
	// Retry is when about the app connects again. Zero: it is connected, or is connecting.
	Retry time.Time
}

// Hubs returns how the app stands with each of its hubs, in the order of the configuration.
func (c *Client) Hubs() []Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.statuses()
}

func (c *Client) statuses() []Status {
	all := make([]Status, len(c.hubs))
	for i, h := range c.hubs {
		all[i] = h.status
	}
	return all
}

// Watch returns what Hubs does, at once and after each change, until ctx ends or the loop is left. Changes that come
// together may be one.
func (c *Client) Watch(ctx context.Context) iter.Seq[[]Status] {
	return func(yield func([]Status) bool) {
		for ctx.Err() == nil {
			c.mu.Lock()
			now, changed := c.statuses(), c.changed
			c.mu.Unlock()
			if !yield(now) {
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
			}
		}
	}
}

// update changes a hub's status.
func (h *hub) update(change func(s *Status)) {
	h.c.mu.Lock()
	defer h.c.mu.Unlock()
	was := h.status.Online
	change(&h.status)
	if h.status.Online != was {
		h.status.Since = time.Now()
	}
	h.c.signal()
}
