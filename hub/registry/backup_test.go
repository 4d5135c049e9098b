package registry

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/secretstack/secretstack/hub/registry/claim"
	"github.com/secretstack/secretstack/secrez"
)

// backedUp fills a registry and gives an archive of it, with what must be in it.
func backedUp(t *testing.T) (archive []byte, ids map[uint64]secrez.ID, retired secrez.ID) {
	t.Helper()
	r := open1(t, config(t, t.TempDir()))
	fill(t, r, 0, 300)
	first, _ := r.LookupKey(identity(t, 5).Public())
	register(t, r, statement(t, identity(t, 5), claim.Statement{Action: claim.Reset, ID: first.ID, Sequence: 2}))
	b := bucket(t, r, "lists")
	for i := range 50 {
		put(t, b, strings.Repeat("k", i+1), strings.Repeat("v", i))
	}
	put(t, b, "k", "changed")
	if err := b.Delete(t.Context(), "kk"); err != nil {
		t.Fatal(err)
	}
	bucket(t, r, "empty")
	put(t, temporary(t, r), "k", "v")
	var out bytes.Buffer
	info, err := r.Backup(t.Context(), &out)
	if err != nil {
		t.Fatal(err)
	}
	if info.Records != 300 || info.Messages == 0 || !info.Hub.Equal(hubIdentity(t).Public()) {
		t.Errorf("archived %+v", info)
	}
	ids = map[uint64]secrez.ID{}
	for n := range uint64(300) {
		rec, _ := r.LookupKey(identity(t, n).Public())
		ids[n] = rec.ID
	}
	return out.Bytes(), ids, first.ID
}

func checkRestored(t *testing.T, dir string, ids map[uint64]secrez.ID, retired secrez.ID) {
	t.Helper()
	for range 2 {
		r := open1(t, config(t, dir))
		for n, id := range ids {
			if rec, ok := r.LookupKey(identity(t, n).Public()); !ok || rec.ID != id {
				t.Errorf("owner %d has %v, want %v", n, rec.ID, id)
			}
		}
		if !r.Retired(retired) || r.Count() != len(ids) {
			t.Errorf("%d records, retired: %v", r.Count(), r.Retired(retired))
		}
		if err := r.Verify(t.Context(), ids[7]); err != nil {
			t.Error(err)
		}
		got := contents(t, bucket(t, r, "lists"))
		if len(got) < 49 || got["k"] != "changed" || got["kkk"] != "vv" || got["kk"] != "" {
			t.Errorf("the bucket has %d keys: %q %q %q", len(got), got["k"], got["kk"], got["kkk"])
		}
		if empty := contents(t, bucket(t, r, "empty")); len(empty) != 0 {
			t.Errorf("the empty bucket has %v", empty)
		}
		if gone := contents(t, temporary(t, r)); len(gone) != 0 {
			t.Errorf("the temporary bucket has %v", gone)
		}
		register(t, r, native(t, identity(t, 7)))
		put(t, bucket(t, r, "lists"), "later", "v")
		closed(t, r)
	}
}

func TestABackupRestoresEverything(t *testing.T) {
	archive, ids, retired := backedUp(t)
	for name, dir := range map[string]string{
		"a new folder": filepath.Join(t.TempDir(), "a", "b"), "an empty folder": t.TempDir(),
	} {
		t.Run(name, func(t *testing.T) {
			info, err := Restore(t.Context(), iotestOneByte{bytes.NewReader(archive)}, dir)
			if err != nil {
				t.Fatal(err)
			}
			if info.Records != 300 || info.Messages == 0 || !info.Hub.Equal(hubIdentity(t).Public()) || info.Created.IsZero() {
				t.Errorf("restored %+v", info)
			}
			checkRestored(t, dir, ids, retired)
		})
	}
}

// iotestOneByte gives little at a time, as a slow pipe does.
type iotestOneByte struct{ r io.Reader }

func (o iotestOneByte) Read(b []byte) (int, error) { return o.r.Read(b[:min(len(b), 777)]) }

