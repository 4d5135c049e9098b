// Package secrez speaks the account side of Secrez: public keys, ids, signed payloads and sealed messages, byte for byte
// as the JavaScript hub and courier 0.2.1 and later write them. It knows nothing of networks or storage.
//
// # Keys
//
// An [Account] can sign and seal. Its [PublicKey] is written "box$sign": an X25519 key, a dollar and an Ed25519 key, each
// in base64. [FromIdentity] derives both halves from one keys.Identity, so that one key names a person everywhere.
// Accounts made by Secrez have two independent halves and come in through [ImportAccount]; [PublicKey.Derived] tells the
// two kinds apart. The sign half is who somebody is: nothing but it is proved by a signature.
//
// # Signed payloads
//
// A payload is the text of a JSON object, and the signature covers that text exactly. [Account.SignPayload] makes one,
// [Signed.Verify] checks one and gives a [Payload], the only form from which members can be read:
//
//	payload, err := secrez.Signed{Payload: text, Signature: signature}.Verify()
//	if err != nil {
//		return err // ErrPayload, ErrPublicKey or ErrSignature
//	}
//	if err := replays.Admit(payload); err != nil {
//		return err // ErrExpired, ErrReplayed or ErrReplayFull
//	}
//	var reset bool
//	if _, err := payload.Field("reset", &reset); err != nil {
//		return err
//	}
//
// Verify alone is what a stored message needs. A request that makes something happen also needs the [ReplayCache]: it
// admits a payload within its time window, and once. [Payload.Digest] names a payload, for whoever wants to answer a
// repeated request as he answered the first.
//
// # Sealed messages
//
// [Account.Seal] and [Account.Open] encrypt and decrypt between two accounts. Both ends hold the same key, so a sender
// can open what he sent; there is no forward secrecy, and nothing in a sealed message says to whom it went.
//
// # Ids
//
// A hub knows a courier by an [ID] such as "7y-6ro-3z". [IDFromHost] finds it in a Host header, strictly below the hub's
// own domain.
//
// # What the original accepts and this package refuses
//
// Every text here has one spelling, and every value one type. The original is laxer; what follows from each of these was
// a defect, and the tests hold the whole list with its recorded cases:
//
//   - a public key with a third part, with spare base64 bits, all zero or of small order: one person had any number of
//     names, and an identity point as key signs everything;
//   - a signature in another base64 spelling, or with S raised by the group's order: it passed as a new one, so a
//     one-time payload worked again;
//   - a time that is no number: "x" had no age and never expired, "__proto__" broke the hub for everybody, and no time
//     at all was an internal error;
//   - an id with further segments, in the wrong place of a host name, or outside the hub's domain: it took requests meant
//     for others;
//   - members named twice, or bytes that are not UTF-8: two readers could read two things from one signature.
//
// The box half of a key from Secrez cannot be checked against its sign half, because nothing binds them. A key may
// therefore name somebody else's box half; whoever signs with it gains nothing by that, as he cannot open what is sealed
// for it. But he can sign with many box halves: whoever counts people or gives each one thing does so by
// [PublicKey.Identity], not by the text of the whole key.
//
// # Errors
//
// Each sentinel is one decision of a caller: [ErrPayload], [ErrPublicKey] and [ErrSignature] are three different answers
// of the hub's API. All are matched with errors.Is. No error repeats what came in.
package secrez
