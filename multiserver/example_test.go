package multiserver_test

import (
	"context"
	"fmt"
	"io"

	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/multiserver"
	msnet "github.com/secretstack/secretstack/multiserver/net"
)

// One peer listens, another dials the address that the first gives out. Both
// know for certain who is at the other end.
func Example() {
	ctx := context.Background()
	alice, _ := keys.Generate()
	bob, _ := keys.Generate()
	peer := func(id *keys.Identity, onConn func(*multiserver.Conn)) *multiserver.Server {
		s, err := multiserver.New(multiserver.Options{
			Transports: []multiserver.Transport{msnet.New(msnet.Options{})},
			Transforms: []multiserver.Transform{multiserver.SHS(multiserver.SHSConfig{Identity: id, AppKey: keys.MainNet()})},
			Config:     multiserver.DefaultConfig("localhost", 0),
			OnConn:     onConn,
		})
		if err != nil {
			panic(err)
		}
		return s
	}

	listener := peer(alice, func(c *multiserver.Conn) {
		_, _ = io.WriteString(c, "hello, secretly")
		_ = c.Close()
	})
	if err := listener.Listen(ctx); err != nil {
		panic(err)
	}
	defer func() { _ = listener.Close() }()

	dialler := peer(bob, nil)
	defer func() { _ = dialler.Close() }()
	addrs, err := dialler.Parse(listener.Address(multiserver.Device))
	if err != nil {
		panic(err)
	}
	conn, err := dialler.Dial(ctx, addrs)
	if err != nil {
		panic(err)
	}
	defer func() { _ = conn.Close() }()
	said, err := io.ReadAll(conn)
	fmt.Printf("%s %v %v\n", said, err, conn.Remote().Equal(alice.Public()))
	// Output: hello, secretly <nil> true
}

// What people type is checked before anything is dialled.
func ExampleParse() {
	_, err := multiserver.Parse("net:example.org:8008")
	fmt.Println(err)
	_, err = multiserver.Parse("net:example.org:80o8~shs:1b9KP8znF7A4i8wnSevBSK2ZabI/Re4bYF/Vh3hXasQ=")
	fmt.Println(err)
	// Output:
	// multiserver: address "net:example.org:8008": it does not say how the peer proves its key: add ~shs: and the peer's key, as in net:example.org:8008~shs:KEY
	// multiserver: address "net:example.org:80o8~shs:1b9KP8znF7A4i8wnSevBSK2ZabI/Re4bYF/Vh3hXasQ=": port "80o8" is not a number from 1 to 65535
}
