package hub

import (
	"reflect"
	"slices"
)

// Reload takes over what can change while the hub runs: Mode, Rules, Limits.Admission, DrainTo and DrainPause. They hold
// when it returns, for connections that are there as well. The certificates that the hub has are loaded again; if they
// cannot be, the log says so, and the old ones stay. Reload returns the names of other fields that differ from those that
// the hub was opened with: they count when it is opened again.
//
// After an error nothing has changed; it is [ErrConfig], or says what is wrong with the rules or limits. A mode that the
// operator has changed meanwhile stays, unless Mode is another one than before.
func (h *Hub) Reload(cfg Config) (unchanged []string, err error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	h.reloading.Lock()
	defer h.reloading.Unlock()
	before := h.live.Load()
	if err := h.admission.SetLimits(cfg.Limits.Admission); err != nil {
		return nil, err
	}
	if err := h.admission.SetFixed(cfg.Rules); err != nil {
		_ = h.admission.SetLimits(before.Limits.Admission) // they were good once
		return nil, err
	}
	if cfg.Mode != before.Mode {
		_ = h.admission.SetMode(cfg.Mode) // checked above
	}
	if h.cfg.Certificates != nil {
		if err := h.cfg.Certificates.Reload(); err != nil {
			h.log.Error("hub: the certificates stay as they were", "err", err)
		}
	}
	h.live.Store(&cfg)
	unchanged = h.cfg.differs(cfg)
	h.log.Info("hub: reloaded", "mode", h.admission.Mode(), "rules", len(cfg.Rules), "needs a restart", unchanged)
	return unchanged, nil
}

// differs names the fields that Reload does not change and in which c and other differ.
func (c Config) differs(other Config) (names []string) {
	limits := other.Limits
	limits.Admission = c.Limits.Admission
	for _, f := range []struct {
		name string
		same bool
	}{
		{"Dir", c.Dir == other.Dir},
		{"Identity", other.Identity.IsZero() || !c.Identity.IsZero() && c.Identity.Public().Equal(other.Identity.Public())},
		{"AppKey", c.AppKey.Equal(other.AppKey)},
		{"Name", c.Name == other.Name},
		{"Version", c.Version == other.Version},
		{"Listen", slices.Equal(c.Listen, other.Listen)},
		{"Domain", c.Domain == other.Domain},
		{"Secure", c.Secure == other.Secure},
		{"PublicPort", c.PublicPort == other.PublicPort},
		{"TLS", (c.TLS == nil) == (other.TLS == nil)},
		{"TrustedProxies", slices.Equal(c.TrustedProxies, other.TrustedProxies)},
		{"RequireProxyHeader", c.RequireProxyHeader == other.RequireProxyHeader},
		{"Landing", c.Landing == other.Landing},
		{"Code", c.Code == other.Code},
		{"TunnelPorts", c.TunnelPorts == other.TunnelPorts},
		{"TunnelAddress", c.TunnelAddress == other.TunnelAddress},
		{"MaxSockets", c.MaxSockets == other.MaxSockets},
		{"TunnelHost", c.TunnelHost == other.TunnelHost},
		{"Limits", reflect.DeepEqual(c.Limits, limits)},
		{"Control", c.Control == other.Control},
		{"Cluster", c.Cluster.same(other.Cluster)},
	} {
		if !f.same {
			names = append(names, f.name)
		}
	}
	return names
}
