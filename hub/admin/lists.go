package admin

import (
	"html/template"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/secretstack/secretstack/hub/admission"
	"github.com/secretstack/secretstack/internal/qrcode"
)

// modeJSON is the admission mode, in the API.
type modeJSON struct {
	Mode admission.Mode `json:"mode"`
}

func (h *Handler) apiMode(*http.Request) (any, error) {
	return modeJSON{h.cfg.Admission.Mode()}, nil
}

func (h *Handler) apiSetMode(r *http.Request) (any, error) {
	var asked struct {
		Mode *admission.Mode `json:"mode"`
	}
	if err := decode(r, &asked); err != nil {
		return nil, err
	}
	if asked.Mode == nil {
		return nil, badRequest("name a mode")
	}
	return modeJSON{*asked.Mode}, h.setMode(r, *asked.Mode)
}

func (h *Handler) setMode(r *http.Request, m admission.Mode) error {
	if err := h.cfg.Admission.SetMode(m); err != nil {
		return err
	}
	h.cfg.Logger.Info("admin: mode set", "from", remote(r), "mode", string(m))
	return nil
}

// rulesJSON is a part of the rules.
type rulesJSON struct {
	Found int              `json:"found"`
	From  int              `json:"from"`
	Rules []admission.Rule `json:"rules"`
}

func (h *Handler) apiRules(r *http.Request) (any, error) {
	rules := h.findRules(r.URL.Query().Get("q"))
	from, to, err := window(r, len(rules))
	return rulesJSON{len(rules), from, append([]admission.Rule{}, rules[from:to]...)}, err
}

// findRules lists the rules that have a text in their subject or note.
func (h *Handler) findRules(text string) []admission.Rule {
	text = strings.ToLower(strings.TrimSpace(text))
	return slices.DeleteFunc(h.cfg.Admission.Rules(), func(r admission.Rule) bool {
		return !strings.Contains(strings.ToLower(r.Subject.String()+" "+r.Note), text)
	})
}

func (h *Handler) apiSetRule(r *http.Request) (any, error) {
	var asked struct {
		Effect  admission.Effect  `json:"effect"`
		Subject admission.Subject `json:"subject"`
		Note    string            `json:"note"`
		Expires time.Time         `json:"expires"`
	}
	if err := decode(r, &asked); err != nil {
		return nil, err
	}
	rule := admission.Rule{Effect: asked.Effect, Subject: asked.Subject, Note: asked.Note, Expires: asked.Expires}
	if err := h.setRule(r, rule); err != nil {
		return nil, err
	}
	return rule, nil
}

func (h *Handler) setRule(r *http.Request, rule admission.Rule) error {
	if !rule.Expires.IsZero() && time.Until(rule.Expires) <= 0 {
		return badRequest("the rule would have expired already")
	}
	if err := h.cfg.Admission.SetRule(r.Context(), rule); err != nil {
		return err
	}
	h.cfg.Logger.Info("admin: rule set", "from", remote(r), "effect", string(rule.Effect), "subject", rule.Subject.String())
	return nil
}

func (h *Handler) apiRemoveRule(r *http.Request) (any, error) {
	subject := r.URL.Query().Get("subject")
	return map[string]string{"removed": subject}, h.removeRule(r, subject)
}

func (h *Handler) removeRule(r *http.Request, text string) error {
	subject, err := admission.ParseSubject(text)
	if err != nil {
		return err
	}
	if err := h.cfg.Admission.RemoveRule(r.Context(), subject); err != nil {
		return err
	}
	h.cfg.Logger.Info("admin: rule removed", "from", remote(r), "subject", subject.String())
	return nil
}

// inviteJSON is an invite in the API. Code and Link are told once, when it is made.
type inviteJSON struct {
	admission.Invite
	Left int    `json:"left"`
	Code string `json:"code,omitempty"`
	Link string `json:"link,omitempty"`
}

// invitesJSON is a part of the invites.
type invitesJSON struct {
	Found   int          `json:"found"`
	From    int          `json:"from"`
	Invites []inviteJSON `json:"invites"`
}

func (h *Handler) apiInvites(r *http.Request) (any, error) {
	all, now := h.cfg.Admission.Invites(), time.Now()
	from, to, err := window(r, len(all))
	answer := invitesJSON{len(all), from, []inviteJSON{}}
	for _, i := range all[from:to] {
		answer.Invites = append(answer.Invites, inviteJSON{Invite: i, Left: i.Left(now)})
	}
	return answer, err
}

