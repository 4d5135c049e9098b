package hub_test

import (
	"strings"
	"testing"

	"github.com/secretstack/secretstack/hub"
	"github.com/secretstack/secretstack/plugins/hubclient"
)

func TestANativeCourierIsReachedAtItsID(t *testing.T) {
	h := start(t, hub.Config{})
	c := newCourier(t, "alice", h, hubclient.Config{Handler: says("alice")})
	s := c.online(t)
	if s.URL != "http://"+s.ID.String()+"."+domain+":"+h.addr[strings.LastIndexByte(h.addr, ':')+1:] || s.Name != domain {
		t.Errorf("%+v", s)
	}
	visitor := h.visitor()
	for range 3 {
		status, body := get(t, visitor, s.URL+"/path")
		if status != 200 || body != "alice "+strings.TrimPrefix(s.URL, "http://")+" /path" {
			t.Errorf("%d %q", status, body)
		}
	}
	if status, _ := get(t, visitor, "http://7y-6ro-3z."+domain); status != 404 {
		t.Errorf("nobody's id gives %d", status)
	}
}
