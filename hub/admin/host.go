package admin

import (
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// atOwnName lets requests through that are for the listener by one of its names, by its address, or by none. A page of
// somebody else's can make its own name lead to the listener, and then reads what the browser takes for the page's own.
func atOwnName(names []string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !isOwnName(r.Host, names) {
			answer := &apiError{status: http.StatusMisdirectedRequest, Message: "the admin listener has another name; ask it by its address"}
			answer.write(w)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// isOwnName reports whether a Host header, which browsers never leave empty, may be the listener's.
func isOwnName(host string, names []string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.TrimSuffix(strings.Trim(host, "[]"), ".")
	if _, err := netip.ParseAddr(host); err == nil || host == "" || strings.EqualFold(host, "localhost") {
		return true
	}
	return slices.ContainsFunc(names, func(name string) bool { return strings.EqualFold(name, host) })
}