func (h *Handler) apiCreateInvite(r *http.Request) (any, error) {
	var asked struct {
		Uses    int       `json:"uses"`
		Note    string    `json:"note"`
		Expires time.Time `json:"expires"`
	}
	if err := decode(r, &asked); err != nil {
		return nil, err
	}
	return h.createInvite(r, admission.Invite{Uses: asked.Uses, Note: asked.Note, Expires: asked.Expires})
}

func (h *Handler) createInvite(r *http.Request, terms admission.Invite) (inviteJSON, error) {
	code, invite, err := h.cfg.Admission.CreateInvite(r.Context(), terms)
	if err != nil {
		return inviteJSON{}, err
	}
	h.cfg.Logger.Info("admin: invite made", "from", remote(r), "invite", invite.ID, "uses", invite.Uses)
	return inviteJSON{invite, invite.Left(time.Now()), code, h.cfg.Hub.InviteLink(code)}, nil
}

func (h *Handler) apiRevokeInvite(r *http.Request) (any, error) {
	id := r.PathValue("id")
	return map[string]string{"revoked": id}, h.revokeInvite(r, id)
}

func (h *Handler) revokeInvite(r *http.Request, id string) error {
	if err := h.cfg.Admission.RevokeInvite(r.Context(), id); err != nil {
		return err
	}
	h.cfg.Logger.Info("admin: invite revoked", "from", remote(r), "invite", id)
	return nil
}

// option is a choice in a form.
type option struct{ Value, Name string }

// spans are for how long a rule or an invite can be made on the page. The API takes any time.
var spans = []option{
	{"", "ever"}, {"1h", "an hour"}, {"24h", "a day"}, {"168h", "a week"}, {"720h", "30 days"}, {"8760h", "a year"},
}

// end is when something ends that is made now for a span.
func end(value string) (time.Time, error) {
	if value == "" {
		return time.Time{}, nil
	}
	d, err := time.ParseDuration(value)
	if err != nil || d <= 0 {
		return time.Time{}, badRequest("choose for how long")
	}
	return time.Now().Add(d), nil
}

// listsView is the page of the mode and the rules.
type listsView struct {
	Modes   []modeView
	Form    ruleForm
	Spans   []option
	MaxNote int
	Query   string
	Rules   []admission.Rule
	part
}

type modeView struct {
	Mode    admission.Mode
	Means   string
	Current bool
}

// ruleForm is what has been typed.
type ruleForm struct {
	Allow           bool
	Who, Note, Span string
}

func (f ruleForm) rule(effect admission.Effect) (admission.Rule, error) {
	subject, err := admission.ParseSubject(strings.TrimSpace(f.Who))
	if err != nil {
		return admission.Rule{}, err
	}
	expires, err := end(f.Span)
	return admission.Rule{Effect: effect, Subject: subject, Note: f.Note, Expires: expires}, err
}

func (h *Handler) listsPage(w http.ResponseWriter, r *http.Request) {
	h.showLists(w, r, nil, ruleForm{Who: r.URL.Query().Get("who")})
}

func (h *Handler) showLists(w http.ResponseWriter, r *http.Request, err error, form ruleForm) {
	v := listsView{Form: form, Spans: spans, MaxNote: admission.MaxNote, Query: r.URL.Query().Get("q")}
	rules := h.findRules(v.Query)
	v.part = partOf(r, "/lists", len(rules))
	v.Rules = rules[v.from:v.Last]
	current := h.cfg.Admission.Mode()
	for _, m := range []modeView{
		{admission.ModeOpen, "Everybody may publish and visit.", false},
		{admission.ModeInvite, "Publishing needs an invite, once. Everybody may visit.", false},
		{admission.ModeClosed, "Only those with an allow rule may publish or visit.", false},
	} {
		m.Current = m.Mode == current
		v.Modes = append(v.Modes, m)
	}
	h.renderAfter(w, r, "lists", err, v)
}

func (h *Handler) modeForm(w http.ResponseWriter, r *http.Request) {
	if err := h.setMode(r, admission.Mode(r.PostFormValue("mode"))); err != nil {
		h.showLists(w, r, err, ruleForm{})
		return
	}
	http.Redirect(w, r, "/lists?said=mode", http.StatusSeeOther)
}

