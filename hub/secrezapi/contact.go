package secrezapi

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"html/template"
	"net/http"

	"github.com/secretstack/secretstack/internal/qrcode"
	"github.com/secretstack/secretstack/secrez"
)

const contactPath = "/s/"

var (
	//go:embed contact.html
	contactHTML string

	//go:embed contact.css
	contactCSS string
)

// A contactPage is a contact link's page with the policy for browsers that show it: it is complete as it stands, and
// nothing may be fetched, run or framed.
type contactPage struct {
	page   *template.Template
	policy string
}

func newContactPage() (contactPage, error) {
	page, err := template.New("contact").Parse(contactHTML)
	if err != nil {
		return contactPage{}, err
	}
	style := sha256.Sum256([]byte(contactCSS))
	return contactPage{page, "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(style[:]) +
		"'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"}, nil
}

// serveContact answers a contact link: a program gets the key and the address of the courier, a browser a page for people.
func (h *Handler) serveContact(_ http.ResponseWriter, r *http.Request, param string) answer {
	if a, ok := h.allowed(Lookup, r); !ok {
		return a
	}
	s, ok := h.site(r)
	if !ok {
		return noSite()
	}
	key, id, ok := h.lookup(param)
	if !ok {
		return notFound()
	}
	accept := r.Header.Values("Accept")
	if accepts(accept, "text", "html") > accepts(accept, "application", "json") {
		return h.contact.answer(s, id, key)
	}
	return document(struct {
		Key secrez.PublicKey `json:"publicKey"`
		URL string           `json:"url"`
	}{key, s.courier(id)}).with("Vary", "Accept")
}

func (c contactPage) answer(s site, id secrez.ID, key secrez.PublicKey) answer {
	link := s.hub() + contactPath + id.String()
	qr, err := qrcode.SVG(link, "QR code of "+link)
	if err != nil {
		return unavailable()
	}
	var b bytes.Buffer
	err = c.page.Execute(&b, struct {
		Hub, Link, URL string
		ID             secrez.ID
		Key            secrez.PublicKey
		QR             template.HTML
		Style          template.CSS
	}{s.host, link, s.courier(id), id, key, template.HTML(qr), template.CSS(contactCSS)})
	if err != nil {
		return unavailable()
	}
	return answer{status: http.StatusOK, kind: typeHTML, body: b.Bytes()}.
		with("Content-Security-Policy", c.policy).with("Referrer-Policy", "no-referrer").with("Vary", "Accept")
}
