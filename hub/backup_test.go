package hub_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/secretstack/secretstack/hub"
	"github.com/secretstack/secretstack/hub/registry"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/plugins/hubclient"
)

// kept returns the data folder of a hub at which somebody has an id, and a backup of it.
func kept(t *testing.T) (dir string, backup []byte, status hubclient.Status) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "hub")
	id, err := keys.LoadOrCreate(filepath.Join(dir, "secret"), keys.FileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	h := start(t, hub.Config{Dir: dir, Identity: id})
	if _, err := h.Operator(); err != nil { // makes the token
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "tls", "deep"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "tls", "deep", "cert.pem"), []byte("a certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	status = newCourier(t, "alice", h, hubclient.Config{}).online(t)
	var b bytes.Buffer
	if _, err := hub.Backup(t.Context(), dir, nil, &b); !errors.Is(err, registry.ErrLocked) {
		t.Errorf("the folder of a running hub can be opened: %v", err)
	}
	h.end()
	b.Reset()
	archive, err := hub.Backup(t.Context(), dir, nil, &b)
	if err != nil || archive.Records != 1 || !archive.Hub.Equal(id.Public()) {
		t.Fatalf("%+v, %v", archive, err)
	}
	return dir, b.Bytes(), status
}

func TestABackupHoldsAllThatAHubNeeds(t *testing.T) {
	dir, backup, before := kept(t)
	again := filepath.Join(t.TempDir(), "again")
	archive, err := hub.Restore(t.Context(), bytes.NewReader(backup), again)
	if err != nil || archive.Records != 1 {
		t.Fatalf("%+v, %v", archive, err)
	}
	for _, name := range []string{"secret", "admin-token", "tls/deep/cert.pem"} {
		want, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(again, name))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is %q, %v", name, got, err)
		}
		if info, err := os.Stat(filepath.Join(again, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	id, err := keys.Load(filepath.Join(again, "secret"), keys.FileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	h := start(t, hub.Config{Dir: again, Identity: id})
	if after := newCourier(t, "alice", h, hubclient.Config{}).online(t); after.ID != before.ID {
		t.Errorf("it was %s and is %s", before.ID, after.ID)
	}
	if _, err := hub.Restore(t.Context(), bytes.NewReader(backup), again); !errors.Is(err, registry.ErrNotEmpty) {
		t.Errorf("into a folder with something in it: %v", err)
	}
}

func TestABackupThatIsCutIsRefusedAndLeavesNothing(t *testing.T) {
	_, backup, _ := kept(t)
	for _, n := range []int{0, 1, 512, 700, len(backup) / 4, len(backup) / 2, len(backup) - 2048} {
		dir := filepath.Join(t.TempDir(), "hub")
		if _, err := hub.Restore(t.Context(), bytes.NewReader(backup[:n]), dir); err == nil {
			t.Errorf("%d of %d bytes are restored", n, len(backup))
		}
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("after %d bytes something is left: %v", n, err)
		}
	}
}

func TestABackupThatSomebodyHasMadeUpWritesNowhereElse(t *testing.T) {
	for name, header := range map[string]tar.Header{
		"above":           {Name: "../evil", Typeflag: tar.TypeReg},
		"above by detour": {Name: "tls/../../evil", Typeflag: tar.TypeReg},
		"absolute":        {Name: "/tmp/evil", Typeflag: tar.TypeReg},
		"a link":          {Name: "secret", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"},
		"a folder":        {Name: "tls/", Typeflag: tar.TypeDir},
		"another file":    {Name: "plugins/x", Typeflag: tar.TypeReg},
		"too large":       {Name: "secret", Typeflag: tar.TypeReg, Size: 2 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			w := tar.NewWriter(&b)
			if err := w.WriteHeader(&header); err != nil {
				t.Fatal(err)
			}
			_, _ = w.Write(make([]byte, header.Size))
			_ = w.Close()
			root := t.TempDir()
			if _, err := hub.Restore(t.Context(), &b, filepath.Join(root, "hub")); !errors.Is(err, hub.ErrBackup) {
				t.Errorf("got %v", err)
			}
			if left, _ := os.ReadDir(root); len(left) > 0 {
				t.Errorf("it left %v", left)
			}
		})
	}
}

func FuzzRestore(f *testing.F) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range []string{"secret", "tls/x/y.pem", "registry/00000000", "registry/00000001"} {
		if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Size: 3}); err != nil {
			f.Fatal(err)
		}
		_, _ = w.Write([]byte("abc"))
	}
	_ = w.Close()
	f.Add(b.Bytes())
	f.Add([]byte("no archive"))
	f.Fuzz(func(t *testing.T, archive []byte) {
		root := t.TempDir()
		if _, err := hub.Restore(context.Background(), bytes.NewReader(archive), filepath.Join(root, "hub")); err == nil {
			t.Error("it was restored")
		}
		if left, _ := os.ReadDir(root); len(left) > 0 {
			t.Errorf("it left %v", left)
		}
	})
}
