package native_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/secretstack/secretstack/hub/native"
	"github.com/secretstack/secretstack/hub/registry/claim"
	"github.com/secretstack/secretstack/muxrpc"
)

func TestErrorsSurviveTheirWay(t *testing.T) {
	for _, want := range []native.Error{
		{Code: native.Denied, Text: "this hub does not take you"},
		{Code: native.RateLimited, Text: "too many registrations: wait", RetryAfter: 90 * time.Second},
		{Code: native.Unavailable, Text: ""},
	} {
		forPeer := want.ForPeer()
		told, ok := errors.AsType[*muxrpc.Error](forPeer)
		if !ok {
			t.Fatalf("%v does not reach the peer", forPeer)
		}
		got, ok := native.FromPeer(fmt.Errorf("calling: %w", &muxrpc.RemoteError{Message: told.Error()}))
		if !ok || *got != want {
			t.Errorf("%+v becomes %+v", want, got)
		}
		if native.CodeOf(forPeer) != want.Code {
			t.Errorf("the code of %v is %q", forPeer, native.CodeOf(forPeer))
		}
	}
	if e := (&native.Error{Code: native.RateLimited, RetryAfter: time.Millisecond}).Error(); e != "rate-limited (retry in 1s): " {
		t.Errorf("a fraction of a second is written %q", e)
	}
}

func TestWhatAHubHasNotSaidIsNoRefusal(t *testing.T) {
	for _, err := range []error{
		nil,
		errors.New("denied: not by the hub"),
		&muxrpc.RemoteError{Message: "method:hub.publish is not in list of allowed methods"},
		&muxrpc.RemoteError{Message: "internal error"},
		&muxrpc.RemoteError{Message: "Denied: upper case"},
	} {
		if e, ok := native.FromPeer(err); ok {
			t.Errorf("%v is %+v", err, e)
		}
	}
}

func TestNobodyIsMadeToWaitForEver(t *testing.T) {
	e, ok := native.FromPeer(&muxrpc.RemoteError{Message: "unavailable (retry in 99999h): later"})
	if !ok || e.RetryAfter != 24*time.Hour {
		t.Errorf("%+v", e)
	}
	for after, want := range map[int64]time.Duration{-5: 0, 1500: 1500 * time.Millisecond, math.MaxInt64: 24 * time.Hour} {
		if got := (native.Notice{After: after}).Pause(); got != want {
			t.Errorf("%d ms become %v", after, got)
		}
	}
}

func TestRequestsAreFlatJSON(t *testing.T) {
	b, err := json.Marshal(native.PublishRequest{
		Signed: claim.Signed{Statement: []byte{1}, Signature: []byte{2}}, Invite: "abc", Serves: []string{native.ServesHTTP},
	})
	if want := `{"statement":"AQ==","signature":"Ag==","invite":"abc","serves":["http"]}`; err != nil || string(b) != want {
		t.Errorf("%s, %v; want %s", b, err, want)
	}
	if b, err = json.Marshal(native.WhoisRequest{}); err != nil || string(b) != "{}" {
		t.Errorf("an empty question is %s, %v", b, err)
	}
	var who native.WhoisRequest
	if err := json.Unmarshal([]byte(`{"id":"7y-6ro-3z","unknown":1}`), &who); err != nil || who.ID.String() != "7y-6ro-3z" || !who.Key.IsZero() {
		t.Errorf("%+v, %v", who, err)
	}
}

func FuzzFromPeer(f *testing.F) {
	f.Add("rate-limited (retry in 12s): text")
	f.Add("denied: text")
	f.Add("a (retry in .h): ")
	f.Fuzz(func(t *testing.T, message string) {
		e, ok := native.FromPeer(&muxrpc.RemoteError{Message: message})
		if !ok {
			return
		}
		if e.RetryAfter < 0 || e.RetryAfter > 24*time.Hour {
			t.Errorf("%q makes one wait %v", message, e.RetryAfter)
		}
		again, ok := native.FromPeer(&muxrpc.RemoteError{Message: e.Error()})
		if !ok || again.Code != e.Code || again.Text != e.Text {
			t.Errorf("%q is read as %+v and then as %+v", message, e, again)
		}
	})
}
