package hubclient

import (
	"sync"

	"github.com/secretstack/secretstack/hub/registry/claim"
	"github.com/secretstack/secretstack/keys"
)

// mostNoted is of how many peers the book keeps addresses.
const mostNoted = 1024

// book is what peers have signed about where they can be reached. Hubs hand it on, and cannot write in it.
type book struct {
	mu    sync.Mutex
	pages map[[32]byte]claim.Addresses
}

// note keeps what is said about a peer, if the peer has said it itself, and later than what is known.
func (b *book) note(peer keys.PublicKey, said *claim.Addresses) {
	if said == nil || said.Verify(peer) != nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	key := peer.Array()
	known, ok := b.pages[key]
	switch {
	case ok && !said.Time.After(known.Time):
		return
	case b.pages == nil:
		b.pages = map[[32]byte]claim.Addresses{}
	case !ok && len(b.pages) >= mostNoted:
		for other := range b.pages { // any
			delete(b.pages, other)
			break
		}
	}
	b.pages[key] = *said
}

func (b *book) look(peer keys.PublicKey) (claim.Addresses, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	said, ok := b.pages[peer.Array()]
	return said, ok
}
