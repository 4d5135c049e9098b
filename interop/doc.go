// Package interop holds no code of its own: its tests drive the JavaScript
// peers of package.json, and hold the Go stack to what those peers do.
//
// A test that needs JavaScript starts one of the scripts in js/ and talks to it
// in JSON lines. The packages are installed by the first such test, with
// `npm ci`. Without node and npm these tests say so and are skipped, except
// when CI=true.
//
// The transcripts in testdata/ are what JavaScript peers said in some of these
// exchanges. They are replayed without node, and recorded again with
//
//	go test -run TestTranscript -record
package interop
