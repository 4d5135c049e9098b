// Package courier is somebody's post office: a daemon with one identity that keeps contacts, sends messages as soon as
// their recipients can be reached, and takes what comes for its owner.
//
//	c, err := courier.Start(ctx, courier.Config{Identity: id, Dir: dir})
//	…
//	defer c.Close(ctx)
//
// # Ways
//
// Messages are kept in package courier/store from the moment in which [Client.Send] has returned until their arrival is
// known. For each contact for whom something waits, the courier tries its ways one after the other: a connection that is
// there or can be dialled ([Dialer]), and every [Route] of the configuration, such as a mailbox at a hub. What is left is
// tried again, after pauses that grow, and at once when the contact connects.
//
// # Control
//
// The owner's programs talk to the courier over a socket in its folder that only the owner can connect to; [Dial]
// returns the [Client] that speaks with it. Other peers can call one method, "courier.deliver". docs/MESSAGES.md gives
// what is sent.
package courier
