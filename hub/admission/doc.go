// Package admission decides who may use a hub: who may connect, who may publish, and how much anybody may ask for.
//
//	rules, err := r.Bucket(ctx, admission.RulesBucket) // r is a *registry.Registry
//	invites, err := r.Bucket(ctx, admission.InvitesBucket)
//	a, err := admission.Open(ctx, admission.Config{
//		Mode: admission.ModeInvite, Rules: rules, Invites: invites,
//		IDOf:     func(k keys.PublicKey) secrez.ID { rec, _ := r.LookupKey(k); return rec.ID },
//		OnChange: hub.recheck,
//	})
//	defer a.Close() // before the registry's
//
// # Who is welcome
//
// Three things decide, and a denial by any of them is final: rules about networks, rules about the courier (its key and its
// id), and the mode.
//
//   - Networks: the most specific network with a rule decides; "deny 0.0.0.0/0" and "allow 192.0.2.0/24" together let one
//     network in. IPv4 written as IPv6 (::ffff:192.0.2.1) is IPv4. An allowed network needs no invite.
//   - Keys and ids: a rule about an id is about the courier that has it. A denial of either wins over an allowance of the other.
//   - [ModeOpen]: everybody else may visit and publish.
//   - [ModeInvite]: everybody else may visit. To publish for the first time, a key needs an invite. Whoever has an id already,
//     or has redeemed an invite once, goes on publishing; to put somebody out, deny the key.
//   - [ModeClosed]: only keys that a rule allows, by themselves or by their id, may visit or publish. Invites do not count.
//     Who proves no key, such as a browser on its way to a courier's HTTP, is judged by its network in every mode.
//
// Rules about one subject replace each other. The operator's rules ([Admission.SetRule]) are kept in a bucket and hold on
// every node; those of the configuration file ([Config.Fixed], [Admission.SetFixed]) are this node's alone. Where the two
// contradict each other, the denial wins.
//
// # What to ask, and when
//
// Addresses are the visitor's own: taken from the PROXY header or the trusted X-Forwarded-For first. An address that is not
// valid stands for a connection without one (memory, a unix socket), which like loopback is never limited.
//
//   - A connection comes in, on any port: [Admission.Connect], then [Gate.Enter] of [Admission.Gate]; [Gate.Leave] when it has
//     gone.
//   - A request comes in on it: [Admission.Network] if the request has another true address than the connection, then
//     [Admission.Allow] with [Request].
//   - Before a signature is checked for a stranger: [Admission.Allow] with [Registration].
//   - A key has been proved: [Admission.Visit], and [Admission.AllowKey] with [Connection].
//   - It wants to publish: [Admission.Publish], before the registry is asked. It wants to reset its id: Publish, then
//     [Admission.AllowKey] with [NewID].
//   - A visitor is to be led to a courier, by HTTP, circuit or tunnel: [Admission.Reach] for the courier.
//   - A question whose answer tells whether an id or a key exists, and an address of a courier at which there is none:
//     [Admission.Allow] with [Lookup]. Circuits and deposits in mailboxes: [Admission.AllowKey] with [Circuit] and [Deposit].
//
// All of these but Publish answer from memory, in well under a microsecond, and allocate nothing unless they refuse or
// [Config.IDOf] does. Publish writes to disk when it redeems an invite, and never else.
//
// # Changes
//
// What is changed at run time holds when the changing call returns, for every question asked after that; on other nodes a
// moment later. [Config.OnChange] is called then, and when a rule expires: ask Network, Visit and Reach again for each live
// connection and close those that are refused. None of the three is counted against anybody.
//
// # Limits
//
// Rates are token buckets, one for each kind and address, and one for each kind and key. IPv6 addresses count by their /64,
// which is what one customer gets at least. Each node counts for itself. The buckets lie in a table of fixed size: while
// there is room nothing is forgotten; when there is none, buckets that are full again go first, since they say nothing, and
// then those that are nearest to it. Somebody who commands a million addresses therefore takes no memory, and does not get
// rid of a limit that he has run into. Limits can be changed at run time with [Admission.SetLimits].
//
// # Invites
//
// The code of an invite is a secret of 100 random bits. It is shown once, when [Admission.CreateInvite] returns; what is
// stored is its hash. Redeeming writes the key into the invite's record, on condition that nobody has changed that record:
// the use and the membership become true in one write, which either is on disk or is not. So an invite is never used once
// too often, on any number of nodes, whenever a process is killed; and whoever was told that he is in is in. A revoked or
// expired invite is kept for the sake of its members. Without members it is removed.
//
// # An operator's interface
//
// [Admission.Rules], [Admission.SetRule] and [Admission.RemoveRule], with [ParseSubject] and [ParseRule] for what a person
// types; [Admission.Invites], [Admission.CreateInvite] and [Admission.RevokeInvite]; [Admission.Mode] and [Admission.SetMode];
// [Admission.Stats]. Rules and invites have a JSON form.
//
// # When the disk fails
//
// Everything is answered from memory as before, members included. Redeeming an invite, and changing anything that is stored,
// gives [ErrUnavailable].
package admission
