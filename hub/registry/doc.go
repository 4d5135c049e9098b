// Package registry is the hub's memory: which id belongs to which key, for ever or until its owner signs a reset. It keeps
// the hub's lists and what waits at the hub as well ([Bucket], [Queue]). Everything lives on a storage engine that runs inside the process, NATS with JetStream,
// in one data folder, without a network.
//
//	r, err := registry.Open(ctx, registry.Config{Dir: "/var/lib/hub/registry", Identity: identity})
//	if err != nil {
//		return err // ErrLocked, ErrDamaged, ErrUnavailable: the text says what can be done
//	}
//	defer r.Close()
//	record, err := r.Register(ctx, registry.Registration{Statement: &signed})
//	...
//	record, ok := r.Lookup(id) // from memory
//
// # Records
//
// A record is keyed by the Ed25519 sign key, whichever way that registers: natively with a [claim.Statement], or with a signed
// payload of the v1 API of Secrez. The first box half that a key states is recorded, and another one is refused. An id that was
// given up in a reset is retired: nobody gets it again.
//
// A key that is given up for another by a statement of both ([rotation.Statement]) leaves it its id, with the next sequence,
// and never gets one again. Old receipts and statements of it do nothing then, and the same statement again does nothing.
//
// Each record is kept with its evidence: what the owner signed ([Registry.Evidence], [Registry.Verify]). A courier registers
// first with a statement that names no id. If it then signs one that names the id and sequence it got, that becomes the
// evidence. A courier also keeps a receipt, which the hub signs ([Registry.Receipt]). Shown with a registration, it gives back
// an id that a hub has lost, or that an older backup does not know yet. Sequences decide what is newer, never clocks.
//
// # Acknowledged is durable
//
// When Register returns, the record has been synced to disk. One goroutine writes. It takes all registrations that wait, decides
// on them, writes what they need as one message of a log, and answers them when the engine has synced it: so registrations
// that come together share a sync. The message is written on condition that the log ends where the writer believes; whatever
// else writes to the log is read first. The directory in memory is what the log says, in the log's order.
//
// A record's key and id thus become true in one write, which either is there or is not. The alternative, a key-value entry for
// each, costs a sync each, or an atomic batch of the engine, which makes, syncs and deletes files of its own.
//
// # When the disk fails
//
// Nothing is written when the disk has less room than Limits.MinFree. An engine that fails nonetheless is taken down and
// restarted until it works; meanwhile look-ups and known couriers are served from memory, and what would have to be written is
// answered with [ErrUnavailable], in bounded time.
//
// The engine cuts off what it finds damaged. Therefore Open reads all files first, and compares the log with the mark up to
// which everything was acknowledged; if something is damaged or missing it says so ([ErrDamaged]) and nothing is touched.
//
// # Backup
//
// [Registry.Backup] writes one archive of everything while the registry works, [Restore] unpacks one into an empty folder.
//
// # From one to several
//
// [MakeOrigin] writes such an archive into the folder of a registry that is alone and closed. A node that is opened with that
// folder ([Cluster.Origin]) brings it to the others, before anything else is written.
package registry
