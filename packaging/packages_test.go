package packaging_test

import (
	"bytes"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
)

// contents are the files of the packages, with their modes. The manual pages are checked apart.
var contents = map[string]string{
	"/usr/bin/secretstack":                                  "-rwxr-xr-x",
	"/etc/secretstack/hub.toml":                             "-rw-r--r--",
	"/usr/lib/systemd/system/secretstack-hub.service":       "-rw-r--r--",
	"/usr/lib/systemd/user/secretstack-courier.service":     "-rw-r--r--",
	"/usr/lib/sysusers.d/secretstack.conf":                  "-rw-r--r--",
	"/usr/share/bash-completion/completions/secretstack":    "-rw-r--r--",
	"/usr/share/zsh/site-functions/_secretstack":            "-rw-r--r--",
	"/usr/share/fish/vendor_completions.d/secretstack.fish": "-rw-r--r--",
	"/usr/share/doc/secretstack/copyright":                  "-rw-r--r--",
	"/usr/share/doc/secretstack/CHANGELOG.md":               "-rw-r--r--",
	"/usr/share/doc/secretstack/OPERATING.md":               "-rw-r--r--",
}

// manuals are some of the manual pages.
var manuals = []string{
	"/usr/share/man/man1/secretstack.1.gz", "/usr/share/man/man1/secretstack-hub.1.gz",
	"/usr/share/man/man1/secretstack-hub-health.1.gz", "/usr/share/man/man1/secretstack-hub-backup.1.gz",
	"/usr/share/man/man1/secretstack-courier.1.gz",
}

// checkContents compares a listing as ls -l writes it with what should be there.
func checkContents(t *testing.T, listing string) {
	t.Helper()
	line := regexp.MustCompile(`(?m)^([-d][rwxst-]{9})\s+(?:\d+\s+)?root[/ ]+root\s+\d+ .* \.?(/\S+)$`)
	found := map[string]string{}
	for _, m := range line.FindAllStringSubmatch(listing, -1) {
		if m[1][0] == '-' {
			found[m[2]] = m[1]
		}
	}
	for _, manual := range manuals {
		if found[manual] != "-rw-r--r--" {
			t.Errorf("%s is %q", manual, found[manual])
		}
	}
	maps.DeleteFunc(found, func(name, _ string) bool { return strings.HasPrefix(name, "/usr/share/man/man1/secretstack") })
	if !maps.Equal(found, contents) {
		t.Errorf("the package has\n%v\nwant\n%v\nlisted as\n%s", found, contents, listing)
	}
}

func TestADebianPackageHasWhatItShould(t *testing.T) {
	needs(t, "dpkg-deb")
	file := packageFile(t, "deb")
	checkContents(t, output(t, "dpkg-deb", "--contents", file))
	fields := output(t, "dpkg-deb", "--field", file)
	for _, want := range []string{
		"Package: secretstack\n", "Architecture: " + runtime.GOARCH + "\n", "Maintainer: ", "Recommends: ca-certificates\n",
	} {
		if !strings.Contains(fields, want) {
			t.Errorf("no %q in\n%s", want, fields)
		}
	}
}

func TestAnRPMHasWhatItShould(t *testing.T) {
	needs(t, "rpm")
	file := packageFile(t, "rpm")
	checkContents(t, output(t, "rpm", "--query", "--package", "--list", "--verbose", file))
	fields := output(t, "rpm", "--query", "--package", "--info", "--scripts", file)
	for _, want := range []string{
		"secretstack\n", "MIT\n", "secure peer-to-peer networks",
		"postinstall scriptlet", "preuninstall scriptlet", "postuninstall scriptlet",
	} {
		if !strings.Contains(fields, want) {
			t.Errorf("no %q in\n%s", want, fields)
		}
	}
}

func TestABuildCanBeRepeated(t *testing.T) {
	packageFile(t, "deb")
	before, err := os.ReadFile("dist/SHA256SUMS")
	if err != nil {
		t.Fatal(err)
	}
	output(t, "./build", runtime.GOARCH)
	after, err := os.ReadFile("dist/SHA256SUMS")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(before, after) {
		t.Errorf("two builds of one commit differ:\n%s%s", before, after)
	}
}

// dpkg works on a folder as on a whole system. Scripts run outside of it and are told where it is.
func dpkg(t *testing.T, root string, args ...string) string {
	t.Helper()
	return output(t, "dpkg", append([]string{"--root=" + root, "--force-script-chrootless", "--force-depends"}, args...)...)
}

