package secrezapi

import (
	"context"
	"errors"
	"net/http"

	"github.com/secretstack/secretstack/secrez"
)

// action is what the owner asks for.
type action struct {
	Name      string        `json:"name"`
	PublicKey string        `json:"publicKey"`
	URL       string        `json:"url"`
	Recipient string        `json:"recipient"`
	Message   secrez.Signed `json:"message"`
}

// tunnelInfo is where the owner can be reached; nowhere is {}.
type tunnelInfo struct {
	ClientID string `json:"clientId,omitempty"`
	URL      string `json:"url,omitempty"`
}

func infoOf(p Published) tunnelInfo { return tunnelInfo{p.ID.String(), p.URL} }

// admin does what the owner asks for.
func (a *API) admin(ctx context.Context, p *secrez.Payload) answer {
	var do action
	if _, err := p.Field("action", &do); err != nil {
		return badRequest()
	}
	switch do.Name {
	case "":
		return answer{http.StatusBadRequest, nil}
	case "ready":
		return answer{http.StatusOK, struct {
			Success bool       `json:"success"`
			CA      string     `json:"caCrt"`
			Tunnel  tunnelInfo `json:"tunnel"`
		}{true, a.o.CA, infoOf(a.o.Backend.Published())}}
	case "publish":
		return a.publish(ctx, p)
	case "add":
		return a.add(ctx, do)
	case "send":
		return a.send(ctx, p, do)
	}
	return answer{http.StatusBadRequest, object{"error": "Unknown action"}}
}

// publish makes the owner reachable with the very payload that asks for it.
func (a *API) publish(ctx context.Context, p *secrez.Payload) answer {
	at := a.o.Backend.Published()
	if at.ID.IsZero() {
		var err error
		at, err = a.o.Backend.Publish(ctx, p.Signed())
		if err != nil {
			if !errors.Is(err, ErrOffline) {
				a.report(err)
			}
			return answer{http.StatusOK, success{Success: true, Info: struct {
				Error string `json:"error"`
				Hub   string `json:"hub"`
			}{"Tunnel server offline", a.o.Backend.Hub()}}}
		}
	}
	return answer{http.StatusOK, success{Success: true, Info: infoOf(at)}}
}

// add keeps a contact.
func (a *API) add(ctx context.Context, do action) answer {
	key, err := secrez.ParsePublicKey(do.PublicKey)
	if err != nil {
		return unsuccessful("The public key is not a valid one")
	}
	url := ""
	if do.URL != "" {
		at, err := secrez.ParseContactURL(do.URL)
		if err != nil {
			return unsuccessful("The url does not look valid")
		}
		url = at.String()
	}
	added, changed, err := a.o.Backend.Trust(ctx, Contact{key, url})
	switch {
	case errors.Is(err, ErrURLTaken):
		return unsuccessful("The url is already associated to another public key")
	case errors.Is(err, ErrKeyChanged):
		return unsuccessful("The contact is associated to a different public key")
	case err != nil:
		a.report(err)
		return failed(http.StatusInternalServerError)
	case added:
		return answer{http.StatusOK, success{Success: true, Result: []int{1}}}
	case changed:
		return answer{http.StatusOK, success{Success: true, Result: 1}}
	}
	return answer{http.StatusOK, success{Success: true}}
}

// send gives a message of the owner's to another courier, and keeps it when that has taken it.
func (a *API) send(ctx context.Context, by *secrez.Payload, do action) answer {
	to, err := secrez.ParsePublicKey(do.Recipient)
	if err != nil {
		return unsuccessful("Invalid public key in payload")
	}
	p, err := do.Message.Verify()
	if err != nil || !p.PublicKey().Equal(by.PublicKey()) {
		return unsuccessful("The message is not signed by the owner")
	}
	known, err := a.o.Backend.Trusted(ctx, to.Identity())
	if errors.Is(err, ErrUnknown) || err == nil && (known.URL == "" || !known.PublicKey.Equal(to)) {
		return unsuccessful("No url found for the public key")
	}
	if err == nil {
		err = a.o.Client.Deliver(ctx, known.URL, p.Signed())
	}
	if errors.Is(err, ErrOffline) {
		return unsuccessful("Not found on the hub")
	}
	if refused, ok := errors.AsType[*RefusedError](err); ok && refused.Status == http.StatusOK {
		return answer{http.StatusOK, success{Success: false}}
	} else if ok {
		return unsuccessful("The recipient does not take it")
	}
	if err == nil {
		err = a.o.Backend.Keep(ctx, messageOf(Sent, to, p))
	}
	if err != nil {
		a.report(err)
		return failed(http.StatusInternalServerError)
	}
	return answer{http.StatusOK, success{Success: true}}
}