// What is acknowledged before a backup begins is in it, while couriers register and lists change.
func TestABackupOfABusyRegistryIsSound(t *testing.T) {
	r := open1(t, config(t, t.TempDir()))
	b := bucket(t, r, "lists")
	for i := range 20 {
		put(t, b, strings.Repeat("k", i+1), "before")
	}
	fill(t, r, 0, 200)
	ctx, cancel := context.WithCancel(t.Context())
	busy := make(chan struct{})
	go func() {
		defer close(busy)
		for n := uint64(1000); ctx.Err() == nil; n++ {
			_, _ = r.Register(ctx, native(t, identity(t, n)))
			_, _ = b.Put(ctx, strings.Repeat("k", int(n%20)+1), []byte("meanwhile"))
		}
	}()
	for range 3 {
		var archive bytes.Buffer
		if _, err := r.Backup(t.Context(), &archive); err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join(t.TempDir(), "restored")
		if _, err := Restore(t.Context(), &archive, dir); err != nil {
			t.Fatal(err)
		}
		restored := open1(t, config(t, dir))
		for n := range uint64(200) {
			want, _ := r.LookupKey(identity(t, n).Public())
			if rec, ok := restored.LookupKey(identity(t, n).Public()); !ok || rec.ID != want.ID {
				t.Errorf("owner %d has %v, want %v", n, rec.ID, want.ID)
			}
		}
		if got := contents(t, bucket(t, restored, "lists")); len(got) != 20 {
			t.Errorf("the bucket has %d keys", len(got))
		}
		closed(t, restored)
	}
	cancel()
	<-busy
}

func TestRestoreTouchesNothingThatIsThere(t *testing.T) {
	archive, _, _ := backedUp(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "something")
	if err := os.WriteFile(file, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Restore(t.Context(), bytes.NewReader(archive), dir); !errors.Is(err, ErrNotEmpty) {
		t.Errorf("got %v", err)
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) != 1 {
		t.Errorf("there are %v, %v", files, err)
	}
	if _, err := Restore(t.Context(), bytes.NewReader(archive), file); !errors.Is(err, ErrUnavailable) {
		t.Errorf("in place of a file: %v", err)
	}
}

func TestTruncatedAndAlteredArchivesAreRefusedAndLeaveNothing(t *testing.T) {
	r := open1(t, config(t, t.TempDir()))
	register(t, r, native(t, identity(t, 1)))
	put(t, bucket(t, r, "lists"), "k", "v")
	var out bytes.Buffer
	if _, err := r.Backup(t.Context(), &out); err != nil {
		t.Fatal(err)
	}
	archive := out.Bytes()
	refused := func(name string, b []byte, dir string) {
		t.Helper()
		if _, err := Restore(t.Context(), bytes.NewReader(b), dir); !errors.Is(err, ErrArchive) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	there, gone := t.TempDir(), filepath.Join(t.TempDir(), "new")
	// Reading alone finds every cut and every flipped bit.
	for n := range archive {
		if err := readArchive(archive[:n]); !errors.Is(err, ErrArchive) {
			t.Fatalf("%d bytes of it: %v", n, err)
		}
		b := bytes.Clone(archive)
		b[n] ^= 1 << (n % 8)
		if err := readArchive(b); !errors.Is(err, ErrArchive) {
			t.Fatalf("byte %d altered: %v", n, err)
		}
	}
	if err := readArchive(archive); err != nil {
		t.Fatal(err)
	}
	// And restoring takes away what it had put there until then.
	for _, n := range []int{0, 10, len(archive) / 2, len(archive) - 1} {
		refused("cut", archive[:n], there)
		b := bytes.Clone(archive)
		b[n] ^= 4
		refused("altered", b, gone)
	}
	refused("longer", append(bytes.Clone(archive), 0), there)
	refused("signed by another hub", resigned(t, archive), there)
	if files, err := os.ReadDir(there); err != nil || len(files) != 0 {
		t.Errorf("left behind: %v, %v", files, err)
	}
	if _, err := os.Stat(gone); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("left behind: %v", err)
	}
	if _, err := Restore(t.Context(), bytes.NewReader(archive), there); err != nil {
		t.Errorf("then the sound one: %v", err)
	}
}

// readArchive reads an archive without doing anything with it.
func readArchive(b []byte) error {
	u, info, err := newUnarchiver(bytes.NewReader(b))
	for err == nil {
		var kind byte
		var body, before []byte
		if kind, body, before, err = u.next(); err != nil {
			break
		}
		switch kind {
		case frameEnd:
			return u.end(body, before, info.Hub)
		case frameMessage:
			_, err = u.message(body)
		}
	}
	return err
}

// resigned replaces the signature by another hub's, with the frame's sum made right.
func resigned(t *testing.T, archive []byte) []byte {
	t.Helper()
	b := bytes.Clone(archive)
	end := b[len(b)-frameHead-endSize-crcSize:]
	body := end[frameHead : frameHead+endSize]
	facts := body[:endSize-signatureSize]
	copy(body[len(facts):], identity(t, 77).Sign(append([]byte(archiveLabel), facts...)))
	sum := crc32.Checksum(end[:frameHead+endSize], crc32.MakeTable(crc32.Castagnoli))
	binary.BigEndian.PutUint32(end[frameHead+endSize:], sum)
	return b
}

func TestAnInterruptedRestoreIsNotTakenForARegistry(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, restoringFolder, engineFolder), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), config(t, dir)); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "restore again") {
		t.Errorf("got %v", err)
	}
}

