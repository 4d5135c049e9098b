package admin_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/secretstack/secretstack/hub/admin"
	"github.com/secretstack/secretstack/hub/registry"
)

// threeNodes are how the nodes of a cluster may be doing.
func threeNodes() *admin.Cluster {
	return &admin.Cluster{
		Name: "eu", Node: "hub-1", CircuitsOut: 4, CircuitsIn: 5, TunnelsOut: 6, TunnelsIn: 7,
		Nodes: []admin.Node{
			{Name: "hub-1", Self: true, Seen: true, Release: "1.2.3", Couriers: 7, Peers: 9, Holds: true, Current: true},
			{Name: "hub-2", Seen: true, Couriers: 1, Peers: 2, Silent: 0.5, Skew: -600, Holds: true, Current: true, Leads: true},
			{Name: "hub-3", Holds: true, Lag: 12},
		},
		Traffic: admin.NodeTraffic{Asked: 9, Offline: 3, Unanswered: 1, LinksOpened: 20, LinksFailed: 2, LinksTaken: 30},
	}
}

func TestMetricsTellOfTheNodes(t *testing.T) {
	w := newWorld(t)
	if lines := w.scrape(t); slices.ContainsFunc(lines, func(line string) bool { return strings.Contains(line, "_hub_node") }) {
		t.Error("a hub that is alone has nodes")
	}
	w.hub.set(func(h *fakeHub) { h.status.Cluster = threeNodes() })
	lines := w.scrape(t)
	for _, want := range []string{
		`nodes 2`, `nodes_majority 1`, `node_couriers{node="hub-1"} 7`, `node_peers{node="hub-2"} 2`, `node_silent_seconds{node="hub-2"} 0.5`,
		`node_clock_skew_seconds{node="hub-2"} -600`,
		`replica_lag{node="hub-3"} 12`, `replica_current{node="hub-3"} 0`, `replica_current{node="hub-1"} 1`,
		`node_circuits{direction="out"} 4`, `node_circuits{direction="in"} 5`,
		`node_tunnels{direction="out"} 6`, `node_tunnels{direction="in"} 7`,
		`node_questions_total{result="answered"} 5`, `node_questions_total{result="offline"} 3`, `node_questions_total{result="failed"} 1`,
		`node_links_total{event="opened"} 20`, `node_links_total{event="failed"} 2`, `node_links_total{event="taken"} 30`,
	} {
		if !slices.Contains(lines, "secretstack_hub_"+want) {
			t.Errorf("there is no %s", want)
		}
	}
	if slices.ContainsFunc(lines, func(line string) bool { return strings.Contains(line, `node_couriers{node="hub-3"}`) }) {
		t.Error("a node that is away has a load")
	}
}

func TestANodeWhoseVersionWorksWithNoOtherSaysSo(t *testing.T) {
	for name, c := range map[string]struct {
		refused []int
		want    int
	}{
		"all work":    {nil, http.StatusOK},
		"one works":   {[]int{1}, http.StatusOK},
		"none works":  {[]int{1, 2}, http.StatusServiceUnavailable},
		"none is odd": {[]int{0}, http.StatusOK}, // the node itself is none of the others
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.hub.set(func(h *fakeHub) {
				h.status.Cluster = threeNodes()
				h.status.Cluster.Nodes[2].Seen = true
				for _, i := range c.refused {
					h.status.Cluster.Nodes[i].Refused = true
				}
			})
			got := w.get(t, "/readyz")
			said := strings.Contains(got.Body.String(), "the version of this node does not work with that of any other")
			if got.Code != c.want || said != (c.want != http.StatusOK) {
				t.Errorf("%d %s", got.Code, got.Body)
			}
		})
	}
}

func TestANodeThatIsCutOffSaysSoAndServes(t *testing.T) {
	w := newWorld(t)
	w.hub.set(func(h *fakeHub) {
		h.status.Cluster = threeNodes()
		h.status.Cluster.Alone = true
		h.status.Registry.Err = registry.ErrUnavailable
	})
	got := w.get(t, "/readyz")
	const want = `{"ready":false,"serving":true,"reasons":["this node is cut off from the majority of nodes: it serves what it knows, and writes nothing"]}`
	if got.Code != http.StatusServiceUnavailable || strings.TrimSpace(got.Body.String()) != want {
		t.Errorf("%d %s", got.Code, got.Body)
	}
	if lines := w.scrape(t); !slices.Contains(lines, "secretstack_hub_nodes_majority 0") {
		t.Error("the metrics do not say so")
	}
}

