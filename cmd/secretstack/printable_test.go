package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/secretstack/secretstack/courier"
	"github.com/secretstack/secretstack/hub/native"
	"github.com/secretstack/secretstack/muxrpc"
	"github.com/secretstack/secretstack/plugins/hubclient"
	"github.com/secretstack/secretstack/plugins/share"
)

// hostile is text that would give a window another title, go back to the beginning of the line, turn the direction of the
// text around, and begin a line that looks like ours; with the one-byte form of an escape, and what is no text.
const hostile = "x\x1b]0;mine\x07\rsecretstack: fine\u202eexe.\u2066\u009b2J\x7f\U000e0001\xff\nsecretstack: all is well"

// wantHarmless checks that nothing of a text moves the cursor, or looks like a message of ours without being one.
func wantHarmless(t *testing.T, where, text string) {
	t.Helper()
	for i, r := range text {
		if _, size := utf8.DecodeRuneInString(text[i:]); !strconv.IsPrint(r) && r != '\n' && r != '\t' || r == utf8.RuneError && size == 1 {
			t.Errorf("%s: %q at %d of %q", where, r, i, text)
			return
		}
	}
	if strings.Contains(text, "\nsecretstack: all is well") {
		t.Errorf("%s: a line of somebody else's stands as ours: %q", where, text)
	}
}

func TestWordsOfOthersDoNotMoveTheCursor(t *testing.T) {
	said := errors.New(hostile)
	atHub := &hubclient.HubError{Err: said}
	for where, err := range map[string]error{
		"an error":              said,
		"a hub's refusal":       explainCircuit(&hubclient.HubError{Err: &native.Error{Code: native.Unavailable, Text: hostile}}, "bob"),
		"another refusal":       explainCircuit(&hubclient.HubError{Err: &native.Error{Code: native.BadRequest, Text: hostile}}, "bob"),
		"a hub's error":         explainCircuit(atHub, "bob"),
		"a peer's error":        explainPeer(said, "bob"),
		"a share's names":       explainShare(&share.Error{Status: share.Which, Service: "web", Services: []string{hostile}}, "bob"),
		"a share's other names": explainShare(&share.Error{Status: share.Unknown, Service: hostile, Services: []string{hostile}}, "bob"),
		"a dial":                explainDial(said),
		"a call":                explainCall(&muxrpc.RemoteError{Message: hostile}, "a.b", muxrpc.TypeAsync),
		"the courier":           ownersText(&muxrpc.RemoteError{Message: hostile}),
		"a wrong use":           usagef("%w", said),
		"several":               errors.Join(said, said),
	} {
		var shown bytes.Buffer
		streams{err: &shown}.fail(err, "secretstack")
		wantHarmless(t, where, shown.String())
	}
	now := time.Now()
	for where, text := range map[string]string{
		"a message":       messageText(courier.Message{Text: hostile, Direction: "received", Contact: "bob"}),
		"a file":          messageText(courier.Message{File: &courier.File{Name: hostile}, State: "failed", Note: hostile}),
		"a chat":          strings.Join(newChatModel("bob", nil).message(courier.Message{File: &courier.File{Name: hostile}, State: "failed", Note: hostile}, now)[1:], "\n"),
		"a contact":       contactNote(courier.Contact{Alert: hostile, Trouble: hostile}),
		"the hub's name":  hubText(courier.HubStatus{Name: hostile, Trouble: hostile}),
		"a message, sent": stateText(courier.Message{State: "failed", Note: hostile}),
	} {
		wantHarmless(t, where, text)
	}
	for _, model := range []*chatModel{{name: "bob", trouble: plain(said), width: 1000}, {name: "bob", alert: hostile, width: 1000}} {
		wantHarmless(t, "the line of a chat", model.status())
	}
	var live bytes.Buffer
	newLiveLine(&live).log(hostile)
	wantHarmless(t, "what happens to a share", live.String())
}

func TestJSONOfOthersDoesNotMoveTheCursorAndStaysTheSame(t *testing.T) {
	var out bytes.Buffer
	g := &globals{streams: streams{out: &out}}
	text := strings.ToValidUTF8(hostile, "?") + "<&>🙂 Grüße\u2028"
	if err := g.printJSON(map[string]string{"text": text}); err != nil {
		t.Fatal(err)
	}
	wantHarmless(t, "JSON", out.String())
	var got map[string]string
	if err := json.Unmarshal(out.Bytes(), &got); err != nil || got["text"] != text {
		t.Errorf("%v, %q", err, got["text"])
	}
}

// What a peer answers, and why it does not, come to the terminal by way of call.
func TestAHostilePeerIsCalled(t *testing.T) {
	address := callee(t)
	for _, args := range [][]string{{"test.swear"}, {"test.spell"}, {"test.spell", "--json"}} {
		r := command(t, "", append([]string{"call", address}, args...)...)
		if !strings.Contains(r.out+r.err, "mine") {
			t.Errorf("%v: %+v", args, r)
		}
		wantHarmless(t, strings.Join(args, " "), r.out+r.err)
	}
}