func TestBackupTellsWhenItsWriterFails(t *testing.T) {
	r := open1(t, config(t, t.TempDir()))
	fill(t, r, 0, 400)
	broken := errors.New("the other end is gone")
	if _, err := r.Backup(t.Context(), failingWriter{broken}); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Backup(ctx, io.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	register(t, r, native(t, identity(t, 1000)))
}

type failingWriter struct{ err error }

func (f failingWriter) Write([]byte) (int, error) { return 0, f.err }

func TestRestoreTellsWhenItsReaderFails(t *testing.T) {
	archive, _, _ := backedUp(t)
	broken := errors.New("the other end is gone")
	for _, n := range []int{0, 100, len(archive) / 2} {
		r := io.MultiReader(bytes.NewReader(archive[:n]), failingReader{broken})
		if _, err := Restore(t.Context(), r, filepath.Join(t.TempDir(), "new")); !errors.Is(err, broken) {
			t.Errorf("after %d bytes: got %v", n, err)
		}
	}
	if !maps.Equal(snapshot(t, t.TempDir()), map[string]string{}) {
		t.Error("something is left")
	}
}

type failingReader struct{ err error }

func (f failingReader) Read([]byte) (int, error) { return 0, f.err }

func FuzzArchive(f *testing.F) {
	f.Add([]byte(archiveMagic))
	var out bytes.Buffer
	a, err := newArchiver(&out)
	if err != nil {
		f.Fatal(err)
	}
	_ = a.json(frameHeader, Archive{Hub: hubIdentity(f).Public()})
	_ = a.message(message{subject: "s", header: map[string][]string{"a": {"b"}}, data: []byte("d")})
	_ = a.end(hubIdentity(f))
	f.Add(out.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := readArchive(b); err != nil && !errors.Is(err, ErrArchive) {
			t.Errorf("got %v", err)
		}
	})
}

// TestFoldersOfTheEngineMayVanish while they are written to the disk: it has some for a moment.
func TestFoldersOfTheEngineMayVanish(t *testing.T) {
	dir := t.TempDir()
	stop := make(chan struct{})
	var engine sync.WaitGroup
	engine.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			moment := filepath.Join(dir, fmt.Sprint(n%8))
			if err := errors.Join(os.Mkdir(moment, 0o700), os.Remove(moment)); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for range 300 {
		if err := syncFolders(dir); err != nil {
			t.Error(err)
			break
		}
	}
	close(stop)
	engine.Wait()
}
