package hub

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/secretstack/secretstack/hub/registry"
	"github.com/secretstack/secretstack/keys"
)

// What is in a data folder, and in a backup.
const (
	secretFile  = "secret"
	tokenFile   = "admin-token"
	tlsDir      = "tls"
	registryDir = "registry"
)

// ErrBackup says that what is to be restored is no backup of a hub, is cut short or was altered.
var ErrBackup = errors.New("hub: not a sound backup")

// A backup is a tar archive. It begins with the small files of the data folder, and ends with the archive of the registry in
// pieces, because the size of a tar's entry must be known before: registry/00000000, registry/00000001 and so on.

const (
	pieceSize = 1 << 20
	// longestFile bounds a small file, in bytes.
	longestFile = 1 << 20
)

// Backup writes all that is in the data folder to w while the hub goes on: its identity, its registry and lists, its
// certificates. What it writes is as secret as the folder. It tells what is in the registry's part.
func (h *Hub) Backup(ctx context.Context, w io.Writer) (registry.Archive, error) {
	return backup(ctx, h.cfg.Dir, h.registry, w)
}

// Backup does the same for a hub that is not running, whose data folder is dir and whose identity is id; nil means that in the
// folder. Its error is registry.ErrLocked when the hub is running.
func Backup(ctx context.Context, dir string, id *keys.Identity, w io.Writer) (archive registry.Archive, err error) {
	if id == nil {
		if id, err = keys.Load(filepath.Join(dir, secretFile), keys.FileOptions{}); err != nil {
			return archive, fmt.Errorf("hub: %w", err)
		}
	}
	r, err := registry.Open(ctx, registry.Config{Dir: filepath.Join(dir, registryDir), Identity: id, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return archive, err
	}
	archive, err = backup(ctx, dir, r, w)
	return archive, errors.Join(err, r.Close())
}

// MakeOrigin turns the data folder dir of a single hub that is not running into what a cluster begins with, as
// [registry.MakeOrigin] does, and tells what is in it: the sum belongs into the cluster's credential. It reports false where no
// single hub has ever kept anything.
func MakeOrigin(ctx context.Context, dir string, id *keys.Identity) (sum [sha256.Size]byte, archive registry.Archive, made bool, err error) {
	cfg := registry.Config{Dir: filepath.Join(dir, registryDir), Identity: id, Logger: slog.New(slog.DiscardHandler)}
	alone, err := registry.IsSingle(cfg.Dir)
	if err != nil || !alone {
		return sum, archive, false, err
	}
	sum, archive, err = registry.MakeOrigin(ctx, cfg)
	return sum, archive, err == nil, err
}

func backup(ctx context.Context, dir string, r *registry.Registry, w io.Writer) (registry.Archive, error) {
	out := tar.NewWriter(w)
	if err := packFiles(out, dir); err != nil {
		return registry.Archive{}, err
	}
	p := &pieces{out: out}
	archive, err := r.Backup(ctx, p)
	if err == nil {
		err = p.end()
	}
	if err == nil {
		err = out.Close()
	}
	return archive, err
}

// packFiles adds the small files of the data folder.
func packFiles(out *tar.Writer, dir string) error {
	names := []string{secretFile, tokenFile}
	certificates, err := filesBelow(filepath.Join(dir, tlsDir))
	if err != nil {
		return err
	}
	for _, name := range certificates {
		names = append(names, tlsDir+"/"+name)
	}
	for _, name := range names {
		text, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(name)))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = packFile(out, name, text)
		}
		if err != nil {
			return fmt.Errorf("hub: backup of %s: %w", name, err)
		}
	}
	return nil
}

// filesBelow lists the files in a folder that need not be there, those whose names begin with a dot aside.
func filesBelow(dir string) (names []string, err error) {
	err = fs.WalkDir(os.DirFS(dir), ".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case d.Type().IsRegular() && !strings.HasPrefix(d.Name(), "."):
			names = append(names, path)
		}
		return nil
	})
	return names, err
}

func packFile(out *tar.Writer, name string, text []byte) error {
	err := out.WriteHeader(&tar.Header{
		Typeflag: tar.TypeReg, Name: name, Mode: 0o600, Size: int64(len(text)), ModTime: time.Now().Truncate(time.Second), Format: tar.FormatPAX,
	})
	if err != nil {
		return err
	}
	_, err = out.Write(text)
	return err
}

