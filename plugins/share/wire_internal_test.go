package share

import (
	"bytes"
	"strings"
	"testing"
)

func TestMessagesAreAsDocumented(t *testing.T) {
	var b bytes.Buffer
	if err := writeMessage(&b, request{Service: "web"}); err != nil || b.String() != "\x00\x11{\"service\":\"web\"}" {
		t.Errorf("%q, %v", b.String(), err)
	}
	b.Reset()
	if err := writeMessage(&b, answer{Status: OK}); err != nil || b.String() != "\x00\x0f{\"status\":\"ok\"}" {
		t.Errorf("%q, %v", b.String(), err)
	}
	if err := writeMessage(&b, request{Service: strings.Repeat("x", maxMessage)}); err == nil {
		t.Error("a message that is too long was written")
	}
}

func FuzzReadMessage(f *testing.F) {
	f.Add([]byte("\x00\x11{\"service\":\"web\"}and more"))
	f.Add([]byte("\x00\x0f{\"status\":\"ok\"}"))
	f.Add([]byte("\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		var a answer
		if readMessage(r, &a) != nil {
			return
		}
		if n := int(b[0])<<8 | int(b[1]); r.Len() != len(b)-2-n {
			t.Errorf("%d bytes of %d are left", r.Len(), len(b))
		}
	})
}
