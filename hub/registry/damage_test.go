package registry

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
)

// stored makes a folder with so many records, each in a write of its own, and closes it.
func stored(t *testing.T, n uint64) Config {
	t.Helper()
	cfg := config(t, t.TempDir())
	r := open1(t, cfg)
	for i := range n {
		register(t, r, native(t, identity(t, i)))
	}
	b, err := r.Bucket(t.Context(), "list")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Put(t.Context(), "k", []byte("v")); err != nil {
		t.Fatal(err)
	}
	closed(t, r)
	return cfg
}

func logFile(cfg Config, name string) string {
	return filepath.Join(cfg.Dir, engineFolder, "$G", streamFolder, logStream, name)
}

// snapshot reads all files below a folder.
func snapshot(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		files[path] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// The engine cuts off what it finds damaged, with everything after it. The registry does not let it.
func TestADamagedFileIsLeftAsItIsAndTheErrorNamesTheWayOut(t *testing.T) {
	const records = 20
	flip := func(at func(size int) int) func(*testing.T, string) {
		return func(t *testing.T, file string) {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			b[at(len(b))] ^= 0x40
			if err := os.WriteFile(file, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	cut := func(by int) func(*testing.T, string) {
		return func(t *testing.T, file string) {
			info, err := os.Stat(file)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(file, info.Size()-int64(by)); err != nil {
				t.Fatal(err)
			}
		}
	}
	remove := func(t *testing.T, file string) {
		if err := os.RemoveAll(file); err != nil {
			t.Fatal(err)
		}
	}
	block := filepath.Join(blockFolder, "1.blk")
	for name, c := range map[string]struct {
		file   string
		damage func(*testing.T, string)
	}{
		"a bit of the first record":      {block, flip(func(int) int { return 60 })},
		"a bit in the middle":            {block, flip(func(size int) int { return size / 2 })},
		"a bit of the last record":       {block, flip(func(size int) int { return size - 20 })},
		"the length of the first record": {block, flip(func(int) int { return 3 })},
		"the last record cut":            {block, cut(10)},
		"the last record gone":           {block, cut(382)},
		"the end zeroed":                 {block, func(t *testing.T, file string) { zeroEnd(t, file, 700) }},
		"a file gone":                    {block, remove},
		"all files gone":                 {"", remove},
		"the stream's description":       {"meta.inf", flip(func(size int) int { return size / 2 })},
		"the stream's description gone":  {"meta.inf", remove},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := stored(t, records)
			c.damage(t, logFile(cfg, c.file))
			before := snapshot(t, filepath.Join(cfg.Dir, engineFolder, "$G", streamFolder, logStream))
			for range 2 { // the second try finds what the first one left
				_, err := Open(t.Context(), cfg)
				if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "restore a backup") {
					t.Fatalf("got %v", err)
				}
			}
			after := snapshot(t, filepath.Join(cfg.Dir, engineFolder, "$G", streamFolder, logStream))
			for path, content := range before {
				if after[path] != content {
					t.Errorf("%s has been changed", path)
				}
			}
		})
	}
}

func zeroEnd(t *testing.T, file string, n int) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	clear(b[len(b)-n:])
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestADamagedBucketIsFound(t *testing.T) {
	cfg := stored(t, 1)
	file := filepath.Join(cfg.Dir, engineFolder, "$G", streamFolder, bucketPrefix+"list", blockFolder, "1.blk")
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)-9] ^= 1
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), cfg); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "1.blk") {
		t.Errorf("got %v", err)
	}
}

// What was being written when the process died was never acknowledged, and is no damage.
func TestATornEndThatNobodyWasToldOfIsNoDamage(t *testing.T) {
	const records = 5
	for name, tail := range map[string]func([]byte) []byte{
		"a few bytes":       func(b []byte) []byte { return append(b, b[:15]...) },
		"most of a record":  func(b []byte) []byte { return append(b, b[:200]...) },
		"zeros":             func(b []byte) []byte { return append(b, make([]byte, 4096)...) },
		"an empty new file": func(b []byte) []byte { return b },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := stored(t, records)
			file := logFile(cfg, filepath.Join(blockFolder, "1.blk"))
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, tail(b), 0o600); err != nil {
				t.Fatal(err)
			}
			if name == "an empty new file" {
				if err := os.WriteFile(logFile(cfg, filepath.Join(blockFolder, "2.blk")), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			r := open1(t, cfg)
			if n := r.Count(); n != records {
				t.Errorf("%d records", n)
			}
			register(t, r, native(t, identity(t, 99)))
			closed(t, r)
			if n := open1(t, cfg).Count(); n != records+1 {
				t.Errorf("then %d records", n)
			}
		})
	}
}