// pieces writes what it is given into entries of a tar archive.
type pieces struct {
	out *tar.Writer
	buf []byte
	n   int
}

func (p *pieces) Write(b []byte) (int, error) {
	for written := 0; ; {
		n := min(len(b)-written, pieceSize-len(p.buf))
		p.buf = append(p.buf, b[written:written+n]...)
		if written += n; written == len(b) {
			return written, nil
		}
		if err := p.end(); err != nil {
			return written, err
		}
	}
}

// end writes the piece that has been begun.
func (p *pieces) end() error {
	if len(p.buf) == 0 {
		return nil
	}
	err := packFile(p.out, pieceName(p.n), p.buf)
	p.n++
	p.buf = p.buf[:0]
	return err
}

func pieceName(n int) string { return fmt.Sprintf("%s/%08d", registryDir, n) }

// Restore unpacks a backup into dir, which must be empty or not there yet, and tells what was in the registry's part. After
// an error dir is as it was. Its error is [ErrBackup], or registry.ErrNotEmpty, registry.ErrArchive, registry.ErrUnavailable.
func Restore(ctx context.Context, r io.Reader, dir string) (archive registry.Archive, err error) {
	entries, err := os.ReadDir(dir)
	missing := errors.Is(err, fs.ErrNotExist)
	if err != nil && !missing {
		return archive, fmt.Errorf("hub: %w", err)
	}
	if len(entries) > 0 {
		return archive, fmt.Errorf("%w: %s", registry.ErrNotEmpty, dir)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return archive, fmt.Errorf("hub: %w", err)
	}
	defer func() {
		if err == nil {
			return
		}
		for _, name := range []string{secretFile, tokenFile, tlsDir, registryDir} {
			_ = os.RemoveAll(filepath.Join(dir, name))
		}
		if missing {
			_ = os.Remove(dir)
		}
	}()
	in := tar.NewReader(r)
	first, err := unpackFiles(in, dir)
	if err != nil {
		return archive, err
	}
	return registry.Restore(ctx, &joined{in: in, next: first}, filepath.Join(dir, registryDir))
}

// unpackFiles writes the small files, and returns the header of the first piece of the registry.
func unpackFiles(in *tar.Reader, dir string) (*tar.Header, error) {
	for {
		header, err := in.Next()
		if err != nil {
			return nil, fmt.Errorf("%w: it ends before the registry", ErrBackup)
		}
		if header.Typeflag != tar.TypeReg || header.Size > longestFile {
			return nil, fmt.Errorf("%w: there is something in it that is no file of a hub", ErrBackup)
		}
		if header.Name == pieceName(0) {
			return header, nil
		}
		if !isSmallFile(header.Name) {
			return nil, fmt.Errorf("%w: there is a file in it that no hub has", ErrBackup)
		}
		if err := unpackFile(in, filepath.Join(dir, filepath.FromSlash(header.Name))); err != nil {
			return nil, err
		}
	}
}

// isSmallFile reports whether a backup may have a file of that name. Nothing else of a name counts, so that an archive that
// somebody has made up writes nowhere else.
func isSmallFile(name string) bool {
	if slices.Contains([]string{secretFile, tokenFile}, name) {
		return true
	}
	rest, below := strings.CutPrefix(name, tlsDir+"/")
	return below && filepath.IsLocal(rest) && fs.ValidPath(rest) && rest != "."
}

func unpackFile(in io.Reader, path string) error {
	text, err := io.ReadAll(in)
	if err != nil {
		return fmt.Errorf("%w: it is cut short", ErrBackup)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("hub: %w", err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("hub: %w", err)
	}
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("hub: %w", err)
	}
	return nil
}

// joined reads the pieces of the registry one after the other.
type joined struct {
	in   *tar.Reader
	next *tar.Header // of the piece that is being read; nil after the last
	n    int
}

func (j *joined) Read(b []byte) (int, error) {
	for j.next != nil {
		n, err := j.in.Read(b)
		if n > 0 || err != nil && !errors.Is(err, io.EOF) {
			return n, err
		}
		if err == nil {
			continue
		}
		if j.next, err = j.in.Next(); errors.Is(err, io.EOF) {
			j.next = nil
			break
		}
		j.n++
		if err != nil || j.next.Name != pieceName(j.n) {
			return 0, fmt.Errorf("%w: pieces of the registry are missing", ErrBackup)
		}
	}
	return 0, io.EOF
}
