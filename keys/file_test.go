package keys

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// skipOnWindows skips what needs the permission bits of files.
func skipOnWindows(t *testing.T) {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("needs a system where files have permission bits")
	}
}

func passphrase(p string) FileOptions {
	return FileOptions{Passphrase: func() ([]byte, error) { return []byte(p), nil }}
}

// ssbKeysFile is alice's file as the JavaScript package lays it out.
func ssbKeysFile() string {
	return `# A comment at the top, with "quotes" and {braces}.
#
{
  "curve": "ed25519",
  "public": "` + aliceBase64 + `.ed25519",
  "private": "K9gGyX8OAK8aH8Myj6djqSaXI8jbj6xPk69x2xhtbpDVv0o/zOcXsDiLzCdJ68FIrZlpsj9F7htgX9WHeFdqxA==.ed25519",
  "id": "@` + aliceBase64 + `.ed25519"
}
#
# A comment at the end:
#
#   @` + aliceBase64 + `.ed25519`
}

// write makes a file with the mode that ssb-keys gives it.
func write(t *testing.T, text string, mode fs.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLoadReadsTheFileOfSSBKeys(t *testing.T) {
	alice := identity(t, "alice").Public()
	full := ssbKeysFile()
	for name, text := range map[string]string{
		"as written":                    full,
		"line ends of Windows":          strings.ReplaceAll(full, "\n", "\r\n"),
		"no comments":                   full[strings.Index(full, "{\n") : strings.LastIndex(full, "}")+1],
		"on one line":                   strings.ReplaceAll(full[strings.Index(full, "{\n"):strings.LastIndex(full, "}")+1], "\n", ""),
		"id without its sigil":          strings.Replace(full, `"id": "@`, `"id": "`, 1),
		"no id":                         strings.Replace(full, `"id"`, `"other"`, 1),
		"key texts without a suffix":    strings.NewReplacer(`=.ed25519",`, `=",`, `"id"`, `"_"`).Replace(full),
		"comment behind a line":         strings.Replace(full, `"ed25519",`, `"ed25519",  # the only one`, 1),
		"fields that nobody knows":      strings.Replace(full, `"curve"`, `"feedFormat": "classic", "curve"`, 1),
		"empty lines around everything": "\n\n" + full + "\n\n",
	} {
		t.Run(name, func(t *testing.T) {
			id, err := Load(write(t, text, 0o400), FileOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if !id.Public().Equal(alice) {
				t.Errorf("loaded %v", id)
			}
		})
	}
}

func TestSavedFileHasTheFormatOfSSBKeys(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b", "secret")
	if err := Save(path, identity(t, "alice"), FileOptions{}); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// What ssb-keys does to read a file: drop from each "#" to the end of its line.
	var body strings.Builder
	for line := range strings.Lines(string(text)) {
		before, _, _ := strings.Cut(line, "#")
		body.WriteString(before)
	}
	want := ssbKeysFile()
	want = want[strings.Index(want, "{\n") : strings.LastIndex(want, "}")+1]
	if got := strings.TrimSpace(body.String()); got != want {
		t.Errorf("the file holds\n%s\nwant\n%s", got, want)
	}
	if !bytes.HasSuffix(bytes.TrimSpace(text), []byte("#   @"+aliceBase64+".ed25519")) {
		t.Error("the file does not end with the public key")
	}
}

func TestSavedFileIsItsOwnersOnly(t *testing.T) {
	skipOnWindows(t)
	dir := filepath.Join(t.TempDir(), "new")
	path := filepath.Join(dir, "secret")
	if err := Save(path, identity(t, "alice"), FileOptions{}); err != nil {
		t.Fatal(err)
	}
	for p, want := range map[string]fs.FileMode{path: 0o600, dir: 0o700} {
		info, err := os.Stat(p)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%s has mode %o, want %o", p, got, want)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("something else was left in the directory: %v, %v", entries, err)
	}
}

func TestSaveNeverTouchesAFileThatExists(t *testing.T) {
	path := write(t, "something else", 0o600)
	err := Save(path, identity(t, "alice"), FileOptions{})
	if !errors.Is(err, fs.ErrExist) {
		t.Errorf("error %v, want fs.ErrExist", err)
	}
	if text, _ := os.ReadFile(path); string(text) != "something else" {
		t.Errorf("the file is now %q", text)
	}
}

func TestSaveWorksWhereThereAreNoLinks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	text, err := formatFile(identity(t, "alice"), FileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := writeNew(path, text); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path, FileOptions{}); err != nil {
		t.Error(err)
	}
	if err := writeNew(path, text); !errors.Is(err, fs.ErrExist) {
		t.Errorf("the second write gives %v, want fs.ErrExist", err)
	}
}

func TestSaveThatFailsLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	blocked := filepath.Join(dir, "file", "secret")
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Save(blocked, identity(t, "alice"), FileOptions{}); err == nil {
		t.Error("a file was made below a file")
	}
	if _, err := LoadOrCreate(blocked, FileOptions{}); err == nil {
		t.Error("an identity was made that cannot be saved")
	}
	path := filepath.Join(dir, "new", "secret")
	if err := Save(path, identity(t, "alice"), passphrase("")); !errors.Is(err, ErrPassphrase) {
		t.Errorf("empty passphrase: %v", err)
	}
	if _, err := os.Stat(filepath.Dir(path)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("something was made: %v", err)
	}
}