// A process can die while the engine makes a stream. What is there then holds nothing, and is made again.
func TestAHalfMadeStreamIsNoDamage(t *testing.T) {
	cfg := stored(t, 2)
	streams := filepath.Join(cfg.Dir, engineFolder, "$G", streamFolder)
	description, err := os.ReadFile(filepath.Join(streams, bucketPrefix+"list", descriptionFile))
	if err != nil {
		t.Fatal(err)
	}
	for name, files := range map[string]map[string][]byte{
		"none":        {},
		"block":       {filepath.Join(blockFolder, "1.blk"): nil},
		"description": {filepath.Join(blockFolder, "1.blk"): nil, descriptionFile: description},
	} {
		for file, content := range files {
			path := filepath.Join(streams, bucketPrefix+name, file)
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	r := open1(t, cfg)
	for _, name := range []string{"list", "none", "block", "description"} {
		b, err := r.Bucket(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Put(t.Context(), "a", []byte("b")); err != nil {
			t.Error(err)
		}
	}
	closed(t, r)
	if n := open1(t, cfg).Count(); n != 2 {
		t.Errorf("%d records", n)
	}
}

// An older copy of the engine's files under a newer mark has lost something.
func TestARolledBackLogIsSeen(t *testing.T) {
	cfg := config(t, t.TempDir())
	r := open1(t, cfg)
	register(t, r, native(t, identity(t, 1)))
	closed(t, r)
	old := t.TempDir()
	if err := os.CopyFS(old, os.DirFS(filepath.Join(cfg.Dir, engineFolder))); err != nil {
		t.Fatal(err)
	}
	r = open1(t, cfg)
	register(t, r, native(t, identity(t, 2)))
	closed(t, r)
	if err := os.RemoveAll(filepath.Join(cfg.Dir, engineFolder)); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(filepath.Join(cfg.Dir, engineFolder), os.DirFS(old)); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), cfg); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "acknowledged") {
		t.Errorf("got %v", err)
	}
}

func TestAMarkThatIsBehindOrTornIsNoDamage(t *testing.T) {
	for name, alter := range map[string]func([]byte) []byte{
		"gone":       func([]byte) []byte { return nil },
		"half":       func(b []byte) []byte { return b[:40] },
		"one slot":   func(b []byte) []byte { b[len(b)-1] ^= 1; return b },
		"both slots": func(b []byte) []byte { b[0] ^= 1; b[markSlot] ^= 1; return b },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := stored(t, 4)
			file := filepath.Join(cfg.Dir, markName)
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, alter(b), 0o600); err != nil {
				t.Fatal(err)
			}
			if n := open1(t, cfg).Count(); n != 4 {
				t.Errorf("%d records", n)
			}
		})
	}
}

func TestALogOfALaterVersionIsNotMisread(t *testing.T) {
	cfg := config(t, t.TempDir())
	r := open1(t, cfg)
	register(t, r, native(t, identity(t, 1)))
	n, _ := r.current()
	// The registry reads the message as soon as it is stored, and may take the engine down before the publisher hears of it.
	// Whether it was stored is what Open tells.
	if _, err := n.js.Publish(t.Context(), logSubject, []byte{groupVersion + 1, 1, 2, 3}); err != nil {
		t.Log(err)
	}
	closed(t, r)
	if _, err := Open(t.Context(), cfg); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "later version") {
		t.Errorf("got %v", err)
	}
}

// The files are read by what is known of the engine's format. A new version of the engine that writes another one fails here.
func TestTheFilesReadAsTheEngineReadsThem(t *testing.T) {
	cfg := config(t, t.TempDir())
	limits := cfg.Limits
	limits.fill()
	e, err := startEngine(t.Context(), cfg.Dir, limits, testLogger(), true)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]jetstream.StreamState{}
	for _, name := range []string{"small", "large"} {
		kv, err := e.js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: name})
		if err != nil {
			t.Fatal(err)
		}
		size := map[string]int{"small": 10, "large": 300 << 10}[name]
		for i := range 100 { // with overwritten and deleted ones, over several files
			key := string(rune('a' + i%20))
			if _, err := kv.Put(t.Context(), key, make([]byte, size)); err != nil {
				t.Fatal(err)
			}
			if i%10 == 9 {
				if err := kv.Delete(t.Context(), key); err != nil {
					t.Fatal(err)
				}
			}
		}
		info, err := e.describe(t.Context(), bucketPrefix+name)
		if err != nil {
			t.Fatal(err)
		}
		want[bucketPrefix+name] = info.State
	}
	if err := e.close(); err != nil {
		t.Fatal(err)
	}
	streams, err := inspectStore(t.Context(), cfg.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(streams) != len(want) {
		t.Fatalf("%d streams", len(streams))
	}
	for _, s := range streams {
		if s.last != want[s.name].LastSeq {
			t.Errorf("%s: %+v, the engine has %d", s.name, s, want[s.name].LastSeq)
		}
	}
	blocks, err := blockNumbers(filepath.Join(cfg.Dir, engineFolder, "$G", streamFolder, bucketPrefix+"large", blockFolder))
	if err != nil || len(blocks) < 2 {
		t.Errorf("the test should fill several files, there are %v, %v", blocks, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := inspectStore(ctx, cfg.Dir); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func FuzzNextRecord(f *testing.F) {
	f.Add(make([]byte, 64))
	f.Add([]byte("\x1e\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00aaaaaaaa"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if rec, err := nextRecord(b, make([]byte, 32)); err == nil && (rec.size <= 0 || rec.size > len(b)) {
			t.Errorf("%d of %d bytes", rec.size, len(b))
		}
	})
}