func (h *Handler) ruleForm(w http.ResponseWriter, r *http.Request) {
	effect := admission.Effect(r.PostFormValue("effect"))
	form := ruleForm{effect == admission.Allow, r.PostFormValue("who"), r.PostFormValue("note"), r.PostFormValue("expires")}
	rule, err := form.rule(effect)
	if err == nil {
		err = h.setRule(r, rule)
	}
	if err != nil {
		h.showLists(w, r, err, form)
		return
	}
	http.Redirect(w, r, "/lists?said=ruled", http.StatusSeeOther)
}

func (h *Handler) removeForm(w http.ResponseWriter, r *http.Request) {
	if err := h.removeRule(r, r.PostFormValue("subject")); err != nil {
		h.showLists(w, r, err, ruleForm{})
		return
	}
	http.Redirect(w, r, "/lists?said=unruled", http.StatusSeeOther)
}

// invitesView is the page of the invites.
type invitesView struct {
	Mode    admission.Mode
	Needed  bool // the mode asks for invites
	Shown   *shownInvite
	Form    inviteForm
	Spans   []option
	MaxNote int
	MaxUses int
	Invites []inviteView
	part
}

// shownInvite is an invite with its link, for whoever has made it.
type shownInvite struct {
	admission.Invite
	Link string
	QR   template.HTML
}

type inviteView struct {
	admission.Invite
	Over  bool // cannot be redeemed any more
	Known bool // its link can still be shown
}

// inviteForm is what has been typed.
type inviteForm struct{ Uses, Note, Span string }

func (f inviteForm) terms() (admission.Invite, error) {
	uses, err := strconv.Atoi(f.Uses)
	if err != nil || uses < 1 {
		return admission.Invite{}, badRequest("how often it can be used is a number from 1 on")
	}
	expires, err := end(f.Span)
	return admission.Invite{Uses: uses, Note: f.Note, Expires: expires}, err
}

func (h *Handler) invitesPage(w http.ResponseWriter, r *http.Request) {
	h.showInvites(w, r, nil, inviteForm{Uses: "1", Span: "168h"})
}

func (h *Handler) showInvites(w http.ResponseWriter, r *http.Request, err error, form inviteForm) {
	v := invitesView{
		Mode: h.cfg.Admission.Mode(), Form: form, Spans: spans, MaxNote: admission.MaxNote, MaxUses: admission.MaxUses,
	}
	v.Needed = v.Mode == admission.ModeInvite
	show, now := r.URL.Query().Get("show"), time.Now()
	cookie, _ := h.session(r)
	links := h.sessions.links(cookie)
	all := h.cfg.Admission.Invites()
	slices.Reverse(all) // the newest first
	v.part = partOf(r, "/invites", len(all))
	for place, i := range all {
		link, known := links[i.ID]
		if v.from <= place && place < v.Last {
			v.Invites = append(v.Invites, inviteView{i, i.Left(now) == 0, known})
		}
		if known && i.ID == show {
			v.Shown = h.shown(i, link)
		}
	}
	h.renderAfter(w, r, "invites", err, v)
}

func (h *Handler) shown(i admission.Invite, link string) *shownInvite {
	svg, err := qrcode.SVG(link, "QR code of the invite's link")
	if err != nil {
		h.cfg.Logger.Warn("admin: the link of an invite makes no QR code", "error", err)
	}
	return &shownInvite{i, link, template.HTML(svg)} //nolint:gosec // made of numbers alone
}

func (h *Handler) inviteForm(w http.ResponseWriter, r *http.Request) {
	form := inviteForm{r.PostFormValue("uses"), r.PostFormValue("note"), r.PostFormValue("expires")}
	terms, err := form.terms()
	var made inviteJSON
	if err == nil {
		made, err = h.createInvite(r, terms)
	}
	if err != nil {
		h.showInvites(w, r, err, form)
		return
	}
	if cookie, ok := h.session(r); ok {
		h.sessions.keep(cookie, made.ID, made.Link)
	}
	http.Redirect(w, r, "/invites?show="+made.ID, http.StatusSeeOther)
}

func (h *Handler) revokeForm(w http.ResponseWriter, r *http.Request) {
	if err := h.revokeInvite(r, r.PostFormValue("id")); err != nil {
		h.showInvites(w, r, err, inviteForm{Uses: "1", Span: "168h"})
		return
	}
	http.Redirect(w, r, "/invites?said=revoked", http.StatusSeeOther)
}
