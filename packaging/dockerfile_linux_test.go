package packaging_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
)

// stages reads the Dockerfile as a builder does. What its linter says is an error.
func stages(t *testing.T) (build, image instructions.Stage) {
	t.Helper()
	text, err := os.ReadFile("Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := parser.Parse(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	warn := func(rule, _, _, message string, _ []parser.Range) { t.Errorf("%s: %s", rule, message) }
	all, _, err := instructions.Parse(parsed.AST, linter.New(&linter.Config{Warn: warn}))
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range parsed.Warnings {
		t.Errorf("%s", w.Short)
	}
	if len(all) != 2 || all[0].Name != "build" || all[1].BaseName != "scratch" {
		t.Fatalf("the stages are %+v", all)
	}
	return all[0], all[1]
}

func TestTheImageIsBuiltWithTheLanguageOfTheModule(t *testing.T) {
	build, _ := stages(t)
	module, err := os.ReadFile("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	version := regexp.MustCompile(`(?m)^go (1\.\d+)`).FindSubmatch(module)
	if version == nil || !strings.HasPrefix(build.BaseName, "golang:"+string(version[1])+"-") {
		t.Errorf("the base is %s, the module's Go %s", build.BaseName, version)
	}
}

// image is what a container gets.
type image struct {
	root       string // its files
	env        []string
	user       string
	start      []string // entry point and arguments
	health     []string
	stopSignal string
}

// buildByHand does what a builder would do, on this machine: the context comes from the files of this repository, the
// commands of the build stage run in it with /out in a folder of their own, and the last stage is put together from there.
func buildByHand(t *testing.T) image {
	t.Helper()
	needs(t, "git", "go", "sh")
	needsRoot(t)
	build, final := stages(t)
	source, out := buildContext(t), t.TempDir()
	env := append(os.Environ(), "TARGETOS=linux", "TARGETARCH="+runtime.GOARCH, "GOFLAGS=-mod=readonly")
	for _, command := range build.Commands {
		switch c := command.(type) {
		case *instructions.ArgCommand:
			for _, arg := range c.Args {
				if arg.Value != nil {
					env = append(env, arg.Key+"="+*arg.Value)
				}
			}
		case *instructions.RunCommand:
			script := strings.ReplaceAll(strings.Join(c.CmdLine, " "), "/out", out)
			cmd := exec.CommandContext(t.Context(), "sh", "-ec", script)
			cmd.Dir, cmd.Env = source, env
			outputOf(t, cmd)
		case *instructions.WorkdirCommand, *instructions.CopyCommand: // the context is where it has to be
		default:
			t.Fatalf("the build has a step that this test does not know: %s", command.Name())
		}
	}
	img := image{root: t.TempDir()}
	openUp(t, img.root)
	for _, command := range final.Commands {
		img.add(t, command, out)
	}
	return img
}

// openUp lets other users through to a folder of a test.
func openUp(t *testing.T, dir string) {
	t.Helper()
	for ; dir != filepath.Clean(os.TempDir()) && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// buildContext copies the files that a builder gets to see.
func buildContext(t *testing.T) string {
	t.Helper()
	ignored, err := os.Open("Dockerfile.dockerignore")
	if err != nil {
		t.Fatal(err)
	}
	defer ignored.Close()
	patterns, err := ignorefile.ReadAll(ignored)
	if err != nil {
		t.Fatal(err)
	}
	matcher, err := patternmatcher.New(patterns)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name := range strings.SplitSeq(strings.TrimRight(output(t, "git", "-C", "..", "ls-files", "-z"), "\x00"), "\x00") {
		if skip, err := matcher.MatchesOrParentMatches(name); err != nil {
			t.Fatal(err)
		} else if !skip && exists(filepath.Join("..", name)) {
			copyFile(t, filepath.Join("..", name), filepath.Join(dir, name))
		}
	}
	return dir
}

// add does one step of the last stage.
func (img *image) add(t *testing.T, command instructions.Command, out string) {
	t.Helper()
	switch c := command.(type) {
	case *instructions.CopyCommand:
		for _, from := range c.SourcePaths {
			img.copy(t, strings.Replace(from, "/out", out, 1), c.DestPath, c.Chown)
		}
	case *instructions.EnvCommand:
		for _, e := range c.Env {
			img.env = append(img.env, e.String())
		}
	case *instructions.UserCommand:
		img.user = c.User
	case *instructions.EntrypointCommand:
		img.start = append(c.CmdLine, img.start...)
	case *instructions.CmdCommand:
		img.start = append(img.start, c.CmdLine...)
	case *instructions.HealthCheckCommand:
		img.health = c.Health.Test[1:] // behind "CMD"
	case *instructions.StopSignalCommand:
		img.stopSignal = c.Signal
	case *instructions.VolumeCommand, *instructions.ExposeCommand:
	default:
		t.Fatalf("the image has a step that this test does not know: %s", command.Name())
	}
}

// copy puts a file or a folder without files into the image.
func (img *image) copy(t *testing.T, from, to, owner string) {
	t.Helper()
	target := filepath.Join(img.root, to)
	info, err := os.Stat(from)
	if err != nil {
		t.Fatal(err)
	}
	if info.IsDir() {
		err = os.MkdirAll(target, 0o755)
	} else {
		copyFile(t, from, target)
	}
	if err == nil {
		err = os.Chmod(target, info.Mode())
	}
	if err == nil && owner != "" {
		uid, gid := owners(t, owner)
		err = os.Chown(target, int(uid), int(gid))
	}
	if err != nil {
		t.Fatal(err)
	}
}

func owners(t *testing.T, owner string) (uid, gid uint32) {
	t.Helper()
	if _, err := fmt.Sscanf(owner, "%d:%d", &uid, &gid); err != nil || uid == 0 || gid == 0 {
		t.Fatalf("%q is no number of a user that is not root", owner)
	}
	return uid, gid
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		t.Fatal(err)
	}
	source, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	target, err := os.Create(to)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(target, source)
	if closing := target.Close(); err == nil {
		err = closing
	}
	if err != nil {
		t.Fatal(err)
	}
}
