//go:build race

package registry

// raceDetector makes signatures some twenty times slower, in the children too.
const raceDetector = true
