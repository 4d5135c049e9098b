package vhost

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
)

// What a [Directory] and a [Courier] say when there is no connection to give. Everything else that they return is a courier
// that broke.
var (
	ErrUnknown = errors.New("vhost: no such courier")                 // 404
	ErrAway    = errors.New("vhost: the courier is away")             // 503
	ErrBusy    = errors.New("vhost: the courier is busy")             // 503
	ErrTooSlow = errors.New("vhost: the courier is too slow")         // 504, as is context.DeadlineExceeded
	ErrNoPorts = errors.New("vhost: no port is free")                 // from Pools.Register and Ports.Listen
	ErrClosed  = errors.New("vhost: closed")                          // from what has been closed, or has ended
	ErrRange   = errors.New("vhost: not a range of ports")            // from ParsePortRange
	ErrConfig  = errors.New("vhost: the configuration is not usable") // from the constructors
)

var (
	errBroke          = errors.New("vhost: the courier broke the connection")
	errUnsent         = errors.New("vhost: the courier's connection took nothing")
	errSilentEnd      = errors.New("vhost: the courier closed the connection without an answer")
	errUnheard        = errors.New("vhost: the courier says that it heard no request")
	errGarbage        = errors.New("vhost: the courier's answer is not HTTP")
	errResponseHeader = errors.New("vhost: the courier's header is too large")
	errVisitorBroke   = errors.New("vhost: the visitor's body broke off")
	errVisitorSlow    = errors.New("vhost: the visitor is too slow")
	errBodyTooLarge   = errors.New("vhost: the visitor's body is too large")
	errRequestHeader  = errors.New("vhost: the visitor's header is too large")
	errMethod         = errors.New("vhost: the method is not for a proxy")
	errNoHost         = errors.New("vhost: no host")
)

// An answer is what a visitor gets for an error. Texts are fixed: an error's own text may name addresses.
type answer struct {
	err        error
	status     int
	message    string
	retryAfter string // seconds
}

func answers() []answer {
	return []answer{
		{err: ErrUnknown, status: http.StatusNotFound, message: "Not found"},
		{err: errNoHost, status: http.StatusBadRequest, message: "Host header is required"},
		{err: errMethod, status: http.StatusMethodNotAllowed, message: "Method not allowed"},
		{err: errRequestHeader, status: http.StatusRequestHeaderFieldsTooLarge, message: "Request header too large"},
		{err: errBodyTooLarge, status: http.StatusRequestEntityTooLarge, message: "Request body too large"},
		{err: errVisitorSlow, status: http.StatusRequestTimeout, message: "The request did not arrive in time"},
		{err: errVisitorBroke, status: http.StatusBadRequest, message: "The request broke off"},
		{err: ErrAway, status: http.StatusServiceUnavailable, message: "The courier is away", retryAfter: "5"},
		{err: ErrBusy, status: http.StatusServiceUnavailable, message: "The courier is busy", retryAfter: "1"},
		{err: ErrTooSlow, status: http.StatusGatewayTimeout, message: "The courier did not answer in time"},
		{err: context.DeadlineExceeded, status: http.StatusGatewayTimeout, message: "The courier did not answer in time"},
		{err: context.Canceled, status: http.StatusServiceUnavailable, message: "The request was given up"},
		{err: errGarbage, status: http.StatusBadGateway, message: "The courier's answer could not be read"},
		{err: errResponseHeader, status: http.StatusBadGateway, message: "The courier's header is too large"},
	}
}

func answerTo(err error) answer {
	for _, a := range answers() {
		if errors.Is(err, a.err) {
			return a
		}
	}
	return answer{status: http.StatusBadGateway, message: "The courier broke the connection"}
}

// write sends the answer as the hub's JSON document.
func (a answer) write(w http.ResponseWriter) {
	body, err := json.Marshal(struct {
		Status  int    `json:"status_code"`
		Message string `json:"message"`
	}{a.status, a.message})
	if err != nil {
		body = nil // cannot be: a number and a fixed text
	}
	h := w.Header()
	h.Set("Content-Type", "application/json; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	if a.retryAfter != "" {
		h.Set("Retry-After", a.retryAfter)
	}
	w.WriteHeader(a.status)
	_, _ = w.Write(body) // a visitor that has left is nobody to tell
}

// isTimeout reports whether err is a deadline that passed.
func isTimeout(err error) bool {
	timeout, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](err)
	return ok && timeout.Timeout()
}