func TestTheStatusShowsTheNodes(t *testing.T) {
	w := newWorld(t)
	wantNotIn(t, w.login(t).page(t, "/status"), "Nodes of")
	w.hub.set(func(h *fakeHub) { h.status.Cluster = threeNodes() })
	page := w.login(t).page(t, "/status")
	wantIn(t, page, "Nodes of eu", "hub-2", "this one", "leads", "away", ">12<", "hub-3: start it", "4 of visitors here, 5 of couriers here")
	var got struct{ Cluster *admin.Cluster }
	w.call(t, http.MethodGet, "/api/v1/status", nil, http.StatusOK, &got)
	if got.Cluster == nil || !slices.Equal(got.Cluster.Nodes, threeNodes().Nodes) || got.Cluster.Traffic != threeNodes().Traffic {
		t.Errorf("the API tells %+v", got.Cluster)
	}
}

func TestANodesStateIsInWords(t *testing.T) {
	for want, n := range map[string]admin.Node{
		"works":                     {Seen: true, Holds: true, Current: true},
		"leads":                     {Seen: true, Holds: true, Current: true, Leads: true},
		"catching up":               {Seen: true, Holds: true},
		"draining":                  {Seen: true, Draining: true, Leads: true},
		"silent for 3s":             {Seen: true, Silent: 3.5, Leads: true},
		"away":                      {Holds: true, Leads: true},
		"refused: its version does": {Seen: true, Refused: true},
	} {
		if got := n.State(); !strings.HasPrefix(got, want) {
			t.Errorf("%+v: %s", n, got)
		}
	}
}

func TestANodesAdviceSaysWhatToDo(t *testing.T) {
	for want, n := range map[string]admin.Node{
		"":                                  {Seen: true, Holds: true, Current: true, Release: "1.2.3", Skew: -4.9},
		"start it, or replace or remove it": {Holds: true},
		"see whether it runs":               {Seen: true, Silent: 3},
		"stop no other until it works":      {Seen: true, Holds: true, Release: "1.2.3"},
		"they differ by 1m0s":               {Seen: true, Holds: true, Current: true, Release: "1.2.3", Skew: -60.5},
		"it runs version 1.2.2, and":        {Seen: true, Release: "1.2.2"},
		"upgrade it, or this one":           {Seen: true, Refused: true},
	} {
		if got := n.Advice("1.2.3"); !strings.Contains(got, want) || want == "" && got != "" {
			t.Errorf("%+v: %s", n, got)
		}
	}
	c := threeNodes()
	if got := c.Advice(); len(got) != 2 || got[0] != "hub-2: set its clock, or this one's: they differ by 10m0s." ||
		!strings.HasPrefix(got[1], "hub-3: start it") {
		t.Errorf("of three nodes: %q", got)
	}
	c.Alone = true
	if got := c.Advice(); len(got) != 1 || !strings.Contains(got[0], "cut off from the majority") {
		t.Errorf("of one that is left alone: %q", got)
	}
}

// TestAHubThatStartsAnswersItsOperator: it lives, is not ready, and says what it waits for.
func TestAHubThatStartsAnswersItsOperator(t *testing.T) {
	var f admin.Front
	ask := func(path, host string) (int, string) {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil)
		r.Host = host
		answer := httptest.NewRecorder()
		f.ServeHTTP(answer, r)
		return answer.Code, strings.TrimSpace(answer.Body.String())
	}
	if code, body := ask("/healthz", "127.0.0.1:8434"); code != http.StatusOK {
		t.Errorf("it is dead: %d %s", code, body)
	}
	if code, body := ask("/readyz", "localhost"); code != http.StatusServiceUnavailable || body != `{"ready":false,"serving":false,"reasons":["the hub is starting"]}` {
		t.Errorf("it is ready: %d %s", code, body)
	}
	f.Wait("waiting for the other nodes: 1 of 3 reached")
	if code, body := ask("/readyz", "localhost"); code != http.StatusServiceUnavailable || !strings.Contains(body, "1 of 3 reached") {
		t.Errorf("it does not say what it waits for: %d %s", code, body)
	}
	if code, _ := ask("/healthz", "evil.example.org"); code != http.StatusMisdirectedRequest {
		t.Errorf("under somebody else's name: %d", code)
	}
	w := newWorld(t)
	w.hub.set(func(h *fakeHub) { h.status.Registry.Err = errors.New("no") })
	f.Open(w)
	if code, body := ask("/readyz", "localhost"); code != http.StatusServiceUnavailable || strings.Contains(body, "starting") {
		t.Errorf("the hub is not asked: %d %s", code, body)
	}
}
