package courier

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"path/filepath"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/multiserver"
	"github.com/secretstack/secretstack/multiserver/unix"
	"github.com/secretstack/secretstack/muxrpc"
)

// ErrNotRunning says that no courier runs in a folder.
var ErrNotRunning = errors.New("courier: no courier is running here")

// Client controls a running courier, for its owner. What it answers in errors is meant for the owner.
type Client struct {
	app  *secretstack.App
	peer *secretstack.Peer
}

// Dial connects to the courier in a folder, the Dir of its [Config]. Its error is [ErrNotRunning] when there is none.
func Dial(ctx context.Context, dir string) (*Client, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("courier: %w", err)
	}
	id, err := keys.Generate() // the socket proves who we are, not a key
	if err != nil {
		return nil, err
	}
	stack := secretstack.New(secretstack.Options{})
	if err := stack.Use(secretstack.TransportPlugin(unix.New(unix.Options{})), secretstack.NoAuthPlugin()); err != nil {
		return nil, err
	}
	app, err := stack.Start(context.WithoutCancel(ctx), secretstack.Config{Identity: id, Connections: &multiserver.Config{
		Outgoing: map[string][]multiserver.Outgoing{"unix": {{Transform: "noauth"}}},
	}, Inactivity: -1, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	address := multiserver.Address{multiserver.NewPart("unix", filepath.Join(dir, controlName, "socket")), multiserver.NewPart("noauth", "")}
	peer, err := app.Connect(ctx, address.String())
	if err != nil {
		return nil, errors.Join(ErrNotRunning, app.Close(context.WithoutCancel(ctx)))
	}
	return &Client{app, peer}, nil
}

// Session is the connection itself, for the methods of the plugins that the courier has besides its own: the owner may call
// all of them.
func (c *Client) Session() *muxrpc.Session { return c.peer.Session }

// Close ends the connection.
func (c *Client) Close() error {
	c.peer.Abort(nil)
	return c.app.Close(context.Background())
}

func call[R any](ctx context.Context, c *Client, method string, args ...any) (R, error) {
	return muxrpc.Call[R](ctx, c.peer, controlPluginName+"."+method, args...)
}

func do(ctx context.Context, c *Client, method string, args ...any) error {
	_, err := call[muxrpc.None](ctx, c, method, args...)
	return err
}

// Status tells what is running.
func (c *Client) Status(ctx context.Context) (Status, error) { return call[Status](ctx, c, "status") }

// Card gives the owner's contact card.
func (c *Client) Card(ctx context.Context) (CardLinks, error) { return call[CardLinks](ctx, c, "card") }

// Send gives a text into the courier's care. When it returns without an error the text is kept, whatever happens.
func (c *Client) Send(ctx context.Context, to, text string) (Message, error) {
	return call[Message](ctx, c, "send", sendRequest{to, text})
}

// fileStep is how much of a file goes to the courier at once, in bytes.
const fileStep = 64 << 10

// SendFile gives a file into the courier's care: size bytes of content, under a name without folders.
func (c *Client) SendFile(ctx context.Context, to, name string, size int64, content io.Reader) (Message, error) {
	s, err := muxrpc.Duplex[Message, []byte](ctx, c.peer, controlPluginName+".sendFile", fileRequest{to, name, size})
	if err != nil {
		return Message{}, err
	}
	defer s.Abort(nil)
	for left := size; left > 0; {
		b := make([]byte, min(left, fileStep))
		if _, err := io.ReadFull(content, b); err != nil {
			return Message{}, fmt.Errorf("courier: %s: %w", name, err)
		}
		if err := s.Send(ctx, b); err != nil {
			break // the courier's answer says why
		}
		left -= int64(len(b))
	}
	m, err := s.Recv(ctx)
	if err != nil {
		return m, err
	}
	return m, s.Close(ctx)
}

// Messages gives the messages that a query selects; each iteration asks anew.
func (c *Client) Messages(ctx context.Context, q Query) iter.Seq2[Message, error] {
	return muxrpc.Source[Message](ctx, c.peer, controlPluginName+".messages", q)
}

// File gives the content of a received file.
func (c *Client) File(ctx context.Context, message int64) iter.Seq2[[]byte, error] {
	return muxrpc.Source[[]byte](ctx, c.peer, controlPluginName+".file", message)
}

// Contacts lists the contacts by name.
func (c *Client) Contacts(ctx context.Context) ([]Contact, error) {
	return call[[]Contact](ctx, c, "contacts")
}

// AddContact makes somebody a contact: whom the link of a contact card, a page or web address at a hub, an id at a
// hub of ours, a multiserver address or a key means. For a contact with that name and key, it takes over the places.
func (c *Client) AddContact(ctx context.Context, name, what string) (Contact, error) {
	return call[Contact](ctx, c, "addContact", addRequest{name, what})
}

// RenameContact gives a contact another name.
func (c *Client) RenameContact(ctx context.Context, name, newName string) error {
	return do(ctx, c, "renameContact", contactRequest{Name: name, NewName: newName})
}

// RemoveContact makes a contact a stranger. Its messages stay.
func (c *Client) RemoveContact(ctx context.Context, name string) error {
	return do(ctx, c, "removeContact", contactRequest{Name: name})
}

// BlockContact throws away what a contact sends from now on, or stops doing so.
func (c *Client) BlockContact(ctx context.Context, name string, block bool) error {
	return do(ctx, c, "blockContact", contactRequest{Name: name, Block: block})
}

// Seen takes back the alert of a contact.
func (c *Client) Seen(ctx context.Context, name string) error {
	return do(ctx, c, "seen", contactRequest{Name: name})
}

// Requests lists the strangers in the request box.
func (c *Client) Requests(ctx context.Context) ([]Request, error) {
	return call[[]Request](ctx, c, "requests")
}

// Accept makes a stranger in the request box a contact.
func (c *Client) Accept(ctx context.Context, key keys.PublicKey, name string) (Contact, error) {
	return call[Contact](ctx, c, "accept", contactRequest{Key: key, NewName: name})
}

// Drop empties the request box of a stranger's messages, and throws away what else it sends if it is to be blocked.
func (c *Client) Drop(ctx context.Context, key keys.PublicKey, block bool) error {
	return do(ctx, c, "drop", contactRequest{Key: key, Block: block})
}
