package admin

import (
	"crypto/rand"
	"crypto/sha256"
	"maps"
	"sync"
	"time"
)

// Bounds of sessions in browsers.
const (
	sessionTime = 12 * time.Hour // from the login on
	maxSessions = 64             // the oldest goes
	maxLinks    = 1000           // of invites, that a session remembers
)

// hash stands for a cookie.
type hash [sha256.Size]byte

func hashOf(cookie string) hash { return sha256.Sum256([]byte(cookie)) }

// sessions are the browsers that are logged in. What is kept of a cookie is its hash.
type sessions struct {
	mu  sync.Mutex
	all map[hash]*session // guarded by mu
}

type session struct {
	ends  time.Time
	links map[string]string // of invites made in this session, by the invite's id
}

// begin makes a session and gives its cookie.
func (s *sessions) begin() string {
	cookie := rand.Text() + rand.Text()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = map[hash]*session{}
	}
	if len(s.all) >= maxSessions {
		s.drop()
	}
	s.all[hashOf(cookie)] = &session{time.Now().Add(sessionTime), map[string]string{}}
	return cookie
}

// drop ends what is over, or else the session that would end first.
func (s *sessions) drop() {
	var first hash
	var when time.Time
	for h, one := range s.all {
		if time.Until(one.ends) <= 0 {
			delete(s.all, h)
		} else if when.IsZero() || one.ends.Before(when) {
			first, when = h, one.ends
		}
	}
	if len(s.all) >= maxSessions {
		delete(s.all, first)
	}
}

func (s *sessions) has(cookie string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.live(cookie) != nil
}

// live gives the session of a cookie, or nil.
func (s *sessions) live(cookie string) *session {
	one := s.all[hashOf(cookie)]
	if one == nil || time.Until(one.ends) <= 0 {
		return nil
	}
	return one
}

func (s *sessions) end(cookie string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, hashOf(cookie))
}

// keep remembers the link of an invite, so that it can be shown until the session ends.
func (s *sessions) keep(cookie, invite, link string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if one := s.live(cookie); one != nil && len(one.links) < maxLinks {
		one.links[invite] = link
	}
}

// links gives the links that a session remembers, by the ids of their invites.
func (s *sessions) links(cookie string) map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if one := s.live(cookie); one != nil {
		return maps.Clone(one.links)
	}
	return nil
}
