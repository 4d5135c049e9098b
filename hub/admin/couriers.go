package admin

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// Orders of a list of couriers.
const (
	orderNewest  = "newest"
	orderOldest  = "oldest"
	orderTraffic = "traffic"
)

var orders = []string{orderNewest, orderOldest, orderTraffic}

// search says which couriers somebody wants to see. The zero value means all, the newest first.
type search struct {
	Text  string // part of an id, a key or an address
	Kind  Kind   // "": every kind
	Order string // one of orders; "": newest
}

// find gives the couriers that a search asks for, in its order.
func (s search) find(couriers []Courier) []Courier {
	text := strings.ToLower(strings.TrimSpace(s.Text))
	found := slices.DeleteFunc(couriers, func(c Courier) bool {
		return s.Kind != "" && c.Kind != s.Kind || text != "" && !c.matches(text)
	})
	slices.SortFunc(found, func(a, b Courier) int {
		order := b.Since.Compare(a.Since)
		switch s.Order {
		case orderOldest:
			order = -order
		case orderTraffic:
			order = cmp.Or(cmp.Compare(b.Received+b.Sent, a.Received+a.Sent), order)
		}
		return cmp.Or(order, strings.Compare(a.Key.Base64(), b.Key.Base64()))
	})
	return found
}

// matches tells whether a text in lower case is part of what a courier is known by.
func (c *Courier) matches(text string) bool {
	return strings.Contains(strings.ToLower(c.Key.Ref()), text) ||
		strings.Contains(c.id(), text) ||
		strings.Contains(c.Addr.String(), text)
}

// id is the courier's id as text, or "" if it has none.
func (c *Courier) id() string {
	if c.ID.IsZero() {
		return ""
	}
	return c.ID.String()
}

// courierJSON is a courier in the API.
type courierJSON struct {
	Key      string    `json:"key"`
	ID       string    `json:"id,omitempty"`
	Kind     Kind      `json:"kind"`
	Address  string    `json:"address"`
	Since    time.Time `json:"since"`
	Received int64     `json:"received"`
	Sent     int64     `json:"sent"`
}

func (c *Courier) json() courierJSON {
	return courierJSON{c.Key.Ref(), c.id(), c.Kind, c.Addr.String(), c.Since.UTC(), c.Received, c.Sent}
}
