package hub_test

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"

	"github.com/secretstack/secretstack/hub"
)

// A program that has an HTTP server already runs a hub inside it: peers connect by WebSocket, and couriers are at
// <id>.hub.example.org.
func Example() {
	dir, err := os.MkdirTemp("", "hub")
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()

	ctx := context.Background()
	h, err := hub.New(ctx, hub.Config{Dir: dir, Domain: "hub.example.org", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = h.Close(ctx) }()
	server := httptest.NewServer(h)
	defer server.Close()

	response, err := http.Get(server.URL)
	if err != nil {
		log.Fatal(err)
	}
	_ = response.Body.Close()
	fmt.Println(response.Status, h.CouriersAt())
	// Output: 200 OK http://ID.hub.example.org
}
