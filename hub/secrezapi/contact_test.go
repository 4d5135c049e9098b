package secrezapi

import (
	"crypto/sha256"
	"encoding/base64"
	"html"
	"regexp"
	"strings"
	"testing"

	"github.com/secretstack/secretstack/internal/qrcode"
)

const browserAccept = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"

func TestAContactLinkAnswersProgramsAndPeople(t *testing.T) {
	w := newWorld(t, nil)
	alice := account(t, "alice")
	res := w.register(w.sign(alice, nil))
	link := "/s/" + res.ID.String()

	want := `{"publicKey":"` + alice.Public().String() + `","url":"` + res.URL + `"}`
	for what, headers := range map[string][]string{
		"nothing said": nil, "everything": {"Accept", "*/*"}, "JSON": {"Accept", "application/json"}, "both": {"Accept", "application/json, text/html"},
	} {
		r := w.get(link, headers...)
		if r.status != 200 || r.body != want || r.headers.Get("Content-Type") != typeJSON || r.headers.Get("Vary") != "Accept" {
			t.Errorf("%s: %d %s, want %s", what, r.status, r.body, want)
		}
	}

	r := w.get(link, "Accept", browserAccept)
	page := html.UnescapeString(r.body)
	if r.status != 200 || r.headers.Get("Content-Type") != typeHTML || r.headers.Get("Vary") != "Accept" {
		t.Fatalf("got %d %s", r.status, r.headers.Get("Content-Type"))
	}
	for _, text := range []string{
		"<h1>" + res.ID.String() + "</h1>", alice.Public().String(), res.URL, "secretstack contact add 'http://hub.test:8433" + link + "'",
	} {
		if !strings.Contains(page, text) {
			t.Errorf("the page has no %q", text)
		}
	}
	qr, err := qrcode.SVG("http://hub.test:8433"+link, "QR code of http://hub.test:8433"+link)
	if err != nil || !strings.Contains(r.body, qr) {
		t.Errorf("the page has not the QR code of its link: %v", err)
	}
}

// The page is complete: it works where nothing may be fetched and no script runs, and its policy says so.
func TestTheContactPageNeedsNothingElse(t *testing.T) {
	w := newWorld(t, nil)
	link := "/s/" + w.register(w.sign(account(t, "alice"), nil)).ID.String()
	r := w.get(link, "Accept", browserAccept)
	style := regexp.MustCompile(`(?s)<style>(.*?)</style>`).FindStringSubmatch(r.body)
	if style == nil {
		t.Fatal("no style")
	}
	sum := sha256.Sum256([]byte(style[1]))
	policy := r.headers.Get("Content-Security-Policy")
	for _, directive := range []string{
		"default-src 'none'", "style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'",
		"base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'",
	} {
		if !strings.Contains(policy, directive) {
			t.Errorf("the policy %q has no %s", policy, directive)
		}
	}
	if r.headers.Get("Referrer-Policy") != "no-referrer" {
		t.Errorf("Referrer-Policy is %q", r.headers.Get("Referrer-Policy"))
	}
	for _, fetched := range []string{"<script", "<img", "<link", "<iframe", " style=", "url(", "@import", " onclick=", " src=", " href="} {
		if strings.Contains(r.body, fetched) {
			t.Errorf("the page has %q", fetched)
		}
	}
}

// The page is for everybody: screen readers, keyboards, eyes that need contrast.
func TestTheContactPageCanBeReadByEverybody(t *testing.T) {
	w := newWorld(t, nil)
	link := "/s/" + w.register(w.sign(account(t, "alice"), nil)).ID.String()
	page := w.get(link, "Accept", browserAccept).body
	for what, pattern := range map[string]string{
		"a language":         `<html lang="en">`,
		"a title":            `<title>[^<]+ at [^<]+</title>`,
		"a main part":        `(?s)<main>.*</main>`,
		"one first heading":  `<h1>`,
		"a name for the QR":  `role="img"[^>]*><title>QR code of [^<]+</title>`,
		"phones":             `<meta name="viewport" content="width=device-width, initial-scale=1">`,
		"light and dark":     `color-scheme: light dark`,
		"dark colours":       `prefers-color-scheme: dark`,
		"long words broken":  `overflow-wrap: anywhere`,
		"no search machines": `<meta name="robots" content="noindex">`,
	} {
		if n := len(regexp.MustCompile(pattern).FindAllString(page, -1)); n != 1 {
			t.Errorf("%s: %d times", what, n)
		}
	}
}

func TestAContactLinkOfNobodyIsNotFound(t *testing.T) {
	w := newWorld(t, nil)
	alice := account(t, "alice")
	old := w.register(w.sign(alice, nil)).ID
	w.register(w.sign(alice, map[string]any{"reset": true}))
	for _, id := range []string{old.String(), "7y-6ro-3z", "x", "constructor"} {
		refuses(t, w.get("/s/"+id), 404, "Not found")
		refuses(t, w.get("/s/"+id, "Accept", browserAccept), 404, "Not found")
	}
}

func TestAContactLinkIsHTTPSWhereTheHubIs(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Secure, c.Port = true, 443 })
	id := w.register(w.sign(account(t, "alice"), nil)).ID.String()
	if r := w.get("/s/" + id); !strings.HasSuffix(r.body, `"url":"https://`+id+`.hub.test"}`) {
		t.Errorf("got %s", r.body)
	}
	if r := w.get("/s/"+id, "Accept", browserAccept); !strings.Contains(r.body, "https://hub.test/s/"+id) {
		t.Error("the link on the page is another")
	}
}
