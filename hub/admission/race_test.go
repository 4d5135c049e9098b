//go:build race

package admission

// raceDetector makes everything slower, and allocates.
const raceDetector = true
