//go:build !race && unix

package main

// manyIDs is how many ids a hub gives before it is killed for the last time.
const manyIDs = 10_000
