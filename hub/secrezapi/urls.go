package secrezapi

import (
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"

	"github.com/secretstack/secretstack/internal/netaddr"
	"github.com/secretstack/secretstack/secrez"
)

// localDomain is the domain of a hub that has none, for those on the same machine. Browsers find every name below it there.
const localDomain = "localhost"

// A site is where a hub and its couriers are, as addresses name it.
type site struct{ scheme, host string } // with the port, if it is not the scheme's

func (s site) hub() string { return s.scheme + "://" + s.host }

func (s site) courier(id secrez.ID) string {
	return secrez.ContactURL{ID: id, Hub: s.hub()}.String()
}

// site tells what addresses to give to a visitor. Nothing of them is the visitor's choice, except the port by which
// somebody on the same machine has come to a hub without a domain.
func (h *Handler) site(r *http.Request) (site, bool) {
	s := site{scheme: "http", host: h.cfg.Domain}
	port := ""
	if h.cfg.Secure || r.TLS != nil {
		s.scheme = "https"
	}
	switch {
	case s.host == "":
		var ok bool
		if port, ok = LocalPort(r.Host, h.cfg.Addr(r)); !ok {
			return site{}, false
		}
		s.host = localDomain
	case h.cfg.Port != 0:
		port = strconv.Itoa(h.cfg.Port)
	}
	if port != "" && port != usualPort(s.scheme) {
		s.host += ":" + port
	}
	return s, true
}

func usualPort(scheme string) string {
	if scheme == "https" {
		return "443"
	}
	return "80"
}

// LocalPort tells the port in a Host header by which somebody at addr has named this machine: localhost, a name below it,
// or a loopback address. It reports false for every other Host and for whoever is not on this machine. A hub without a
// domain is at localhost for those, and has no address for others.
func LocalPort(host string, addr netip.Addr) (port string, ok bool) {
	if !addr.Unmap().IsLoopback() {
		return "", false
	}
	name := host
	if n, p, err := net.SplitHostPort(host); err == nil {
		name, port = n, p
	} else if inner, ok := strings.CutPrefix(host, "["); ok && strings.HasSuffix(inner, "]") {
		name = strings.TrimSuffix(inner, "]")
	}
	if port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || strconv.FormatUint(n, 10) != port {
			return "", false
		}
	}
	if !namesThisMachine(name) {
		return "", false
	}
	return port, true
}

func namesThisMachine(name string) bool {
	if ip, err := netip.ParseAddr(name); err == nil {
		return ip.IsLoopback()
	}
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	return netaddr.IsHostName(name) && (name == localDomain || strings.HasSuffix(name, "."+localDomain))
}