func newRoot(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for _, dir := range []string{"var/lib/dpkg/updates", "var/lib/dpkg/info", "etc"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "var/lib/dpkg/status"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	return root
}

func TestADebianPackageIsInstalledUpgradedAndRemoved(t *testing.T) {
	needs(t, "dpkg", "systemd-sysusers", "systemd-analyze")
	needsRoot(t)
	file, root := packageFile(t, "deb"), newRoot(t)
	if out := dpkg(t, root, "--install", file); !strings.Contains(out, "systemctl enable --now secretstack-hub") {
		t.Errorf("it does not say what to do next:\n%s", out)
	}
	if out := dpkg(t, root, "--install", file); strings.Contains(out, "systemctl enable") {
		t.Errorf("an upgrade says what to do at first:\n%s", out)
	}
	users, err := os.ReadFile(filepath.Join(root, "etc/passwd"))
	if err != nil || !regexp.MustCompile(`(?m)^secretstack:.*:/var/lib/secretstack:/usr/sbin/nologin$`).Match(users) {
		t.Errorf("the user is not there: %v\n%s", err, users)
	}
	if out := output(t, filepath.Join(root, "usr/bin/secretstack"), "--version"); !strings.Contains(out, "0.1.0") {
		t.Errorf("the program says %q", out)
	}
	checkUnit(t, root)

	config := filepath.Join(root, "etc/secretstack/hub.toml")
	if err := os.WriteFile(config, []byte("admission = \"closed\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	dpkg(t, root, "--install", file)
	if text, err := os.ReadFile(config); err != nil || string(text) != "admission = \"closed\"\n" {
		t.Errorf("an upgrade changed the configuration: %v\n%s", err, text)
	}

	data := filepath.Join(root, "var/lib/secretstack/hub/secret")
	if err := os.MkdirAll(filepath.Dir(data), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(data, []byte("identity"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out := dpkg(t, root, "--purge", "secretstack"); !strings.Contains(out, "still in /var/lib/secretstack") {
		t.Errorf("it does not say where the data is:\n%s", out)
	}
	if program := exists(filepath.Join(root, "usr/bin/secretstack")); program || !exists(data) {
		t.Errorf("after the removal the program is there: %v, the data: %v", program, exists(data))
	}
}

func TestAnRPMIsInstalledAndRemoved(t *testing.T) {
	needs(t, "rpm")
	needsRoot(t)
	file, root := packageFile(t, "rpm"), t.TempDir()
	output(t, "rpm", "--root", root, "--initdb")
	output(t, "rpm", "--root", root, "--install", "--nodeps", "--noscripts", "--ignoreos", file)
	if out := output(t, filepath.Join(root, "usr/bin/secretstack"), "--version"); !strings.Contains(out, "0.1.0") {
		t.Errorf("the program says %q", out)
	}
	output(t, "rpm", "--root", root, "--erase", "--noscripts", "secretstack")
	if exists(filepath.Join(root, "usr/bin/secretstack")) {
		t.Error("the program is still there")
	}
}

// checkUnit asks systemd about the unit that is installed below a folder.
func checkUnit(t *testing.T, root string) {
	t.Helper()
	kill := filepath.Join(root, "bin/kill") // which the unit uses, and another package has
	if err := os.MkdirAll(filepath.Dir(kill), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(kill, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	// Units that it names, and the manual's reader, are those of a whole system.
	verify := exec.CommandContext(t.Context(), "systemd-analyze", "verify", "--man=no", "--recursive-errors=no", "--root="+root,
		"secretstack-hub.service")
	out := outputOf(t, verify)
	for line := range strings.Lines(out) {
		if strings.Contains(line, "secretstack-hub.service") {
			t.Errorf("systemd says: %s", line)
		}
	}
	// The unit of a user is looked at as one of the system: there is no user's manager here.
	text, err := os.ReadFile(filepath.Join(root, "usr/lib/systemd/user/secretstack-courier.service"))
	if err != nil {
		t.Fatal(err)
	}
	unit := filepath.Join(t.TempDir(), "secretstack-courier.service")
	text = bytes.ReplaceAll(text, []byte("/usr/bin/secretstack"), []byte(filepath.Join(root, "usr/bin/secretstack")))
	if err := os.WriteFile(unit, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if out := outputOf(t, exec.CommandContext(t.Context(), "systemd-analyze", "verify", "--man=no", "--recursive-errors=no", unit)); strings.Contains(out, "secretstack") {
		t.Errorf("systemd says: %s", out)
	}
	const mostExposed = "20" // tenths of the scale from 0, safe, to 10, unsafe
	output(t, "systemd-analyze", "security", "--offline=true", "--threshold="+mostExposed, "--root="+root, "secretstack-hub.service")
}
