package vhost

import (
	"net/http"
	"net/http/httputil"
	"net/netip"
	"strings"

	"github.com/secretstack/secretstack/internal/netaddr"
)

// rewrite makes the courier's request of the visitor's. The proxy has already taken off what is meant for one hop.
func (x *exchange) rewrite(pr *httputil.ProxyRequest) {
	out, in := pr.Out, pr.In
	out.URL.Scheme, out.URL.Host = "http", x.id.String()
	out.URL.RawQuery = in.URL.RawQuery // as the visitor wrote it: it is not ours to parse
	out.Host = in.Host
	for key := range out.Header {
		if forwarding(key) {
			delete(out.Header, key)
		}
	}
	x.forward(out.Header)
	if x.body != nil || strings.EqualFold(out.Header.Get("Upgrade"), "h2c") {
		// An upgrade that begins with a body is nothing that any client sends; and inside h2c nobody would look at headers
		// any more.
		delete(out.Header, "Connection")
		delete(out.Header, "Upgrade")
	}
	delete(out.Header, "Http2-Settings")
}

// forwarding reports whether a header says where a request comes from. Underscores count as hyphens: CGI, and what
// descends from it, cannot tell them apart.
func forwarding(key string) bool {
	key = strings.ToLower(strings.ReplaceAll(key, "_", "-"))
	return key == "forwarded" || key == "x-real-ip" || strings.HasPrefix(key, "x-forwarded-")
}

// forward says where the request comes from.
func (x *exchange) forward(h http.Header) {
	proto := "http"
	if x.in.TLS != nil {
		proto = "https"
	}
	via := remote(x.in)
	chain := via.String()
	if !via.IsValid() {
		chain = ""
	}
	if x.h.trusts(via) {
		if said := lastValue(x.in.Header["X-Forwarded-Proto"]); said == "http" || said == "https" {
			proto = said
		}
		if before := x.h.believed(x.in.Header["X-Forwarded-For"]); before != "" {
			chain = before + ", " + chain
		}
	}
	if chain != "" {
		h["X-Forwarded-For"] = []string{chain}
	}
	h["X-Forwarded-Host"] = []string{x.in.Host}
	h["X-Forwarded-Proto"] = []string{proto}
}

// Visitor is the true address of whoever has sent a request, as far as the connection and TrustedProxies tell; the zero
// value when they do not.
func (h *Handler) Visitor(r *http.Request) netip.Addr {
	via := remote(r)
	if !h.trusts(via) {
		return via
	}
	first, _, _ := strings.Cut(h.believed(r.Header["X-Forwarded-For"]), ",")
	if a, err := netip.ParseAddr(first); err == nil {
		return a
	}
	return via
}

// remote is the address at the other end of a visitor's connection, or the zero value.
func remote(r *http.Request) netip.Addr {
	if ap, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		return netaddr.Plain(ap.Addr())
	}
	return netip.Addr{}
}

func (h *Handler) trusts(a netip.Addr) bool {
	for _, p := range h.cfg.TrustedProxies {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// believed is the part of X-Forwarded-For that trusted proxies have written: from the last address that is not one of
// them. Each of them says whom it heard from; what stands before that is hearsay.
func (h *Handler) believed(values []string) string {
	var addresses []string
	for _, v := range values {
		addresses = append(addresses, strings.Split(v, ",")...)
	}
	for i := len(addresses) - 1; i >= 0; i-- {
		a, err := netip.ParseAddr(strings.TrimSpace(addresses[i]))
		if err != nil {
			return strings.Join(addresses[i+1:], ", ")
		}
		addresses[i] = netaddr.Plain(a).String()
		if !h.trusts(netaddr.Plain(a)) {
			return strings.Join(addresses[i:], ", ")
		}
	}
	return strings.Join(addresses, ", ")
}

// lastValue is the last element of a header that is a list: the one written by the nearest proxy.
func lastValue(values []string) string {
	if len(values) == 0 {
		return ""
	}
	last := values[len(values)-1]
	if comma := strings.LastIndexByte(last, ','); comma >= 0 {
		last = last[comma+1:]
	}
	return strings.ToLower(strings.TrimSpace(last))
}

// modifyResponse keeps a courier to its own host: its cookies must not reach its neighbours below the same domain.
func modifyResponse(res *http.Response) error {
	for i, cookie := range res.Header["Set-Cookie"] {
		res.Header["Set-Cookie"][i] = hostOnly(cookie)
	}
	return nil
}

// hostOnly takes the Domain attribute off a cookie.
func hostOnly(cookie string) string {
	if !strings.Contains(strings.ToLower(cookie), "domain") {
		return cookie
	}
	parts := strings.Split(cookie, ";")
	kept := parts[:1]
	for _, part := range parts[1:] {
		name, _, _ := strings.Cut(part, "=")
		if !strings.EqualFold(strings.TrimSpace(name), "domain") {
			kept = append(kept, part)
		}
	}
	return strings.Join(kept, ";")
}
