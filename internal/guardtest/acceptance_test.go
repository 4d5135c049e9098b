package guardtest

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	namedTest    = regexp.MustCompile("`((?:Test|Fuzz|Example)[A-Za-z0-9_]*)`")
	declaredTest = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Example)\w*)\(`)
)

// TestTheAcceptanceListNamesTestsThatExist follows every test that docs/ACCEPTANCE.md names, nested modules included.
func TestTheAcceptanceListNamesTestsThatExist(t *testing.T) {
	root := moduleRoot(t)
	list, err := os.ReadFile(filepath.Join(root, "docs", "ACCEPTANCE.md"))
	if err != nil {
		t.Fatal(err)
	}
	declared := declaredTests(t, root)
	named := namedTest.FindAllSubmatch(list, -1)
	if len(named) == 0 {
		t.Fatal("docs/ACCEPTANCE.md names no test")
	}
	for _, m := range named {
		if !declared[string(m[1])] {
			t.Errorf("docs/ACCEPTANCE.md names %s, which is not there", m[1])
		}
	}
}

func declaredTests(t *testing.T, root string) map[string]bool {
	t.Helper()
	declared := map[string]bool{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "node_modules" || d.Name() == ".git") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		source, err := os.ReadFile(path)
		for _, m := range declaredTest.FindAllSubmatch(source, -1) {
			declared[string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return declared
}
