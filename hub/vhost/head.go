package vhost

import (
	"bytes"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// writeHead writes the header of the courier's request. Framing is written from what the server understood of the visitor's
// request, never copied.
func writeHead(b *bytes.Buffer, out *http.Request, x *exchange) {
	b.WriteString(out.Method)
	b.WriteByte(' ')
	writeTarget(b, out.URL)
	b.WriteString(" HTTP/1.1\r\n")
	writeField(b, "Host", out.Host)
	for key, values := range out.Header {
		if framing(key) || key == "User-Agent" && x.in.Header[key] == nil { // the proxy sets an empty one
			continue
		}
		for _, v := range values {
			writeField(b, key, v)
		}
	}
	switch {
	case x.body == nil:
		if out.Method == http.MethodPost || out.Method == http.MethodPut || out.Method == http.MethodPatch {
			b.WriteString("Content-Length: 0\r\n")
		}
	case out.ContentLength >= 0:
		writeField(b, "Content-Length", strconv.FormatInt(out.ContentLength, 10))
	default:
		b.WriteString("Transfer-Encoding: chunked\r\n")
		if names := announced(x.in.Trailer); len(names) > 0 {
			writeField(b, "Trailer", strings.Join(names, ", "))
		}
	}
	b.WriteString("\r\n")
}

// framing reports whether a header is written by writeHead itself.
func framing(key string) bool {
	return key == "Host" || key == "Content-Length" || key == "Transfer-Encoding" || key == "Trailer"
}

// writeField writes one header line. The server has checked it; a value that holds a line break nevertheless does not get
// to begin a line of its own.
func writeField(b *bytes.Buffer, key, value string) {
	b.WriteString(key)
	b.WriteString(": ")
	if strings.ContainsAny(value, "\r\n\x00") {
		value = strings.NewReplacer("\r", " ", "\n", " ", "\x00", " ").Replace(value)
	}
	b.WriteString(value)
	b.WriteString("\r\n")
}

// writeTarget writes path and query. HTTP/2 can carry characters in them that would end the request line of HTTP/1.
func writeTarget(b *bytes.Buffer, u *url.URL) {
	if u.Path == "*" {
		b.WriteByte('*')
		return
	}
	path := u.EscapedPath()
	if !strings.HasPrefix(path, "/") {
		b.WriteByte('/')
	}
	writeVisible(b, path)
	if u.ForceQuery || u.RawQuery != "" {
		b.WriteByte('?')
		writeVisible(b, u.RawQuery)
	}
}

func writeVisible(b *bytes.Buffer, s string) {
	const hex = "0123456789ABCDEF"
	for i := range len(s) {
		c := s[i]
		if c > ' ' && c < 0x7f {
			b.WriteByte(c)
			continue
		}
		b.WriteByte('%')
		b.WriteByte(hex[c>>4])
		b.WriteByte(hex[c&15])
	}
}

// announced gives the names of the trailers that go to the courier.
func announced(trailer http.Header) []string {
	var names []string
	for key := range trailer {
		if trailing(key) {
			names = append(names, key)
		}
	}
	slices.Sort(names)
	return names
}

// trailing reports whether a trailer may follow a body: not what frames it, routes it, or says who sent it.
func trailing(key string) bool {
	switch key {
	case "Authorization", "Connection", "Content-Encoding", "Content-Type", "Cookie", "Expect", "Te", "Upgrade":
		return false
	}
	return !framing(key) && !forwarding(key) && validName(key)
}

func validName(key string) bool {
	return key != "" && strings.Trim(key, "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") == ""
}

// headerHas reports whether a header that is a list has an element, in any case.
func headerHas(values []string, element string) bool {
	for _, v := range values {
		for part := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(strings.TrimSpace(part), element) {
				return true
			}
		}
	}
	return false
}
