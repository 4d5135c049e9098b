package main

import (
	"context"
	"errors"
	"iter"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/muxrpc"
)

// position asks for what comes after an entry of an author.
type position struct {
	Author keys.PublicKey `json:"author"`
	After  int64          `json:"after"`
	Live   bool           `json:"live"` // go on with what is added later
}

// logs is a plugin that keeps logs on disk: logs.append adds to our own, for the app itself alone; logs.read is for all.
func logs() secretstack.Plugin {
	return secretstack.NewPlugin(secretstack.Info{
		Name:        "logs",
		Permissions: secretstack.Anonymous("read"),
	}, func(ctx context.Context, s *secretstack.Setup) error {
		dir, err := s.Dir()
		if err != nil {
			return err
		}
		kept, err := openStore(ctx, dir)
		if err != nil {
			return err
		}
		s.Go(func(ctx context.Context) {
			<-ctx.Done()
			if err := kept.close(); err != nil {
				s.Logger().Error("closing the logs", "err", err)
			}
		})
		closing := make(chan struct{})
		s.OnClose(func() { close(closing) }) // live readers would hold up the end
		s.Export(kept)
		return errors.Join(
			muxrpc.HandleAsync(s, "append", func(ctx context.Context, text string) (entry, error) {
				if text == "" || len(text) > maxText {
					return entry{}, muxrpc.Errorf("an entry has between 1 and %d bytes", maxText)
				}
				return kept.next(ctx, s.Identity(), text)
			}),
			muxrpc.HandleSource(s, "read", func(ctx context.Context, from position) iter.Seq2[entry, error] {
				return read(ctx, kept, from, closing)
			}),
		)
	})
}

// read yields an author's entries, and waits for more when asked to, until the app closes.
func read(ctx context.Context, kept *store, from position, closing <-chan struct{}) iter.Seq2[entry, error] {
	return func(yield func(entry, error) bool) {
		for {
			news := kept.news() // before looking, so that nothing is missed
			entries, err := kept.after(ctx, from.Author, from.After)
			if err != nil {
				yield(entry{}, err)
				return
			}
			for _, e := range entries {
				if !yield(e, nil) {
					return
				}
				from.After = e.Sequence
			}
			if len(entries) > 0 {
				continue
			}
			if !from.Live {
				return
			}
			select {
			case <-news:
			case <-closing:
				return
			case <-ctx.Done():
				return
			}
		}
	}
}

// replicate is a plugin that fetches the logs of those it follows from everybody it is connected to.
func replicate(follow func() []keys.PublicKey) secretstack.Plugin {
	return secretstack.NewPlugin(secretstack.Info{
		Name:  "replicate",
		Needs: []string{"logs"},
	}, func(_ context.Context, s *secretstack.Setup) error {
		kept, _ := secretstack.Find[*store](s.App())
		s.OnConnect(func(peer *secretstack.Peer) {
			for _, author := range follow() {
				s.Go(func(ctx context.Context) {
					if err := fetch(ctx, peer, kept, author); err != nil && ctx.Err() == nil {
						s.Logger().Info("replication ended", "author", author.Short(), "err", err)
					}
				})
			}
		})
		return nil
	})
}

// fetch adds what a peer has of an author's log to ours, until the connection ends.
func fetch(ctx context.Context, peer *secretstack.Peer, kept *store, author keys.PublicKey) error {
	sequence, _, err := kept.head(ctx, author)
	if err != nil {
		return err
	}
	from := position{Author: author, After: sequence, Live: true}
	for e, err := range muxrpc.Source[entry](ctx, peer, "logs.read", from) {
		if errors.Is(err, muxrpc.ErrSessionClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		if !e.Author.Equal(author) {
			return errors.New("the peer sends the log of somebody else")
		}
		if err := kept.add(ctx, e); err != nil {
			return err
		}
	}
	return nil
}
