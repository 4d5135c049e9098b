package guardtest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/secretstack/secretstack"

// layers lists the packages from the bottom up. A package may import those above it in this list and nothing below
// it; packages of one layer know nothing of each other. docs/ARCHITECTURE.md gives the reasons.
var layers = [][]string{
	{"internal/secretbox", "internal/qrcode", "internal/sdnotify", "internal/netns", "internal/netaddr", "internal/pause", "internal/guardtest"},
	{"keys"},
	{"secrez", "shs", "boxstream", "packetstream", "keys/rotation", "keys/words", "internal/testkit"},
	{"muxrpc"},
	{"muxrpc/muxrpctest", "muxrpc/streamconn"},
	{"multiserver"},
	{"multiserver/net", "multiserver/ws", "multiserver/unix", "multiserver/onion", "circuit"},
	{"."},
	{"internal/memnet", "internal/stay", "internal/rooms"},
	{"hub/registry/claim", "hub/cluster/credential"},
	{"hub/native"},
	{"plugins/room", "plugins/tunnel", "plugins/hubclient", "plugins/share"},
	{"hub/registry", "hub/vhost"},
	{"hub/admission", "hub/port", "hub/cert", "hub/secrezapi", "hub/circuits", "hub/cluster", "hub/mailbox"},
	{"hub/admin"},
	{"courier/envelope", "courier/card"},
	{"courier/store", "courier/secrezapi"},
	{"hub", "courier"},
	{"cmd/secretstack"},
}

// A ban names what a package must not know, and why.
type ban struct {
	pkg    string
	banned []string
	why    string
}

var bans = []ban{
	{"keys", []string{"net", "net/http", "context"}, "an identity knows nothing of networks"},
	{"secrez", []string{"net", "net/http", "os", "database/sql"}, "an account knows nothing of networks or storage"},
	{"shs", []string{"net", "net/http", "log/slog", "context"}, "the handshake is a pure state machine on bytes: deadlines and logs belong to its caller"},
	{"boxstream", []string{"net", "net/http", "log/slog", "context", module + "/shs"}, "a box stream is bytes in, bytes out"},
	{"packetstream", []string{"net", "net/http", "encoding/json", "crypto/...", "context"}, "framing knows neither JSON nor crypto"},
	{"muxrpc", []string{"net", "net/http", module + "/keys", module + "/shs", module + "/boxstream", module + "/multiserver"},
		"a session runs on any byte stream: who the peer is comes in as a value"},
	{"multiserver", []string{module + "/muxrpc"}, "a connection does not know what is spoken on it"},
	{".", []string{module + "/hub", module + "/courier"}, "the framework does not know its applications"},
	{"hub", []string{module + "/courier", "flag", "github.com/spf13/cobra"}, "the hub is a library: no flags, no environment, no courier"},
	{"courier/envelope", []string{"net", "net/http", "os", "database/sql"}, "a message's format knows nothing of networks or storage"},
	{"courier/card", []string{"net", "net/http", "os", "database/sql"}, "a card's format knows nothing of networks or storage"},
	{"courier/store", []string{"net", "net/http", module + "/muxrpc", module}, "what is kept does not depend on how it came"},
	{"courier/secrezapi", []string{module + "/courier/store", module}, "Secrez's API takes the courier's messages as an interface"},
	{"keys/rotation", []string{"net", "net/http", "os", "context"}, "a statement knows nothing of networks or storage"},
	{"keys/words", []string{"net", "net/http", "os", "context"}, "words know nothing of networks or storage"},
	{"courier", []string{module + "/hub", "flag", "github.com/spf13/cobra"}, "the courier knows a hub by its protocol alone"},
}

// TestPackagesImportOnlyDownwards keeps the dependency order of docs/ARCHITECTURE.md.
func TestPackagesImportOnlyDownwards(t *testing.T) {
	rank := map[string]int{}
	for i, layer := range layers {
		for _, p := range layer {
			rank[p] = i
		}
	}
	for pkg, imports := range productImports(t) {
		own, known := rank[pkg]
		if !known {
			if strings.HasPrefix(pkg, "examples/") {
				continue
			}
			t.Errorf("package %s stands in no layer of internal/guardtest: add it where it belongs", pkg)
			continue
		}
		for _, imp := range imports {
			other, ours := relative(imp)
			if !ours {
				continue
			}
			if r, ok := rank[other]; !ok || r >= own {
				t.Errorf("%s imports %s, which does not stand below it", pkg, other)
			}
		}
	}
}

// TestPackagesDoNotKnowWhatTheyNeedNot enforces the right-hand column of the package table.
func TestPackagesDoNotKnowWhatTheyNeedNot(t *testing.T) {
	imports := productImports(t)
	for _, b := range bans {
		for _, imp := range imports[b.pkg] {
			if slices.ContainsFunc(b.banned, func(banned string) bool { return covers(banned, imp) }) {
				t.Errorf("%s imports %s, but %s", b.pkg, imp, b.why)
			}
		}
	}
}

// TestOnlyTestsImportTestkit keeps package testing out of the program.
func TestOnlyTestsImportTestkit(t *testing.T) {
	for pkg, imports := range productImports(t) {
		if slices.Contains(imports, module+"/internal/testkit") {
			t.Errorf("%s imports internal/testkit, which is for tests", pkg)
		}
	}
}

// TestEveryPackageSaysWhatItIsFor asks for a package comment.
func TestEveryPackageSaysWhatItIsFor(t *testing.T) {
	documented := map[string]bool{}
	for _, f := range productFiles(t) {
		documented[f.pkg] = documented[f.pkg] || f.ast.Doc != nil
	}
	for pkg, ok := range documented {
		if !ok {
			t.Errorf("package %s has no package comment", pkg)
		}
	}
}

// covers reports whether a ban is about an import: "crypto/..." stands for crypto and everything below it.
func covers(banned, imp string) bool {
	tree, whole := strings.CutSuffix(banned, "/...")
	return imp == tree || whole && strings.HasPrefix(imp, tree+"/")
}

type file struct {
	pkg  string // folder, relative to the module's root
	path string
	ast  *ast.File
}

func productImports(t *testing.T) map[string][]string {
	t.Helper()
	imports := map[string][]string{}
	for _, f := range productFiles(t) {
		imports[f.pkg] = append(imports[f.pkg], []string{}...)
		for _, spec := range f.ast.Imports {
			path, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			imports[f.pkg] = append(imports[f.pkg], path)
		}
	}
	return imports
}

// productFiles parses every Go file of the root module that is not a test.
func productFiles(t *testing.T) []file {
	t.Helper()
	root := moduleRoot(t)
	var files []file
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return skipFolder(root, path, d.Name())
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		pkg, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			return err
		}
		files = append(files, file{filepath.ToSlash(pkg), path, parsed})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		t.Fatal("no Go files found: the guard guards nothing")
	}
	return files
}

// skipFolder passes over hidden folders, test data and nested modules.
func skipFolder(root, path, name string) error {
	if path == root {
		return nil
	}
	if strings.HasPrefix(name, ".") || name == "testdata" || name == "node_modules" {
		return filepath.SkipDir
	}
	if _, err := os.Stat(filepath.Join(path, "go.mod")); err == nil {
		return filepath.SkipDir
	}
	return nil
}

func relative(importPath string) (string, bool) {
	if importPath == module {
		return ".", true
	}
	return strings.CutPrefix(importPath, module+"/")
}

func moduleRoot(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(root, "go.mod")); err != nil {
		t.Fatal(err)
	}
	return root
}
