package port

import (
	"bytes"
	"io"
	"testing"
)

// FuzzHeader looks for headers that make us read beyond their end, or believe what they do not say.
func FuzzHeader(f *testing.F) {
	for _, seed := range []string{
		"PROXY TCP4 192.0.2.7 198.51.100.1 40112 8433\r\nGET",
		"PROXY TCP6 2001:db8::7 2001:db8::1 40112 8433\r\n",
		"PROXY UNKNOWN\r\n\r\n",
		signature2 + "\x21\x11\x00\x0c\xc0\x00\x02\x07\xc6\x33\x64\x01\x9c\xb0\x20\xf1GET",
		signature2 + "\x20\x00\x00\x00",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bytes.NewReader(data)
		visitor, err := parseHeader(r)
		read := data[:len(data)-r.Len()]
		if err != nil {
			if visitor.IsValid() {
				t.Error("an address and an error")
			}
			return
		}
		if len(read) < minHeader {
			t.Errorf("%q is no header", read)
		}
		if visitor.Addr().Is4In6() || visitor.Addr().Zone() != "" {
			t.Errorf("%s is not in its usual form", visitor)
		}
		for cut := range read {
			if _, err := parseHeader(bytes.NewReader(read[:cut])); err == nil {
				t.Errorf("%q does without %q", read[:cut], read[cut:])
			}
		}
		again, err := parseHeader(io.MultiReader(bytes.NewReader(read), bytes.NewReader([]byte("whatever follows"))))
		if err != nil || again != visitor {
			t.Errorf("%v %v, alone %v", again, err, visitor)
		}
	})
}
