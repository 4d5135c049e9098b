package interop

import (
	"bytes"
	"os"
	"testing"
)

// The lock file must install from whichever registry npm is configured for.
func TestLockFileNamesNoRegistry(t *testing.T) {
	lock, err := os.ReadFile("package-lock.json")
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(lock, []byte(`"resolved":`)) {
		t.Error(`package-lock.json has "resolved" addresses: make it with the .npmrc of this folder`)
	}
}
