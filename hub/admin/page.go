package admin

import (
	"bytes"
	"embed"
	"html/template"
	"io/fs"
	"net/http"
	"net/url"
	"path"
	"strconv"

	"github.com/secretstack/secretstack/hub/admission"
	"github.com/secretstack/secretstack/hub/mailbox"
	"github.com/secretstack/secretstack/keys"
)

//go:embed web
var web embed.FS

// perPage is how many couriers, rules or invites a page lists.
const perPage = 50

// policy lets a page load what this handler serves, and nothing else; it may not be framed.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// pages are the templates, by name.
type pages map[string]*template.Template

func parsePages() (pages, error) {
	base, err := template.New("layout.html").Funcs(template.FuncMap{
		"bytes": byteCount, "count": thousands, "when": when, "iso": iso, "utc": utc,
		"short":     func(k keys.PublicKey) string { return k.Short() },
		"orderName": orderName,
	}).ParseFS(web, "web/layout.html")
	if err != nil {
		return nil, err
	}
	all := pages{}
	for _, name := range []string{"login", "couriers", "lists", "invites", "status"} {
		page, err := template.Must(base.Clone()).ParseFS(web, "web/"+name+".html")
		if err != nil {
			return nil, err
		}
		all[name] = page
	}
	return all, nil
}

// navigation lists the pages behind the login.
var navigation = []struct{ name, path, title string }{
	{"couriers", "/", "Couriers"},
	{"lists", "/lists", "Lists"},
	{"invites", "/invites", "Invites"},
	{"status", "/status", "Status"},
}

// layout is what every page shows.
type layout struct {
	Title   string
	Hub     string
	In      bool // logged in
	Ready   bool
	Nav     []navLink
	Said    string // what has just been done
	Problem string // why something was not done
	View    any
}

type navLink struct {
	Name, Path string
	Current    bool
}

// said are the texts after something was done. The page's address names one of them, so that nobody can put words there.
var said = map[string]string{
	"disconnected": "The connections were closed.",
	"away":         "It was not connected any more.",
	"mode":         "The mode was changed.",
	"ruled":        "The rule was added.",
	"unruled":      "The rule was removed.",
	"revoked":      "The invite was revoked.",
}

