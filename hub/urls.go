package hub

import (
	"cmp"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/secretstack/secretstack/secrez"
)

// localDomain is what a hub without a domain is called on its own machine.
const localDomain = "localhost"

// places says where a hub is, for URLs.
type places struct {
	domain string
	secure bool
	port   int // 0: the scheme's usual one
}

// placesOf returns where a hub is that listens on an address, which is nil when it is not known.
func placesOf(c Config, listening net.Addr) places {
	p := places{domain: c.Domain, secure: c.Secure || c.TLS != nil, port: int(c.PublicPort)}
	behind := c.Secure && c.TLS == nil // a proxy is what visitors find
	if tcp, ok := listening.(*net.TCPAddr); ok && p.port == 0 && !behind {
		p.port = tcp.Port
	}
	if p.port == p.usual() {
		p.port = 0
	}
	return p
}

func (p places) usual() int {
	if p.secure {
		return 443
	}
	return 80
}

func (p places) scheme() string {
	if p.secure {
		return "https"
	}
	return "http"
}

// host returns a name with the port, where there must be one.
func (p places) host(name string) string {
	if p.port == 0 {
		return name
	}
	return name + ":" + strconv.Itoa(p.port)
}

// courier returns the URL of a courier's HTTP, as it is good for somebody at an address; "" when there is none.
func (p places) courier(id secrez.ID, from netip.Addr) string {
	if p.domain == "" && !from.IsLoopback() {
		return ""
	}
	return p.below(id.String())
}

// below returns the URL of a name below the domain.
func (p places) below(name string) string {
	return p.scheme() + "://" + p.host(name+"."+cmp.Or(p.domain, localDomain))
}

// Web is where the hub is in the web, as people name it: at its domain, else at the host of its first address.
func (h *Hub) Web() string {
	host := h.places.domain
	if addresses := h.Addresses(); host == "" && len(addresses) > 0 {
		at, _, _ := strings.Cut(strings.TrimPrefix(addresses[0], "net:"), "~")
		host = at[:max(strings.LastIndexByte(at, ':'), 0)]
	}
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return h.places.scheme() + "://" + h.places.host(host)
}

// CouriersAt is the URL at which couriers' HTTP is, with ID in the place of the id. A hub without a domain serves it to its
// own machine only.
func (h *Hub) CouriersAt() string { return h.places.below("ID") }
