// Package cert gives the hub its TLS certificates: from files ([Files]), or by itself from a certificate authority that
// speaks ACME, such as Let's Encrypt ([Automatic]).
//
// # Automatic certificates
//
// There are two. One is for the domain: the authority checks that it is ours by a TLS handshake on port 443
// (TLS-ALPN-01), by a request to port 80 (HTTP-01), or by DNS. The other is for every name one level below it,
// *.domain, where couriers are; authorities check that by DNS alone (DNS-01). For this the hub is a name server itself,
// for one zone, _acme-challenge.domain, which the domain's own zone delegates to it ([Responder]):
//
//	_acme-challenge.hub.example.org.  NS  hub.example.org.
//
// so that no password of a DNS provider lies on the hub. Nothing is ever issued for a name that a visitor asks for.
//
// Certificates are renewed when the authority suggests it (RFC 9773), or when a third of their time is left. A failure
// is tried again after 2, 15, 60, 120, 240 and then every 360 minutes, which stays within the limits of authorities, and
// at once after [Automatic.Reload]. What is in use stays in use meanwhile, even when it has expired.
//
// Account, keys and certificates lie in a folder that only its owner can read. What is there is used after a restart
// without asking anybody.
package cert
