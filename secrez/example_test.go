package secrez_test

import (
	"errors"
	"fmt"
	"time"

	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/secrez"
)

// A hub's view of a registration: what was signed is checked, admitted once, and only then read.
func ExampleSigned_Verify() {
	courier, err := newAccount()
	if err != nil {
		fmt.Println(err)
		return
	}
	signed, err := courier.SignPayload(map[string]bool{"reset": true}, time.Now())
	if err != nil {
		fmt.Println(err)
		return
	}

	replays := secrez.NewReplayCache(secrez.ReplayOptions{})
	payload, err := signed.Verify()
	if err != nil {
		fmt.Println(err)
		return
	}
	var reset bool
	if _, err := payload.Field("reset", &reset); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("first:", replays.Admit(payload), "reset:", reset)
	fmt.Println("again:", errors.Is(replays.Admit(payload), secrez.ErrReplayed))
	// Output:
	// first: <nil> reset: true
	// again: true
}

// Two accounts write to each other; the sender can read his copy.
func ExampleAccount_Seal() {
	alice, err := newAccount()
	if err != nil {
		fmt.Println(err)
		return
	}
	bob, err := newAccount()
	if err != nil {
		fmt.Println(err)
		return
	}
	sealed, err := alice.Seal(bob.Public(), []byte("hello"))
	if err != nil {
		fmt.Println(err)
		return
	}
	text, err := bob.Open(alice.Public(), sealed)
	fmt.Println(string(text), err)
	text, err = alice.Open(bob.Public(), sealed)
	fmt.Println(string(text), err)
	// Output:
	// hello <nil>
	// hello <nil>
}

func newAccount() (*secrez.Account, error) {
	id, err := keys.Generate()
	if err != nil {
		return nil, err
	}
	return secrez.FromIdentity(id)
}

func ExampleIDFromHost() {
	id, ok := secrez.IDFromHost("7y-6ro-3z.Hub.example.com:8433", "hub.example.com")
	fmt.Println(id, ok)
	_, ok = secrez.IDFromHost("7y-6ro-3z.evil.net", "hub.example.com")
	fmt.Println(ok)
	// Output:
	// 7y-6ro-3z true
	// false
}
