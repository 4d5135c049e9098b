package words_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/secretstack/secretstack/keys/words"
)

// vectors are those of BIP 39's reference implementation for 256 bits.
var vectors = []struct{ seed, words string }{
	{strings.Repeat("00", 32), strings.Repeat("abandon ", 23) + "art"},
	{strings.Repeat("7f", 32), "legal winner thank year wave sausage worth useful legal winner thank year wave sausage worth useful " +
		"legal winner thank year wave sausage worth title"},
	{strings.Repeat("80", 32), "letter advice cage absurd amount doctor acoustic avoid letter advice cage absurd amount doctor acoustic avoid " +
		"letter advice cage absurd amount doctor acoustic bless"},
	{strings.Repeat("ff", 32), strings.Repeat("zoo ", 23) + "vote"},
	{"68a79eaca2324873eacc50cb9c6eca8cc68ea5d936f98787c60c7ebc74e6ce7c",
		"hamster diagram private dutch cause delay private meat slide toddler razor book happy fancy gospel tennis maple dilemma loan word " +
			"shrug inflict delay length"},
}

func TestWordsOfKnownSeeds(t *testing.T) {
	for _, v := range vectors {
		seed, err := hex.DecodeString(v.seed)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := words.FromSeed(seed); err != nil || got != v.words {
			t.Errorf("FromSeed(%s) = %q, %v", v.seed, got, err)
		}
		if got, err := words.ToSeed(v.words); err != nil || !bytes.Equal(got, seed) {
			t.Errorf("ToSeed(%q) = %x, %v", v.words, got, err)
		}
	}
}

func TestWordsMayBeTypedCarelessly(t *testing.T) {
	want, err := words.ToSeed(vectors[4].words)
	if err != nil {
		t.Fatal(err)
	}
	var short []string
	for word := range strings.FieldsSeq(vectors[4].words) {
		short = append(short, strings.ToUpper(word[:min(4, len(word))]))
	}
	got, err := words.ToSeed("\n " + strings.Join(short, " \t\n") + " ")
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("short words in capitals: %x, %v", got, err)
	}
}

func TestWrongWordsAreRefused(t *testing.T) {
	good := vectors[4].words
	for name, text := range map[string]string{
		"none":          "",
		"too few":       strings.TrimSuffix(good, " length"),
		"too many":      good + " length",
		"unknown":       strings.Replace(good, "hamster", "hamstar", 1),
		"misplaced":     strings.Replace(good, "hamster diagram", "diagram hamster", 1),
		"cut too short": strings.Replace(good, "hamster", "ham", 1),
		"cut too long":  strings.Replace(good, "hamster", "hamste", 1),
		"other word":    strings.Replace(good, "hamster", "hammer", 1),
	} {
		if seed, err := words.ToSeed(text); !errors.Is(err, words.ErrWords) {
			t.Errorf("%s: %x, %v", name, seed, err)
		}
	}
	if _, err := words.FromSeed(make([]byte, 16)); !errors.Is(err, words.ErrWords) {
		t.Errorf("a short seed: %v", err)
	}
}

func TestAnErrorShowsOnlyTheWordThatIsWrong(t *testing.T) {
	_, err := words.ToSeed(strings.Replace(vectors[4].words, "private", "privat", 1))
	if err == nil || !strings.Contains(err.Error(), `word 3, "privat"`) || strings.Contains(err.Error(), "hamster") {
		t.Errorf("error is %v", err)
	}
}

// TestTheListIsTheStandardOne compares the list with the digest of BIP 39's english.txt.
func TestTheListIsTheStandardOne(t *testing.T) {
	text, err := os.ReadFile("english.txt")
	if err != nil {
		t.Fatal(err)
	}
	const want = "2f5eed53a4727b4bf8880d8f3f199efc90e58503646d9ff8eff3a2ed3b24dbda"
	if got := sha256.Sum256(text); hex.EncodeToString(got[:]) != want {
		t.Errorf("digest is %x", got)
	}
}

func FuzzToSeed(f *testing.F) {
	for _, v := range vectors {
		f.Add(v.words)
	}
	f.Add("hams diag")
	f.Fuzz(func(t *testing.T, text string) {
		seed, err := words.ToSeed(text)
		if err != nil {
			return
		}
		back, err := words.FromSeed(seed)
		if err != nil {
			t.Fatal(err)
		}
		again, err := words.ToSeed(back)
		if err != nil || !bytes.Equal(again, seed) {
			t.Errorf("%q: %x, then %x, %v", text, seed, again, err)
		}
	})
}
