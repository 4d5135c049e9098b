package keys

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// maxFileSize bounds how much of a secret file is read, in bytes. The files
// that ssb-keys and this package write have less than 2 KiB.
const maxFileSize = 64 << 10

// A file that somebody is still writing is read again this often.
const (
	readAgainTimes = 20
	readAgainAfter = 25 * time.Millisecond
)

var (
	// ErrInsecureFile is wrapped by the error for a secret file that other users
	// of the machine can read or write. Its text says how to mend that.
	ErrInsecureFile = errors.New("other people can use this file")

	// ErrPassphrase is wrapped when a secret file is protected by a passphrase
	// and none was given, or a wrong one.
	ErrPassphrase = errors.New("passphrase needed")
)

// FileOptions says how a secret file is read and written. The zero value means
// no passphrase.
type FileOptions struct {
	// Passphrase returns the passphrase, of which at least one byte is needed.
	// Loading asks it only if the file is protected; saving with Passphrase set
	// protects the file. The returned slice is cleared after use. Its error is
	// passed on. If it is nil, files are written without protection and protected
	// files are refused with ErrPassphrase.
	Passphrase func() ([]byte, error)
}

// Load reads the identity in a secret file in ssb-keys format, or in that format
// with the private part sealed by a passphrase. It refuses a file that other
// users of the machine can read or write (except on Windows), with an error that
// says how to mend it and that is an [ErrInsecureFile]. A missing file is
// [fs.ErrNotExist]. See docs/PROTOCOL.md §8.
func Load(path string, opts FileOptions) (*Identity, error) {
	text, err := readSecretFile(path)
	if err != nil {
		return nil, err
	}
	id, err := parseFile(text, opts)
	if err != nil {
		return nil, fmt.Errorf("keys: %s: %w", path, err)
	}
	return id, nil
}

// Save writes the identity to a new file that only its owner can read (mode
// 0600), making the directories above it (mode 0700) if needed. The file appears
// whole or not at all and is on disk when Save returns. A file that exists is
// never touched: then the error is [fs.ErrExist].
func Save(path string, id *Identity, opts FileOptions) error {
	if id.IsZero() {
		return errors.New("keys: no identity to save")
	}
	text, err := formatFile(id, opts)
	if err != nil {
		return fmt.Errorf("keys: %s: %w", path, err)
	}
	if err := createFile(path, text); err != nil {
		return fmt.Errorf("keys: %w", err)
	}
	return nil
}

// LoadOrCreate loads the identity at path, or makes one and saves it if there is
// no file. Of several processes that do this at once, all get the same identity.
func LoadOrCreate(path string, opts FileOptions) (*Identity, error) {
	id, err := Load(path, opts)
	if !errors.Is(err, fs.ErrNotExist) {
		return loadAgain(id, err, path, opts)
	}
	if id, err = Generate(); err != nil {
		return nil, err
	}
	err = Save(path, id, opts)
	if errors.Is(err, fs.ErrExist) {
		id, err = Load(path, opts)
		return loadAgain(id, err, path, opts)
	}
	if err != nil {
		return nil, err
	}
	return id, nil
}

// loadAgain waits for another process that does not write its file in one step,
// as ssb-keys does not.
func loadAgain(id *Identity, err error, path string, opts FileOptions) (*Identity, error) {
	for range readAgainTimes {
		if !errors.Is(err, errUnfinished) {
			break
		}
		time.Sleep(readAgainAfter)
		id, err = Load(path, opts)
	}
	return id, err
}

// readSecretFile reads a regular file after checking who else may use it.
func readSecretFile(path string) ([]byte, error) {
	// Asked before opening, because opening a named pipe would block.
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("keys: %w", err)
	}
	if err := checkFile(path, info); err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("keys: %w", err)
	}
	defer f.Close()
	if info, err = f.Stat(); err != nil {
		return nil, fmt.Errorf("keys: %w", err)
	}
	if err := checkFile(path, info); err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFileSize+1))
	if err != nil {
		return nil, fmt.Errorf("keys: %w", err)
	}
	if len(text) > maxFileSize {
		return nil, fmt.Errorf("keys: %s: too long for a secret file", path)
	}
	return text, nil
}

// checkFile refuses what is not a file and what others can use.
func checkFile(path string, info fs.FileInfo) error {
	switch {
	case info.IsDir():
		return fmt.Errorf("keys: %s is a directory; name the file in it, such as %s", path, filepath.Join(path, "secret"))
	case !info.Mode().IsRegular():
		return fmt.Errorf("keys: %s is not a regular file", path)
	case runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0:
		return fmt.Errorf("keys: %s holds a secret and %w (mode %04o); if it was yours alone, run: chmod 600 %s",
			path, ErrInsecureFile, info.Mode().Perm(), shellQuote(path))
	}
	return nil
}

// shellQuote makes a path safe to paste after a command.
func shellQuote(path string) string {
	plain := func(r rune) bool {
		return r == '/' || r == '.' || r == '_' || r == '-' || r == '~' ||
			'0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
	}
	if path != "" && strings.IndexFunc(path, func(r rune) bool { return !plain(r) }) < 0 {
		return path
	}
	return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
}

// createFile makes the file appear with all its content in one step. The content
// goes to a file beside it, which is then linked to the name; linking fails if
// the name is taken.
func createFile(path string, text []byte) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if _, err := os.Lstat(path); err == nil {
		return &fs.PathError{Op: "create", Path: path, Err: fs.ErrExist}
	}
	temp, err := writeTemp(dir, filepath.Base(path), text)
	if err != nil {
		return err
	}
	defer os.Remove(temp)
	err = os.Link(temp, path)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		// The file system has no links.
		err = writeNew(path, text)
	}
	if err != nil {
		return err
	}
	return syncDir(dir)
}

// writeTemp writes the text to a new file, for its owner only, and to disk.
func writeTemp(dir, base string, text []byte) (name string, err error) {
	f, err := os.CreateTemp(dir, "."+base+".*.tmp") // mode 0600, O_EXCL
	if err != nil {
		return "", err
	}
	if err := writeAndClose(f, text); err != nil {
		_ = os.Remove(f.Name())
		return "", err
	}
	return f.Name(), nil
}

// writeNew writes the text to a file that must not exist yet.
func writeNew(path string, text []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err := writeAndClose(f, text); err != nil {
		_ = os.Remove(path)
		return err
	}
	return nil
}

// writeAndClose writes the text, waits for the disk and closes the file.
func writeAndClose(f *os.File, text []byte) error {
	_, err := f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// syncDir waits until the directory's entries are on disk.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil // directories cannot be opened for this there
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if errors.Is(err, errors.ErrUnsupported) || errors.Is(err, syscall.EINVAL) {
		err = nil // some network file systems cannot, and say so in these ways
	}
	return errors.Join(err, d.Close())
}
