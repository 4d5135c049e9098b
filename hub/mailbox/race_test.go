//go:build race

package mailbox

// raceDetector says that everything is slow and large.
const raceDetector = true
