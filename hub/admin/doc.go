// Package admin is the operator's side of a hub: Prometheus metrics, health, an API and a page, in one http.Handler for a
// listener of its own.
//
//	observer := admin.NewObserver() // the hub tells it what happens
//	token, err := admin.LoadToken(filepath.Join(dir, "admin-token"))
//	...
//	h, err := admin.New(admin.Config{Hub: hub, Observer: observer, Token: token, Logger: logger})
//	...
//	server := h.NewServer()
//	go server.Serve(listener)
//
// It knows the hub through the interface Hub. What a stranger sends is never a label of a metric; messages, tokens and
// payloads are in no metric, log or page.
package admin
