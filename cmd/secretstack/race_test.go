//go:build race && unix

package main

// manyIDs are fewer with the race detector, which makes everything some ten times as slow.
const manyIDs = 1_000
