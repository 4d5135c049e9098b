package main

import (
	"context"
	"fmt"
	"net"
)

// loopbackPair returns both ends of a TCP connection on 127.0.0.1, with the system's buffers and Go's defaults
// (NODELAY).
func loopbackPair(ctx context.Context) (client, server net.Conn, err error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	defer drop(listener)
	accepted := make(chan net.Conn, 1)
	go func() {
		conn, _ := listener.Accept()
		accepted <- conn
	}()
	client, err = new(net.Dialer).DialContext(ctx, "tcp", listener.Addr().String())
	if err != nil {
		return nil, nil, err
	}
	if server = <-accepted; server == nil {
		drop(client)
		return nil, nil, fmt.Errorf("nobody accepted on %s", listener.Addr())
	}
	return client, server, nil
}
