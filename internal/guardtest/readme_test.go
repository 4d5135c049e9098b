package guardtest

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var goBlock = regexp.MustCompile("(?s)```go\n(.*?)```")

// TestTheReadmeShowsCodeThatRuns compares each Go snippet of the README with the example that runs as a test.
func TestTheReadmeShowsCodeThatRuns(t *testing.T) {
	root := moduleRoot(t)
	readme, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	example, err := os.ReadFile(filepath.Join(root, "example_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	blocks := goBlock.FindAllSubmatch(readme, -1)
	if len(blocks) == 0 {
		t.Fatal("the README shows no Go")
	}
	for _, block := range blocks {
		indented := regexp.MustCompile(`(?m)^(.)`).ReplaceAllString(string(block[1]), "\t$1")
		if !strings.Contains(string(example), indented) {
			t.Errorf("this snippet of the README is not in example_test.go:\n%s", block[1])
		}
	}
}
