//go:build race

package courier_test

// The database is slow under the race detector, and the order shows with fewer.
const manyMessages = 100
