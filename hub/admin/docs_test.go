package admin_test

import (
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/secretstack/secretstack/hub/admin"
)

// operating is the page for operators.
func operating(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "OPERATING.md"))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestTheOperatorsPageNamesEveryMetricAndNoOther(t *testing.T) {
	w := newWorld(t)
	w.hub.set(func(h *fakeHub) {
		h.status.Cluster = threeNodes()
		h.status.Certificates = []admin.Certificate{{Name: "hub.example.org", Expires: time.Unix(1, 0)}}
	})
	var there []string
	for _, line := range w.scrape(t) {
		if name, ours := strings.CutPrefix(line, "# TYPE secretstack_hub_"); ours {
			there = append(there, strings.Fields(name)[0])
		}
	}
	var told []string
	for _, row := range regexp.MustCompile("(?m)^\\| (`[a-z_`, ]+`) \\| (`|\\|)").FindAllStringSubmatch(operating(t), -1) {
		for name := range strings.SplitSeq(row[1], ",") {
			told = append(told, strings.Trim(name, "` "))
		}
	}
	for _, name := range there {
		if !slices.Contains(told, name) {
			t.Errorf("docs/OPERATING.md does not tell of %s", name)
		}
	}
	for _, name := range told {
		if !slices.Contains(there, name) {
			t.Errorf("docs/OPERATING.md tells of %s, which does not exist", name)
		}
	}
}

func TestTheOperatorsPageShowsCallsThatExist(t *testing.T) {
	w := newWorld(t)
	calls := regexp.MustCompile(`(?m)^ask (?:-X (\w+) )?"?\$api(/[^ "?\n]+)([^ "\n]*)"?(?: -d '(.*)')?(?: +#.*)?$`)
	found := calls.FindAllStringSubmatch(operating(t), -1)
	if len(found) < 8 {
		t.Fatalf("there are only %d calls", len(found))
	}
	for _, call := range found {
		method, path, query, body := call[1], call[2], call[3], call[4]
		if method == "" {
			method = http.MethodGet
			if body != "" {
				method = http.MethodPost
			}
		}
		answer := w.ask(t, method, "/api/v1"+path+query, strings.NewReader(body),
			header("Authorization", "Bearer "+w.token), header("Content-Type", "application/json"))
		if gone := strings.HasPrefix(path, "/invites/") && answer.Code == http.StatusNotFound &&
			strings.Contains(answer.Body.String(), "any more"); answer.Code != http.StatusOK && !gone {
			t.Errorf("%s %s%s %s: %d %s", method, path, query, body, answer.Code, answer.Body)
		}
	}
}
