package packaging_test

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
)

// needs skips a test whose programs are not here; on CI they have to be.
func needs(t *testing.T, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			skip(t, "needs "+p)
		}
	}
}

// needsRoot skips a test that installs something for other users than this one.
func needsRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		skip(t, "needs root, to install into a folder as a package manager does")
	}
}

func skip(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// output runs a command that has to succeed, and gives what it printed.
func output(t *testing.T, name string, args ...string) string {
	t.Helper()
	return outputOf(t, exec.CommandContext(t.Context(), name, args...))
}

func outputOf(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, out)
	}
	return string(out)
}

// built makes the packages for this machine, once for all tests, and gives their folder.
var built = sync.OnceValues(func() (string, error) {
	out, err := exec.Command("./build", runtime.GOARCH).CombinedOutput()
	if err != nil {
		return "", errors.New(err.Error() + "\n" + string(out))
	}
	return "dist", nil
})

// packageFile gives the package of a kind, "deb" or "rpm".
func packageFile(t *testing.T, kind string) string {
	t.Helper()
	dir, err := built()
	if err != nil {
		t.Fatal(err)
	}
	found, err := filepath.Glob(filepath.Join(dir, "*."+kind))
	if err != nil || len(found) != 1 {
		t.Fatalf("packages: %v %v", found, err)
	}
	absolute, err := filepath.Abs(found[0])
	if err != nil {
		t.Fatal(err)
	}
	return absolute
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}
