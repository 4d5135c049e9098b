// Package acme tests the hub's certificates against Pebble, the certificate authority that Let's Encrypt made for tests.
// It has nothing to import.
package acme
