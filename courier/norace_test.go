//go:build !race

package courier_test

const manyMessages = 1000