func TestSaveRefusesNoIdentity(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	for _, id := range []*Identity{nil, {}} {
		if err := Save(path, id, FileOptions{}); err == nil {
			t.Error("no identity was saved")
		}
	}
}

func TestFilesThatOthersCanUseAreRefused(t *testing.T) {
	skipOnWindows(t)
	for _, mode := range []fs.FileMode{0o644, 0o640, 0o604, 0o620, 0o602, 0o610, 0o444} {
		path := write(t, ssbKeysFile(), mode)
		_, err := Load(path, FileOptions{})
		if !errors.Is(err, ErrInsecureFile) {
			t.Errorf("mode %o: error %v, want ErrInsecureFile", mode, err)
			continue
		}
		if !strings.Contains(err.Error(), "chmod 600 "+shellQuote(path)) {
			t.Errorf("mode %o: the error does not say what to do: %v", mode, err)
		}
	}
	for _, mode := range []fs.FileMode{0o600, 0o400, 0o700} {
		if _, err := Load(write(t, ssbKeysFile(), mode), FileOptions{}); err != nil {
			t.Errorf("mode %o: %v", mode, err)
		}
	}
}

func TestCommandInTheErrorCanBePasted(t *testing.T) {
	for in, want := range map[string]string{
		"/home/a/.ssb/secret":  "/home/a/.ssb/secret",
		"/home/my files/x":     "'/home/my files/x'",
		"it's":                 `'it'\''s'`,
		"":                     "''",
		"/a;rm -rf":            "'/a;rm -rf'",
		"/tmp/$(x)/\u00e9/`y`": "'/tmp/$(x)/\u00e9/`y`'",
	} {
		if got := shellQuote(in); got != want {
			t.Errorf("%q is quoted as %s, want %s", in, got, want)
		}
	}
}

func TestLoadSaysWhatIsWrong(t *testing.T) {
	full := ssbKeysFile()
	bobPublic := identity(t, "bob").Public().Base64()
	for _, tt := range []struct{ name, text, want string }{
		{"empty", "", "cut short"},
		{"comments only", "# nothing\n", "cut short"},
		{"cut", full[:250], "cut short"},
		{"bare private key", "# old\nK9gGyX8OAK8aH8Myj6djqSaXI8jbj6xPk69x2xhtbpDVv0o/zOcXsDiLzCdJ68FIrZlpsj9F7htgX9WHeFdqxA==.ed25519\n", "not a secret file"},
		{"not an object", "[1]", "not a secret file"},
		{"two objects", full + "\n{}", "not a secret file"},
		{"other curve", strings.Replace(full, `"ed25519",`, `"k256",`, 1), `unknown curve "k256"`},
		{"no public key", strings.Replace(full, `"public"`, `"x"`, 1), "the public key in the file"},
		{"no private key", strings.Replace(full, `"private"`, `"x"`, 1), "no private key"},
		{"damaged private key", strings.Replace(full, "K9gG", "K9g", 1), "private key is damaged"},
		{"private key of another", strings.Replace(full, "K9gG", "K9gH", 1), "does not belong to the public key"},
		{"public key of another", strings.ReplaceAll(full, aliceBase64, bobPublic), "not the same key pair"},
		{"id of another", strings.Replace(full, `"@`+aliceBase64, `"@`+bobPublic, 1), "id and public"},
		{"sealed and not", strings.Replace(full, `"curve"`, `"sealed": {}, "curve"`, 1), "both open and sealed"},
		{"very long", strings.Repeat("#\n", maxFileSize) + full, "too long"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := write(t, tt.text, 0o600)
			_, err := Load(path, FileOptions{})
			if err == nil {
				t.Fatal("it was loaded")
			}
			if !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("error %q does not say %q and the path", err, tt.want)
			}
			for _, form := range append(secretForms(identity(t, "alice").Seed()), "K9g") {
				if strings.Contains(err.Error(), form) {
					t.Errorf("error %q shows a part of the secret", err)
				}
			}
		})
	}
}

