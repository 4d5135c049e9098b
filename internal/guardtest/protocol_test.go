package guardtest

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

var (
	cited   = regexp.MustCompile(`docs/PROTOCOL\.md §(\d+(?:\.\d+)*)`)
	heading = regexp.MustCompile(`(?m)^#+ §?(\d+(?:\.\d+)*)\.? `)
)

// TestCitedSectionsOfTheProtocolExist follows every "docs/PROTOCOL.md §N" in the code to its heading.
func TestCitedSectionsOfTheProtocolExist(t *testing.T) {
	protocol, err := os.ReadFile(filepath.Join(moduleRoot(t), "docs", "PROTOCOL.md"))
	if err != nil {
		t.Fatal(err)
	}
	sections := map[string]bool{}
	for _, m := range heading.FindAllSubmatch(protocol, -1) {
		sections[string(m[1])] = true
	}
	found := 0
	for _, f := range productFiles(t) {
		source, err := os.ReadFile(f.path)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range cited.FindAllSubmatch(source, -1) {
			found++
			if !sections[string(m[1])] {
				t.Errorf("%s cites docs/PROTOCOL.md §%s, which is not there", f.path, m[1])
			}
		}
	}
	if found == 0 {
		t.Error("no code cites docs/PROTOCOL.md")
	}
}