// render writes a page.
func (h *Handler) render(w http.ResponseWriter, r *http.Request, status int, name string, problem string, view any) {
	about, now := h.cfg.Hub.About(), h.cfg.Hub.Status()
	l := layout{Title: "Log in", Hub: hubName(about), Ready: len(now.reasons()) == 0, Problem: problem, View: view}
	if problem == "" {
		l.Said = said[r.URL.Query().Get("said")]
	}
	for _, n := range navigation {
		l.Nav = append(l.Nav, navLink{n.title, n.path, n.name == name})
		if n.name == name {
			l.Title, l.In = n.title, true
		}
	}
	var page bytes.Buffer
	if err := h.pages[name].Execute(&page, l); err != nil {
		h.explain(r, err).write(w)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = page.WriteTo(w) // whoever asked has gone
}

// renderAfter writes a page, with what has gone wrong if something has.
func (h *Handler) renderAfter(w http.ResponseWriter, r *http.Request, name string, err error, view any) {
	if err == nil {
		h.render(w, r, http.StatusOK, name, "", view)
		return
	}
	e := h.explain(r, err)
	e.header(w)
	h.render(w, r, e.status, name, sentence(e.Message), view)
}

func hubName(about About) string {
	if about.Domain != "" {
		return about.Domain
	}
	return "secretstack hub"
}

// couriersView is the page of who is connected.
type couriersView struct {
	Online, Records, Circuits, Requests int

	Search   search
	Filtered bool
	Kinds    []Kind
	Orders   []string
	Couriers []courierView
	part
}

// courierView is a courier with what names it to people.
type courierView struct {
	Courier
	ID, Name string
}

func viewOf(c Courier) courierView {
	v := courierView{Courier: c, ID: c.id(), Name: c.Key.Short()}
	if v.ID != "" {
		v.Name = v.ID
	}
	return v
}

func (h *Handler) couriersPage(w http.ResponseWriter, r *http.Request) {
	h.showCouriers(w, r, nil)
}

func (h *Handler) showCouriers(w http.ResponseWriter, r *http.Request, err error) {
	now, online := h.cfg.Hub.Status(), h.cfg.Hub.Couriers()
	q := r.URL.Query()
	v := couriersView{
		Online: len(online), Records: now.Registry.Records, Circuits: now.Circuits.Open, Requests: now.Requests,
		Search: search{q.Get("q"), Kind(q.Get("kind")), q.Get("order")},
		Kinds:  kinds, Orders: orders,
	}
	v.Filtered = v.Search.Text != "" || v.Search.Kind != ""
	found := v.Search.find(online)
	v.part = partOf(r, "/", len(found))
	for _, c := range found[v.from:v.Last] {
		v.Couriers = append(v.Couriers, viewOf(c))
	}
	h.renderAfter(w, r, "couriers", err, v)
}

// part is what of a long list a page shows.
type part struct {
	from               int // the first one's place, from 0 on
	First, Last, Found int
	Before, After      string // links to the other parts; "": none
}

// partOf cuts a list for the page at a path, as a request asks for it.
func partOf(r *http.Request, path string, found int) part {
	q := r.URL.Query()
	from, _ := strconv.Atoi(q.Get("from")) // no number: from the first
	from = min(max(from, 0), max(found-1, 0))
	p := part{from: from, First: from + 1, Last: min(from+perPage, found), Found: found}
	if from > 0 {
		p.Before = partLink(r, path, max(from-perPage, 0))
	}
	if p.Last < found {
		p.After = partLink(r, path, p.Last)
	}
	return p
}

// partLink is the same search from another place on.
func partLink(r *http.Request, path string, from int) string {
	link := url.Values{"from": {strconv.Itoa(from)}}
	for _, name := range []string{"q", "kind", "order"} {
		if v := r.URL.Query().Get(name); v != "" {
			link.Set(name, v)
		}
	}
	return path + "?" + link.Encode()
}

func (h *Handler) disconnectForm(w http.ResponseWriter, r *http.Request) {
	n, err := h.disconnect(r, r.PostFormValue("key"))
	if err != nil {
		h.showCouriers(w, r, err)
		return
	}
	done := "disconnected"
	if n == 0 {
		done = "away"
	}
	http.Redirect(w, r, "/?said="+done, http.StatusSeeOther)
}

// statusView is the page of how the hub is doing.
type statusView struct {
	About    About
	Status   Status
	Reasons  []string
	Mode     admission.Mode
	Kinds    []kindCount
	Mail     mailbox.Amount // of all boxes
	Refusals []Refusal
}

type kindCount struct {
	Kind  Kind
	Count int
}

func (h *Handler) statusPage(w http.ResponseWriter, r *http.Request) {
	v := statusView{
		About: h.cfg.Hub.About(), Status: h.cfg.Hub.Status(), Mode: h.cfg.Admission.Mode(), Refusals: h.cfg.Observer.latest.list(),
	}
	v.Reasons = v.Status.reasons()
	mail, requests := v.Status.Mailboxes.Mail, v.Status.Mailboxes.Requests
	v.Mail = mailbox.Amount{Count: mail.Count + requests.Count, Bytes: mail.Bytes + requests.Bytes}
	count := countKinds(h.cfg.Hub.Couriers())
	for _, k := range kinds {
		v.Kinds = append(v.Kinds, kindCount{k, count[k]})
	}
	h.render(w, r, http.StatusOK, "status", "", v)
}

func (h *Handler) loginPage(w http.ResponseWriter, r *http.Request) {
	if _, ok := h.session(r); ok {
		http.Redirect(w, r, "/", http.StatusSeeOther)
		return
	}
	h.showLogin(w, r, nil)
}

func (h *Handler) showLogin(w http.ResponseWriter, r *http.Request, err error) {
	h.renderAfter(w, r, "login", err, struct{ Hub string }{hubName(h.cfg.Hub.About())})
}

// static serves the style, the script and the pictures of the pages.
func static(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	if info, err := fs.Stat(web, "web/"+name); err != nil || info.IsDir() || path.Ext(name) == ".html" {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Cache-Control", "private, max-age=60")
	http.ServeFileFS(w, r, web, "web/"+name)
}

// secured puts the headers on everything that this handler answers.
func secured(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("Content-Security-Policy", policy)
		header.Set("X-Content-Type-Options", "nosniff")
		header.Set("Referrer-Policy", "no-referrer")
		header.Set("Cross-Origin-Opener-Policy", "same-origin")
		header.Set("Cross-Origin-Resource-Policy", "same-origin")
		header.Set("Cache-Control", "no-store")
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		next.ServeHTTP(w, r)
	})
}