func TestLoadRefusesWhatIsNotAFile(t *testing.T) {
	dir := t.TempDir()
	if _, err := Load(dir, FileOptions{}); err == nil || !strings.Contains(err.Error(), filepath.Join(dir, "secret")) {
		t.Errorf("directory: error %v does not name a file in it", err)
	}
	if _, err := Load(filepath.Join(dir, "absent"), FileOptions{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("absent: error %v, want fs.ErrNotExist", err)
	}
}

func TestLoadOrCreateKeepsItsIdentity(t *testing.T) {
	path := filepath.Join(t.TempDir(), "deep", "secret")
	first, err := LoadOrCreate(path, FileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	second, err := LoadOrCreate(path, FileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if !first.Public().Equal(second.Public()) {
		t.Error("the second start has another identity")
	}
}

func TestLoadOrCreateDoesNotReplaceABadFile(t *testing.T) {
	path := write(t, "[]", 0o600)
	if _, err := LoadOrCreate(path, FileOptions{}); err == nil {
		t.Error("a bad file gave an identity")
	}
	if text, _ := os.ReadFile(path); string(text) != "[]" {
		t.Errorf("the file is now %q", text)
	}
}

func TestLoadOrCreateWaitsForAFileThatIsBeingWritten(t *testing.T) {
	text := ssbKeysFile()
	path := write(t, text[:100], 0o600)
	synctest.Test(t, func(t *testing.T) {
		done := make(chan error)
		go func() {
			time.Sleep(2*readAgainAfter + time.Millisecond)
			done <- os.WriteFile(path, []byte(text), 0o600)
		}()
		id, err := LoadOrCreate(path, FileOptions{})
		if werr := <-done; werr != nil {
			t.Fatal(werr)
		}
		if err != nil {
			t.Fatal(err)
		}
		if !id.Public().Equal(identity(t, "alice").Public()) {
			t.Errorf("got %v", id)
		}
	})
}

const childPath = "KEYS_TEST_CHILD_PATH"

// TestMain is also the other process of the test below.
func TestMain(m *testing.M) {
	path := os.Getenv(childPath)
	if path == "" {
		os.Exit(m.Run())
	}
	id, err := LoadOrCreate(path, FileOptions{})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Print(id.Public())
}

func TestProcessesThatCreateAtOnceGetOneIdentity(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		path := filepath.Join(t.TempDir(), "new", "secret")
		type result struct {
			out []byte
			err error
		}
		results := make(chan result)
		const processes = 6
		for range processes {
			go func() {
				cmd := exec.CommandContext(t.Context(), exe)
				cmd.Env = append(os.Environ(), childPath+"="+path)
				var stderr bytes.Buffer
				cmd.Stderr = &stderr
				out, err := cmd.Output()
				if err != nil {
					err = fmt.Errorf("%w: %s", err, stderr.Bytes())
				}
				results <- result{out, err}
			}()
		}
		seen := map[string]int{}
		for range processes {
			r := <-results
			if r.err != nil {
				t.Error(r.err)
			}
			seen[string(r.out)]++
		}
		id, err := Load(path, FileOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if seen[id.Public().String()] != processes {
			t.Errorf("the file holds %v, the processes have %v", id.Public(), seen)
		}
		if entries, _ := os.ReadDir(filepath.Dir(path)); len(entries) != 1 {
			t.Errorf("files were left over: %v", entries)
		}
	}
}

func TestPassphraseProtectsTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	alice := identity(t, "alice")
	if err := Save(path, alice, passphrase("correct horse")); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, form := range append(secretForms(alice.Seed()), `"private"`) {
		if bytes.Contains(text, []byte(form)) {
			t.Errorf("the file shows %q", form)
		}
	}
	if !bytes.Contains(text, []byte(`"id": "`+alice.Public().Ref()+`"`)) {
		t.Error("the file does not show whose it is")
	}
	id, err := LoadOrCreate(path, passphrase("correct horse"))
	if err != nil || !id.Public().Equal(alice.Public()) {
		t.Errorf("with the passphrase: %v, %v", id, err)
	}
	for name, opts := range map[string]FileOptions{
		"none":  {},
		"wrong": passphrase("battery staple"),
		"empty": passphrase(""),
	} {
		if _, err := Load(path, opts); !errors.Is(err, ErrPassphrase) {
			t.Errorf("%s: error %v, want ErrPassphrase", name, err)
		}
	}
	stop := errors.New("the person went away")
	_, err = Load(path, FileOptions{Passphrase: func() ([]byte, error) { return nil, stop }})
	if !errors.Is(err, stop) || errors.Is(err, ErrPassphrase) {
		t.Errorf("error %v, want that of the passphrase function", err)
	}
}

func TestPassphraseIsNotAskedForAnOpenFile(t *testing.T) {
	opts := FileOptions{Passphrase: func() ([]byte, error) {
		t.Error("asked")
		return nil, nil
	}}
	if _, err := Load(write(t, ssbKeysFile(), 0o600), opts); err != nil {
		t.Error(err)
	}
}

func TestPassphraseMemoryIsCleared(t *testing.T) {
	memory := []byte("correct horse")
	opts := FileOptions{Passphrase: func() ([]byte, error) { return memory, nil }}
	if err := Save(filepath.Join(t.TempDir(), "secret"), identity(t, "alice"), opts); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(memory, make([]byte, len(memory))) {
		t.Error("the passphrase is still in memory")
	}
}

// sealedFile seals alice with little work and lets change alter what is written.
func sealedFile(t *testing.T, change func(*keyFile)) []byte {
	t.Helper()
	alice := identity(t, "alice")
	s, err := sealWithPassphrase(alice, passphrase("p"), cost{Time: 1, Memory: 8, Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	kf := keyFile{Curve: curveName, Public: alice.Public().Base64() + refSuffix, ID: alice.Public().Ref(), Sealed: s}
	change(&kf)
	text, err := json.Marshal(kf)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestSealedFileBoundsWhatItCostsToOpen(t *testing.T) {
	for name, change := range map[string]func(*sealed){
		"passes":          func(s *sealed) { s.Time = maxTime + 1 },
		"memory":          func(s *sealed) { s.Memory = maxMemory + 1 },
		"threads":         func(s *sealed) { s.Threads = maxThreads + 1 },
		"work":            func(s *sealed) { s.Time, s.Memory = maxTime, maxMemory },
		"no passes":       func(s *sealed) { s.Time = 0 },
		"no memory":       func(s *sealed) { s.Memory = 0 },
		"no threads":      func(s *sealed) { s.Threads = 0 },
		"no salt":         func(s *sealed) { s.Salt = nil },
		"long salt":       func(s *sealed) { s.Salt = make([]byte, 65) },
		"short nonce":     func(s *sealed) { s.Nonce = s.Nonce[1:] },
		"long data":       func(s *sealed) { s.Data = append(s.Data, 0) },
		"no data":         func(s *sealed) { s.Data = nil },
		"other kdf":       func(s *sealed) { s.KDF = "scrypt" },
		"other cipher":    func(s *sealed) { s.Cipher = "rot13" },
		"empty structure": func(s *sealed) { *s = sealed{} },
	} {
		t.Run(name, func(t *testing.T) {
			text := sealedFile(t, func(kf *keyFile) { change(kf.Sealed) })
			_, err := parseFile(text, FileOptions{Passphrase: func() ([]byte, error) {
				t.Error("the passphrase was asked for")
				return nil, errors.New("stop")
			}})
			if err == nil || errors.Is(err, ErrPassphrase) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestSealedFileIsBoundToItsPublicKey(t *testing.T) {
	if _, err := parseFile(sealedFile(t, func(*keyFile) {}), passphrase("p")); err != nil {
		t.Fatal(err)
	}
	bob := identity(t, "bob").Public()
	for name, change := range map[string]func(*keyFile){
		"other key": func(kf *keyFile) { kf.Public, kf.ID = bob.Base64()+refSuffix, bob.Ref() },
		"salt":      func(kf *keyFile) { kf.Sealed.Salt[0] ^= 1 },
		"nonce":     func(kf *keyFile) { kf.Sealed.Nonce[0] ^= 1 },
		"data":      func(kf *keyFile) { kf.Sealed.Data[0] ^= 1 },
		"tag":       func(kf *keyFile) { kf.Sealed.Data[len(kf.Sealed.Data)-1] ^= 1 },
		"passes":    func(kf *keyFile) { kf.Sealed.Time++ },
		"memory":    func(kf *keyFile) { kf.Sealed.Memory *= 2 },
	} {
		if _, err := parseFile(sealedFile(t, change), passphrase("p")); !errors.Is(err, ErrPassphrase) {
			t.Errorf("%s changed: error %v, want ErrPassphrase", name, err)
		}
	}
}
