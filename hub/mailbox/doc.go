// Package mailbox keeps sealed envelopes for couriers that are away: a mailbox for each key that has asked for one, on the
// storage engine of the registry. It never sees into an envelope and looks at nothing but its length.
//
//	boxes, err := mailbox.Open(ctx, mailbox.Config{Registry: r, Secret: secret})
//	...
//	defer boxes.Close()
//
//	err = boxes.Allow(ctx, alice, mailbox.Policy{Keys: []keys.PublicKey{bob}, Strangers: true})
//	kept, err := boxes.Deposit(ctx, mailbox.Deposit{Sender: bob, Recipient: alice, Envelope: sealed})
//	for e, err := range boxes.Waiting(ctx, alice, false) {
//		... // alice has kept e
//		err = boxes.Acknowledge(ctx, alice, e.ID)
//	}
//
// That senders and recipients have proved their keys, and how often they may come, is for the caller to see.
//
// # What is promised
//
// When [Mailboxes.Deposit] returns, the envelope is on disk. It comes with every call of [Mailboxes.Waiting], in the order in
// which that sender's envelopes were deposited, until it is acknowledged or has expired: at least once. An
// acknowledgement holds when the process is killed; a power cut may undo it, and then the envelope comes once more. A
// deposit whose outcome could not be told may be there nonetheless.
//
// # Who may deposit
//
// A recipient has no mailbox until it says who may use it ([Mailboxes.Allow]): keys; tokens, of which only hashes are known
// here, for those who show one; and, if it wants, strangers. What strangers leave lies in a request box of its own, which
// is small and takes small envelopes only. The lists are kept as keyed hashes: nobody learns from the disk alone whom
// somebody knows. Envelopes lie under such hashes as well.
//
// # Who can hurt whom
//
// Every amount is counted in messages and in bytes ([Limits]): of one sender in one mailbox, of one sender in all of them, of
// one mailbox, and of the hub. Requests have counts of their own throughout, queues of their own on the disk, and places of
// their own among those who wait for it. So strangers can fill the request boxes and nothing else, and an allowed
// sender can fill its share of a mailbox and nothing else. The last quarter of what the hub keeps is for mailboxes with
// little in them: those who let their mail pile up do not lock out the others. Whoever is refused hears why at
// once: the counts are in memory, and nothing is written.
//
// # Why not a stream for each mailbox
//
// Because of what one costs. Measured with the engine's version 2.15 on two cores, 2,000 streams with one message of 1 KiB
// each took 311 KB of memory, 3 goroutines, 24 KB of disk in 6 files and folders, and 3 ms to make, each; a hundred
// thousand would be 30 GB. Mailboxes as subjects of one stream take 180 bytes each, and reading the first message of
// one among 100,000 takes 0.1 ms. What a stream of its own would give, the engine gives by subject: order, reading,
// and emptying a mailbox without touching others. Quotas are counted here, since the engine has none by subject.
//
// Mail is spread over four streams, by recipient, because a stream syncs one write after the other: four take 4 times as
// many writes a second as one does; sixteen do not take more. Requests have the fifth.
//
// # Memory
//
// Measured with 100,000 mailboxes, one takes about 220 bytes in the engine's index, and about 600 more, here and there, while
// something waits in it. Lists of senders stay on the disk. Nothing runs for a mailbox unless its owner reads it live.
//
// # Expiry
//
// What is older than [Limits.Keep] is removed within a minute or so, by the clock of the configuration. What is removed gives
// its room on the disk back, at the latest when half of its file's 8 MiB is free.
//
// # Several nodes
//
// Where the registry is that of a cluster, so are the mailboxes. Nodes tell each other what they have stored and removed.
// Since that takes a moment, and can be missed until each counts again, limits are approximate there; nothing else depends
// on it.
//
// # Backup
//
// [registry.Registry.Backup] has everything. A restored mailbox gives back what was acknowledged after the backup.
package mailbox
