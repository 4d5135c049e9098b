package cluster

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"

	"github.com/secretstack/secretstack/keys"
)

const (
	subjectHello = "hub.hello" // what nodes say of themselves

	queueGroup = "hub" // one of those who have whom is looked for answers
)

// prefixes are what subjects begin with; the key follows in hexadecimal digits.
func prefixes() [3]string {
	return [...]string{Courier: "hub.at.", Attendant: "hub.in.", Self: "hub.node."}
}

func (p presence) subject() string { return prefixes()[p.role] + hex.EncodeToString(p.key[:]) }

// sought tells whom a subject is about.
func sought(subject string) (as Role, key keys.PublicKey, err error) {
	for role, prefix := range prefixes() {
		if digits, found := strings.CutPrefix(subject, prefix); found {
			raw, err := hex.DecodeString(digits)
			if err != nil {
				return 0, key, err
			}
			key, err = keys.NewPublicKey(raw)
			return Role(role), key, err
		}
	}
	return 0, key, errors.New("cluster: a subject of nobody")
}

// Place is where a node takes links.
type Place struct {
	Node    string         `json:"node"`
	Key     keys.PublicKey `json:"key"`
	Address string         `json:"address"`
}

// A question is what a node asks about somebody.
type question struct {
	Version int    `json:"version"`
	Body    []byte `json:"body,omitempty"`
}

// An answer is what comes back: Refusal or Body, and who says it.
type answer struct {
	Version int     `json:"version"`
	Place   Place   `json:"place"`
	Refusal Refusal `json:"refusal,omitempty"`
	Body    []byte  `json:"body,omitempty"`
}

// Ask puts a question to a node that has somebody, and tells which that is. If several have him, one of them is asked. Its
// error is ErrOffline at once when no node has him; ErrUnreachable, ErrVersion, ErrBusy, a [Refusal], or that of ctx.
func (n *Node) Ask(ctx context.Context, as Role, key keys.PublicKey, body []byte) (_ Place, _ []byte, err error) {
	defer func() { n.counts.question(err) }()
	for range n.cfg.Limits.AskAttempts {
		var a answer
		if a, err = n.ask(ctx, presence{as, key.Array()}, body); err == nil {
			return a.Place, a.Body, nil
		}
		if !errors.Is(err, ErrUnreachable) || ctx.Err() != nil {
			break
		}
	}
	return Place{}, nil, err
}

// ask is one attempt of Ask.
func (n *Node) ask(ctx context.Context, whom presence, body []byte) (a answer, err error) {
	if n.life.Err() != nil {
		return a, ErrClosed
	}
	conn, _ := n.cfg.Bus.Conn()
	if conn == nil {
		return a, ErrUnreachable
	}
	if len(body) > maxQuestion {
		return a, errors.New("cluster: the question is too long")
	}
	data, err := json.Marshal(question{n.cfg.version, body})
	if err != nil {
		return a, fmt.Errorf("cluster: ask: %w", err)
	}
	waiting, cancel := context.WithTimeout(ctx, n.cfg.Limits.AskTimeout)
	defer cancel()
	m, err := conn.RequestWithContext(waiting, whom.subject(), data)
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return a, ErrOffline
	case err != nil && ctx.Err() != nil:
		return a, fmt.Errorf("cluster: ask: %w", context.Cause(ctx))
	case err != nil:
		return a, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	if err := json.Unmarshal(m.Data, &a); err != nil {
		return a, fmt.Errorf("%w: its answer is malformed", ErrUnreachable)
	}
	return a, n.objection(a.Place.Node, a.Version, a.Refusal)
}

// objection says why an answer is none that helps: of a version that does not work with this one's, or a refusal. Nil: it helps.
func (n *Node) objection(node string, version int, r Refusal) error {
	if !n.cfg.works(version) {
		return versionError(node, version, n.cfg.version)
	}
	if r != "" {
		return meaning(r)
	}
	return nil
}

func versionError(node string, theirs, ours int) error {
	return fmt.Errorf("%w: %q speaks version %d and this node %d: one step at a time", ErrVersion, node, theirs, ours)
}

// receive takes in what other nodes ask.
func (n *Node) receive() {
	for {
		select {
		case m := <-n.inbox:
			n.question(m)
		case <-n.life.Done():
			return
		}
	}
}

// question answers a question, beside others.
func (n *Node) question(m *nats.Msg) {
	select {
	case n.answers <- struct{}{}:
	default:
		n.reply(m, nil, refusedBusy)
		return
	}
	ok := n.run(func() {
		defer func() { <-n.answers }()
		n.answer(m)
	})
	if !ok {
		<-n.answers
	}
}

func (n *Node) answer(m *nats.Msg) {
	var q question
	as, key, err := sought(m.Subject)
	if err == nil {
		err = json.Unmarshal(m.Data, &q)
	}
	switch {
	case err != nil || len(q.Body) > maxQuestion:
		n.reply(m, nil, refusedMalformed)
		return
	case !n.cfg.works(q.Version):
		n.reply(m, nil, refusedVersion)
		return
	case !n.has(presence{as, key.Array()}):
		n.reply(m, nil, refusedAway)
		return
	}
	ctx, cancel := context.WithTimeout(n.life, n.cfg.Limits.AnswerTimeout)
	defer cancel()
	body, err := n.cfg.Answer(ctx, as, key, q.Body)
	if err != nil {
		n.reply(m, nil, refusalOf(err))
		return
	}
	n.reply(m, body, "")
}

func (n *Node) reply(m *nats.Msg, body []byte, refusal Refusal) {
	data, err := json.Marshal(answer{Version: n.cfg.version, Place: n.place(), Refusal: refusal, Body: body})
	if err == nil {
		err = m.Respond(data)
	}
	if err != nil {
		n.cfg.Logger.Debug("cluster: answer", "err", err)
	}
}

func (n *Node) place() Place {
	return Place{Node: n.cfg.Name, Key: n.cfg.Identity.Public(), Address: n.cfg.Advertise}
}
