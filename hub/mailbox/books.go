package mailbox

import "slices"

// amount is so much of envelopes.
type amount Amount

func (a *amount) add(n int, bytes int) {
	a.Count += n
	a.Bytes += int64(n) * int64(bytes)
}

// fits reports whether one more of so many bytes would be within bounds.
func (a amount) fits(size int, most amount) bool {
	return a.Count < most.Count && a.Bytes+int64(size) <= most.Bytes
}

// share is what waits of one sender in one mailbox.
type share struct {
	tag  tag
	kind kind
	amount
}

// account is what waits in one mailbox.
type account struct {
	parts  [kinds]amount
	shares []share
}

func (a *account) share(k kind, t tag) int {
	return slices.IndexFunc(a.shares, func(s share) bool { return s.kind == k && s.tag == t })
}

// sender is somebody in one of its two roles: allowed, or a stranger.
type sender struct {
	kind kind
	tag  tag
}

// books hold what waits: no more than the mailboxes in which something does.
type books struct {
	accounts map[[recipientSize]byte]*account
	senders  map[sender]amount
	totals   [kinds]amount
	turns    uint64 // how often something was entered or struck out
}

func newBooks() books {
	return books{accounts: map[[recipientSize]byte]*account{}, senders: map[sender]amount{}}
}

// add enters one envelope.
func (b *books) add(recipient [recipientSize]byte, k kind, t tag, size int) {
	b.turns++
	a := b.accounts[recipient]
	if a == nil {
		a = &account{}
		b.accounts[recipient] = a
	}
	i := a.share(k, t)
	if i < 0 {
		i = len(a.shares)
		a.shares = append(a.shares, share{tag: t, kind: k})
	}
	b.change(a, i, 1, size)
}

// remove strikes one out, if it is there.
func (b *books) remove(recipient [recipientSize]byte, k kind, t tag, size int) {
	b.turns++
	a := b.accounts[recipient]
	if a == nil {
		return
	}
	i := a.share(k, t)
	if i < 0 {
		return
	}
	if own := a.shares[i].amount; own.Count == 1 || int64(size) > own.Bytes { // after something was missed they may differ
		size = int(own.Bytes)
	}
	b.change(a, i, -1, size)
	if a.shares[i].Count > 0 {
		return
	}
	last := len(a.shares) - 1
	a.shares[i] = a.shares[last]
	a.shares = a.shares[:last]
	if last == 0 {
		delete(b.accounts, recipient)
	}
}

// change adds n envelopes of one share, which may be negative.
func (b *books) change(a *account, i, n, size int) {
	s := &a.shares[i]
	s.add(n, size)
	a.parts[s.kind].add(n, size)
	b.totals[s.kind].add(n, size)
	b.changeSender(sender{s.kind, s.tag}, n, size)
}

func (b *books) changeSender(s sender, n, size int) {
	now := b.senders[s]
	now.add(n, size)
	if now.Count <= 0 {
		delete(b.senders, s)
		return
	}
	b.senders[s] = now
}

// admit says why one more envelope cannot be taken, if so: ErrSenderFull, ErrMailboxFull or ErrHubFull.
func (b *books) admit(l Limits, recipient [recipientSize]byte, k kind, t tag, size int) error {
	var a account
	if known := b.accounts[recipient]; known != nil {
		a = *known
	}
	var own amount
	if i := a.share(k, t); i >= 0 {
		own = a.shares[i].amount
	}
	most := l.of(k)
	switch {
	case !own.fits(size, most.share), !b.senders[sender{k, t}].fits(size, most.sent):
		return ErrSenderFull
	case !a.parts[k].fits(size, most.box):
		return ErrMailboxFull
	case !b.totals[k].fits(size, most.total):
		return ErrHubFull
	case !b.totals[k].fits(size, most.total.threeQuarters()) && !a.parts[k].fits(size, most.small):
		return ErrHubFull
	}
	return nil
}

func (a amount) threeQuarters() amount { return amount{a.Count / 4 * 3, a.Bytes / 4 * 3} }

// bounds are the limits of one kind.
type bounds struct{ share, sent, box, small, total amount }

func (l Limits) of(k kind) bounds {
	if k == request {
		return bounds{
			share: amount{l.MaxRequestsPerSender, l.MaxRequestBytes},
			sent:  amount{l.MaxRequestsSent, int64(l.MaxRequestsSent) * int64(l.MaxRequestSize)},
			box:   amount{l.MaxRequests, l.MaxRequestBytes},
			small: amount{l.MaxRequests, l.MaxRequestBytes},
			total: amount{l.MaxTotalRequests, l.MaxTotalRequestsBytes},
		}
	}
	return bounds{
		share: amount{l.MaxPerSender, l.MaxBytesPerSender},
		sent:  amount{l.MaxSent, l.MaxSentBytes},
		box:   amount{l.MaxMessages, l.MaxBytes},
		small: amount{l.SmallMessages, l.SmallBytes},
		total: amount{l.MaxTotal, l.MaxTotalBytes},
	}
}
