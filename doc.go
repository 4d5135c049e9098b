// Package secretstack builds peer-to-peer applications from plugins. Peers prove who they are, reach each other over
// many transports, and call each other's methods; the other end may as well be a JavaScript secret-stack peer.
//
// # The parts
//
// A [Stack] is a recipe: a list of plugins. [Stack.Start] cooks an [App] from it: a running node with an identity, that
// listens, dials and serves. One stack can start many apps. A connection between two apps is a [Peer]: it knows the
// key that the other side has proved, and it is a muxrpc session, so that the functions of package muxrpc take it:
//
//	name, err := muxrpc.Call[string](ctx, peer, "greeter.hello", "bob")
//
// A [Plugin] has a name and an Init function. Init gets a [Setup], where the plugin mounts its methods (their names get
// the plugin's name as a prefix), reads its own section of the configuration, hooks other plugins' methods, listens to
// the events of the app, adds transports, and starts work that ends with the app. [NewPlugin] makes a plugin of a
// function; see the example.
//
// # Who may call what
//
// Everybody who knows the address and the app key may connect, unless an auth hook ([Setup.AuthHook]) refuses. A peer that
// connects may call what the permission set "anonymous" allows: the method "manifest", and what plugins add to the set
// with [Anonymous]. An auth hook can give a caller other permissions. The peer that we have dialled may call what
// "anonymous" allows, no more. Nothing is ever allowed because somebody forgot to say so.
//
// # Limits
//
// Every wait has a deadline and every queue an end. The fields of [Config] say what they are; the zero value of each
// gives a default that suits a node on the open network. [App.Close] always returns, within seconds of the end of its
// context, with every goroutine of the app gone or named in the error.
//
// # Coming from JavaScript
//
// docs/COMING-FROM-JS.md lists each function of secret-stack with its name here. Configurations of secret-stack 8 (with
// "global") and 6 (flat) both load: see [Settings].
package secretstack
