package port_test

import (
	"fmt"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/secretstack/secretstack/hub/port"
)

func TestAnAddressHasItsShareOfConnectionsAndNotMore(t *testing.T) {
	for name, c := range map[string]struct {
		from    func(i int) string
		let     int
		proxied bool
	}{
		"one address":              {from: func(i int) string { return fmt.Sprintf("192.0.2.1:%d", i+1) }, let: 3},
		"one host of IPv6":         {from: func(i int) string { return fmt.Sprintf("[2001:db8::%d]:1", i+1) }, let: 3},
		"one address, mapped":      {from: func(i int) string { return fmt.Sprintf("[::ffff:192.0.2.1]:%d", i+1) }, let: 3},
		"many addresses":           {from: func(i int) string { return fmt.Sprintf("192.0.2.%d:1", i+1) }, let: 6},
		"many hosts of IPv6":       {from: func(i int) string { return fmt.Sprintf("[2001:db8:0:%d::1]:1", i+1) }, let: 6},
		"loopback":                 {from: func(i int) string { return fmt.Sprintf("127.0.0.1:%d", i+1) }, let: 6},
		"a proxy, for who knows":   {from: func(i int) string { return fmt.Sprintf("10.0.0.1:%d", i+1) }, let: 6},
		"a proxy, for one address": {from: func(i int) string { return fmt.Sprintf("10.0.0.1:%d", i+1) }, let: 3, proxied: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ln := newNetwork()
				p := open(t, port.Options{TrustedProxies: prefixes("10.0.0.0/8"), MaxPerAddress: 3}, ln)
				go drain(p.Secret())
				var clients []net.Conn
				for i := range 6 {
					client := ln.dial(t, c.from(i))
					if c.proxied {
						send(client, headers["version 1"].header+noise)
					} else {
						send(client, noise)
					}
					synctest.Wait()
					clients = append(clients, client)
				}
				for i, client := range clients {
					if isOpen(client) != (i < c.let) {
						t.Errorf("connection %d is open: %t", i, isOpen(client))
					}
				}
				if s := p.Stats(); s.Unproved != c.let || s.Crowded != uint64(6-c.let) {
					t.Errorf("%+v", s)
				}
				_ = clients[0].Close() // drain closes the other end
				synctest.Wait()
				if client := ln.dial(t, c.from(0)); !isOpen(client) {
					t.Error("the place of one that left is not free")
				}
			})
		})
	}
}

// drain takes connections, and closes each when its client does.
func drain(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			for err == nil {
				_, err = c.Read(make([]byte, 64))
			}
			_ = c.Close()
		}()
	}
}

func TestTheOldestConnectionsWithoutAKeyMakeRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln := newNetwork()
		p := open(t, port.Options{MaxUnproved: 3, Timeout: time.Hour}, ln)
		from := func(i int) string { return fmt.Sprintf("192.0.2.%d:1", i) }
		silent := ln.dial(t, from(1)) // in the first stage
		synctest.Wait()
		shaking := ln.dial(t, from(2)) // handed over, and then silent
		send(shaking, noise)
		shaken := accept(t, p.Secret())
		proved := ln.dial(t, from(3))
		send(proved, noise)
		provedHere := accept(t, p.Secret())
		p.Proved(provedHere)
		p.Proved(provedHere)
		if s := p.Stats(); s.Unproved != 2 || s.Accepted != 3 {
			t.Errorf("%+v", s)
		}
		third, fourth, fifth := ln.dial(t, from(4)), ln.dial(t, from(5)), ln.dial(t, from(6))
		synctest.Wait()
		if isOpen(silent) || isOpen(shaking) {
			t.Error("the oldest two did not make room")
		}
		if !isOpen(proved) || !isOpen(third) || !isOpen(fourth) || !isOpen(fifth) {
			t.Error("others had to go")
		}
		if s := p.Stats(); s.Unproved != 3 || s.MadeRoom != 2 {
			t.Errorf("%+v", s)
		}
		_, _ = shaken.Close(), provedHere.Close()
		if s := p.Stats(); s.Unproved != 3 {
			t.Errorf("counted twice: %+v", s)
		}
	})
}

func TestTheOldestConnectionsInTheStagesMakeRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln := newNetwork()
		open(t, port.Options{MaxPending: 2, Timeout: time.Hour}, ln)
		first, second, third := ln.dial(t, "192.0.2.1:1"), ln.dial(t, "192.0.2.2:1"), ln.dial(t, "192.0.2.3:1")
		synctest.Wait()
		if isOpen(first) || !isOpen(second) || !isOpen(third) {
			t.Error("the first and only the first should be closed")
		}
	})
}
