package secrez

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/secretstack/secretstack/keys"
)

func TestOneKeyNamesAPersonEverywhere(t *testing.T) {
	id, err := keys.Generate()
	if err != nil {
		t.Fatal(err)
	}
	a, err := FromIdentity(id)
	if err != nil {
		t.Fatal(err)
	}
	if !a.Public().Identity().Equal(id.Public()) || !a.Identity().Public().Equal(id.Public()) {
		t.Error("the sign half is not the identity")
	}
	box, err := id.Public().X25519()
	if err != nil || !bytes.Equal(a.Public().Box(), box.Bytes()) {
		t.Errorf("the box half is not the identity's X25519 form: %v", err)
	}
	fromPublic, err := DerivePublicKey(id.Public())
	if err != nil || !fromPublic.Equal(a.Public()) || !fromPublic.Derived() {
		t.Errorf("derived from the public key: %v, %v", fromPublic, err)
	}
	if parsed, err := ParsePublicKey(a.Public().String()); err != nil || !parsed.Equal(a.Public()) {
		t.Errorf("%v, %v", parsed, err)
	}
	if a.Public().Short() != id.Public().Short() {
		t.Error("logs call the two differently")
	}
}

func TestADerivedAccountComesBackThroughItsSecrets(t *testing.T) {
	a := derived(t, 9)
	back, err := ImportAccount(a.Identity().Seed(), a.BoxSecret())
	if err != nil || !back.Public().Equal(a.Public()) || !back.Public().Derived() {
		t.Errorf("%v, %v", back, err)
	}
}

func TestImportRefusesSecretsThatAreNone(t *testing.T) {
	sign := unhex(t, readVectors(t).Accounts[0].Sign)
	box := unhex(t, readVectors(t).Accounts[0].Box)
	otherHalf := slices.Clone(sign)
	otherHalf[63] ^= 1
	for name, c := range map[string][2][]byte{
		"nothing":               {nil, nil},
		"no box":                {sign, nil},
		"no sign":               {nil, box},
		"short sign":            {sign[:63], box},
		"short seed":            {sign[:31], box},
		"long sign":             {append(slices.Clone(sign), 0), box},
		"short box":             {sign, box[:31]},
		"long box":              {sign, append(slices.Clone(box), 0)},
		"public half of others": {otherHalf, box},
	} {
		if a, err := ImportAccount(c[0], c[1]); !errors.Is(err, ErrSecret) || a != nil {
			t.Errorf("%s: %v, %v", name, a, err)
		}
	}
	for _, none := range []*keys.Identity{nil, {}} {
		if a, err := FromIdentity(none); !errors.Is(err, ErrSecret) || a != nil {
			t.Errorf("no identity: %v, %v", a, err)
		}
	}
}

// secretForms are the ways in which 32 secret bytes could turn up in a text.
func secretForms(secret []byte) []string {
	return []string{
		string(secret), hex.EncodeToString(secret), strings.ToUpper(hex.EncodeToString(secret)),
		base64.StdEncoding.EncodeToString(secret)[:40], EncodeBase58(secret), EncodeBase32(secret),
		strings.Trim(fmt.Sprintf("%d", secret), "[]"), strings.Trim(fmt.Sprintf("%#v", secret), "[]byte{}"),
	}
}

func TestSecretsAreNeverPrinted(t *testing.T) {
	type holder struct {
		Account  Account
		Pointer  *Account
		Shared   SharedKey
		hidden   Account
		hiddenTo *SharedKey
	}
	a := account(t, "alice")
	k, err := a.Shared(account(t, "bob").Public())
	if err != nil {
		t.Fatal(err)
	}
	h := holder{*a, a, *k, *a, k}
	var printed strings.Builder
	for _, v := range []any{a, *a, k, *k, h, &h, []*Account{a}, map[string]Account{"a": *a}, []SharedKey{*k}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%b", "%o", "%U", "%t", "%e", "%c"} {
			fmt.Fprintf(&printed, verb+"\n", v)
		}
		text, err := json.Marshal(v)
		if err != nil {
			t.Errorf("%T: %v", v, err)
		}
		printed.Write(text)
		slog.New(slog.NewTextHandler(&printed, nil)).Info("text", "value", v)
		slog.New(slog.NewJSONHandler(&printed, nil)).Info("json", "value", v)
		fmt.Fprintln(&printed, fmt.Errorf("wrapped %v", v))
	}
	for _, secret := range [][]byte{a.Identity().Seed(), a.BoxSecret(), k.key()[:]} {
		for _, form := range secretForms(secret) {
			if strings.Contains(printed.String(), form) {
				t.Errorf("a secret is printed as %.12q…", form)
			}
		}
	}
	if !strings.Contains(printed.String(), a.Public().Short()) {
		t.Error("not even the public key is printed")
	}
}

func TestNilAccountPrintsLikeNil(t *testing.T) {
	var a *Account
	if got := fmt.Sprint(a); !strings.Contains(got, "nil") {
		t.Errorf("got %q", got)
	}
}
