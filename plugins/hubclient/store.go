package hubclient

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/secretstack/secretstack/hub/registry/claim"
	"github.com/secretstack/secretstack/keys"
)

// store keeps what hubs have signed, a file for each hub.
type store struct{ dir string }

// kept is what is in such a file.
type kept struct {
	URL     string        `json:"url,omitempty"`
	Receipt claim.Receipt `json:"receipt"`
}

func (s store) path(hub keys.PublicKey) string {
	return filepath.Join(s.dir, hex.EncodeToString(hub.Bytes())+".json")
}

// errOtherKey says that what is kept is about a key that the app has not, or not any more.
var errOtherKey = errors.New("it is about another key")

// load returns what is kept about a hub. It is nil when there is nothing, and it has been checked.
func (s store) load(hub, self keys.PublicKey) (*kept, error) {
	text, err := os.ReadFile(s.path(hub))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var k kept
	if err := json.Unmarshal(text, &k); err != nil {
		return nil, fmt.Errorf("%s is damaged: %w", s.path(hub), err)
	}
	if err := k.Receipt.Verify(hub); err != nil {
		return nil, fmt.Errorf("%s: %w", s.path(hub), err)
	}
	if !k.Receipt.Key.Equal(self) {
		return nil, fmt.Errorf("%w: %s", errOtherKey, s.path(hub))
	}
	return &k, nil
}

// save replaces what is kept about a hub. When it returns, that is on the disk.
func (s store) save(hub keys.PublicKey, k kept) (err error) {
	text, err := json.Marshal(k)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(s.dir, ".receipt-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, err = f.Write(append(text, '\n'))
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), s.path(hub)); err != nil {
		return err
	}
	return syncDir(s.dir)
}
