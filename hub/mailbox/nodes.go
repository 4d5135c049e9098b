package mailbox

import (
	"encoding/json"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/secretstack/secretstack/keys"
)

// Where several nodes have the same registry, each tells the others what it has stored and removed, so that they count it
// and wake who waits for it. See docs/PROTOCOL.md §14.7.

const (
	newsSubject = "mailbox.news"
	// recountEvery is how often a node counts everything anew, because it may have missed something.
	recountEvery = 10 * time.Minute
)

// news is what one node tells the others. Sender is the tag under which the envelope lies.
type news struct {
	Node    string         `json:"node"` // drawn at random by each process
	Box     keys.PublicKey `json:"box"`
	Request bool           `json:"request,omitempty"`
	Sender  []byte         `json:"sender"`
	Size    int            `json:"size"`
	Removed bool           `json:"removed,omitempty"`
}

// tell tells the other nodes, if there are any. Nothing waits for that.
func (m *Mailboxes) tell(recipient keys.PublicKey, k kind, t tag, size int, removed bool) {
	if !m.shared {
		return
	}
	conn, _ := m.cfg.Registry.Conn()
	if conn == nil {
		return
	}
	b, err := json.Marshal(news{Node: m.node, Box: recipient, Request: k == request, Sender: t[:], Size: size, Removed: removed})
	if err == nil {
		err = conn.Publish(newsSubject, b)
	}
	if err != nil {
		m.cfg.Logger.Debug("mailbox: other nodes were not told", "err", err)
	}
}

// hear takes in what another node tells.
func (m *Mailboxes) hear(msg *nats.Msg) {
	n, ok := parseNews(msg.Data)
	if !ok || n.Node == m.node {
		return
	}
	k := mail
	if n.Request {
		k = request
	}
	m.mu.Lock()
	if n.Removed {
		m.books.remove(n.Box.Array(), k, tag(n.Sender), n.Size)
	} else {
		m.books.add(n.Box.Array(), k, tag(n.Sender), n.Size)
	}
	m.mu.Unlock()
	if !n.Removed {
		m.ring(n.Box)
		m.cfg.Arrived(n.Box)
	}
}

func parseNews(b []byte) (n news, ok bool) {
	err := json.Unmarshal(b, &n)
	return n, err == nil && !n.Box.IsZero() && len(n.Sender) == len(tag{}) && isSize(n.Size)
}

// follow hears what other nodes tell, over one connection after the other, until the end. What it may have missed is
// counted.
func (m *Mailboxes) follow() {
	again := time.NewTicker(recountEvery)
	defer again.Stop()
	for m.life.Err() == nil {
		conn, changed := m.cfg.Registry.Conn()
		var heard *nats.Subscription
		if conn != nil {
			var err error
			if heard, err = conn.Subscribe(newsSubject, m.hear); err != nil {
				m.cfg.Logger.Warn("mailbox: other nodes cannot be heard", "err", err)
			}
			m.countAnew()
		}
		m.listenUntil(changed, again.C)
		if heard != nil {
			_ = heard.Unsubscribe()
		}
	}
}

// listenUntil counts from time to time, until there is another connection.
func (m *Mailboxes) listenUntil(changed <-chan struct{}, again <-chan time.Time) {
	for {
		select {
		case <-again:
			m.countAnew()
		case <-changed:
			return
		case <-m.life.Done():
			return
		}
	}
}
