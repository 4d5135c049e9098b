package secrezapi

import (
	"context"
	"net"
	"net/http"
)

// ClientTo makes a client that connects to one place, whatever it is told to.
func ClientTo(o ClientOptions, place string) *Client {
	c := NewClient(o)
	c.http.Transport.(*http.Transport).DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, place)
	}
	return c
}
