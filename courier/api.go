package courier

import (
	"encoding/hex"
	"encoding/json"
	"time"

	"github.com/secretstack/secretstack/courier/card"
	"github.com/secretstack/secretstack/courier/store"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/secrez"
)

// Message is a message as programs of the owner see it.
type Message struct {
	ID        int64          `json:"id"`     // in the order in which messages are shown
	Change    int64          `json:"change"` // grows with each change of any message
	Contact   string         `json:"contact,omitempty"`
	Key       keys.PublicKey `json:"key"`
	Direction string         `json:"direction"` // "received" or "sent"
	State     string         `json:"state"`     // "queued", "at the hub", "held", "delivered" or "failed"
	Hash      string         `json:"hash"`      // in hex
	Number    uint64         `json:"number,omitempty"`
	Text      string         `json:"text,omitempty"`
	File      *File          `json:"file,omitempty"`
	Time      time.Time      `json:"time"`   // when we kept it, by our clock
	Signed    time.Time      `json:"signed"` // when its sender signed it, by the sender's
	Note      string         `json:"note,omitempty"`
}

// File is a file in a message.
type File struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`   // in bytes
	Chunks int    `json:"chunks"` // that it has
	Done   int    `json:"done"`   // chunks that have arrived
}

func messageFrom(m store.Message) Message {
	out := Message{
		ID: m.ID, Change: m.Change, Contact: m.Name, Key: m.Key, Direction: "sent", State: m.State.String(), Hash: hex.EncodeToString(m.Hash[:]),
		Number: m.Number, Text: m.Text, Time: m.Stored.UTC(), Signed: m.Time.UTC(), Note: m.Note,
	}
	if m.Direction == store.Received {
		out.Direction = "received"
	}
	if y := out.Signed.Year(); y < 0 || y > 9999 { // what JSON has no form for
		out.Signed = out.Time
	}
	if m.File != nil {
		out.File = &File{Name: m.File.Name, Size: m.File.Size, Chunks: m.File.Chunks, Done: m.File.Done}
	}
	return out
}

// Query selects messages. The zero value selects all.
type Query struct {
	Contact   string    `json:"contact,omitempty"`   // by name
	Direction string    `json:"direction,omitempty"` // "received", "sent" or both
	Since     time.Time `json:"since,omitzero"`
	Until     time.Time `json:"until,omitzero"`
	Last      int       `json:"last,omitempty"`   // only the last so many; zero: all, negative: none
	Follow    bool      `json:"follow,omitempty"` // then whatever is new or changes, until the call is ended
}

// Contact is a contact as programs of the owner see it.
type Contact struct {
	Name    string         `json:"name"`
	Key     keys.PublicKey `json:"key"`
	Secrez  string         `json:"secrez"` // the key as Secrez's programs write it
	ID      secrez.ID      `json:"id,omitzero"`
	Places  []card.Place   `json:"places"`
	Card    bool           `json:"card"` // the key came with a card, not by a hub's word
	Blocked bool           `json:"blocked,omitempty"`
	Alert   string         `json:"alert,omitempty"` // what the owner must look at
	Online  bool           `json:"online"`          // there is a connection
	Added   time.Time      `json:"added"`
	Trouble string         `json:"trouble,omitempty"` // why the last attempt to deliver was in vain
	Retry   time.Time      `json:"retry,omitzero"`    // when the next one is made
	Warning string         `json:"warning,omitempty"` // in the answer to adding it
}

// Request is a stranger in the request box.
type Request struct {
	Key   keys.PublicKey `json:"key"`
	First time.Time      `json:"first"` // when the first message came
	Texts []string       `json:"texts"`
}

// Status is what is running.
type Status struct {
	Key       keys.PublicKey `json:"key"`
	Secrez    string         `json:"secrez"` // the key as Secrez's programs write it
	Name      string         `json:"name,omitempty"`
	Started   time.Time      `json:"started"`
	Addresses []string       `json:"addresses"`
	Hubs      []HubStatus    `json:"hubs"`
	Contacts  int            `json:"contacts"`
	Requests  int            `json:"requests"`
	Waiting   map[string]int `json:"waiting"` // messages by state, those that are delivered or have failed left out
	Alerts    []string       `json:"alerts"`
}

// HubStatus is how the courier stands with a hub.
type HubStatus struct {
	Key     keys.PublicKey `json:"key,omitzero"` // zero: a hub of Secrez
	Name    string         `json:"name,omitempty"`
	Address string         `json:"address"`
	ID      secrez.ID      `json:"id,omitzero"`
	URL     string         `json:"url,omitempty"`
	Online  bool           `json:"online"`
	Mailbox bool           `json:"mailbox"` // it keeps mail of our contacts while we are away
	Trouble string         `json:"trouble,omitempty"`
}

// CardLinks are the owner's contact card in the forms in which it is handed on.
type CardLinks struct {
	Link string `json:"link"`
	Web  string `json:"web,omitempty"` // for people without the program; needs a hub
}

type sendRequest struct {
	To   string `json:"to"`
	Text string `json:"text"`
}

type fileRequest struct {
	To   string `json:"to"`
	Name string `json:"name"`
	Size int64  `json:"size"`
}

type addRequest struct {
	Name string `json:"name"`
	What string `json:"what"`
}

type contactRequest struct {
	Name    string         `json:"name"`
	NewName string         `json:"newName,omitempty"`
	Key     keys.PublicKey `json:"key,omitzero"`
	Block   bool           `json:"block,omitempty"`
}

// jsonOptions makes the options of a transport.
func jsonOptions(name, value string) map[string]json.RawMessage {
	text, err := json.Marshal(value)
	if err != nil {
		return nil // unreachable: a string always has a form
	}
	return map[string]json.RawMessage{name: text}
}
