package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// documents reads a file of YAML documents; a key that comes twice is an error.
func documents(t *testing.T, file string) (all []map[string]any) {
	t.Helper()
	f, err := os.Open(filepath.Join("../../packaging", file))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	for d := yaml.NewDecoder(f); ; {
		var doc map[string]any
		if err := d.Decode(&doc); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		all = append(all, doc)
	}
}

// at follows keys and indices into a document.
func at(t *testing.T, value any, path ...any) any {
	t.Helper()
	for _, step := range path {
		switch step := step.(type) {
		case string:
			m, _ := value.(map[string]any)
			value = m[step]
		case int:
			l, _ := value.([]any)
			if step >= len(l) {
				t.Fatalf("there is no %v of %v", step, path)
			}
			value = l[step]
		}
	}
	if value == nil {
		t.Fatalf("there is no %v", path)
	}
	return value
}

// texts is a list of texts.
func texts(t *testing.T, value any) (list []string) {
	t.Helper()
	for _, one := range value.([]any) {
		list = append(list, fmt.Sprint(one))
	}
	return list
}

// isCommandLine sees that a command exists and takes the flags.
func isCommandLine(t *testing.T, line []string) {
	t.Helper()
	cmd, rest, err := newRoot(streams{}).Find(line)
	if err != nil {
		t.Fatalf("%v: %v", line, err)
	}
	if err := cmd.ParseFlags(rest); err != nil {
		t.Errorf("%v: %v", line, err)
	}
}

type composeFile struct {
	Name     string `yaml:"name"`
	Node     any    `yaml:"x-node"`
	Services map[string]struct {
		Image    string   `yaml:"image"`
		Restart  string   `yaml:"restart"`
		Grace    string   `yaml:"stop_grace_period"`
		Command  []string `yaml:"command"`
		Profiles []string `yaml:"profiles"`
		Hostname string   `yaml:"hostname"`
		Ports    []string `yaml:"ports"`
		Volumes  []string `yaml:"volumes"`
	} `yaml:"services"`
	Volumes map[string]any `yaml:"volumes"`
}

// loopback is another address of this test's own for each of three nodes.
func loopback(i int) string {
	pid := os.Getpid()
	return fmt.Sprintf("127.%d.%d.%d", 64*(i+1)+pid>>16&63, pid>>8&255, pid&255)
}

// TestTheComposeFileMakesAHub runs what is in it, each node at an address of its own.
func TestTheComposeFileMakesAHub(t *testing.T) {
	text, err := os.ReadFile("../../packaging/compose.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var file composeFile
	d := yaml.NewDecoder(strings.NewReader(string(text)))
	d.KnownFields(true)
	if err := d.Decode(&file); err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t, dir: shortDir(t)}
	place := func(line []string, root string) []string {
		isCommandLine(t, line)
		return append(slices.Clone(line), "--root", filepath.Join(c.dir, root))
	}
	if p := c.process(place(file.Services["init"].Command, "credential")...); p.wait() != exitOK {
		t.Fatal(p.errs.String())
	}
	var all []*process
	for i := range 3 {
		name := fmt.Sprintf("hub-%d", i+1)
		s := file.Services[name]
		if s.Hostname != name || !slices.Contains(s.Volumes, name+":/data") || !slices.Contains(s.Volumes, "credential:/credential:ro") {
			t.Errorf("%s is %+v", name, s)
		}
		for _, volume := range s.Volumes {
			if from, _, _ := strings.Cut(volume, ":"); !slices.Contains(slices.Collect(maps.Keys(file.Volumes)), from) {
				t.Errorf("there is no volume %s", from)
			}
		}
		line := place(s.Command, name)
		for n, arg := range line {
			arg = strings.ReplaceAll(arg, "=/credential/", "="+c.dir+"/credential/")
			arg = strings.ReplaceAll(arg, "127.0.0.1", loopback(i))
			if strings.HasPrefix(arg, "--join=") {
				for other := range 3 {
					arg = strings.ReplaceAll(arg, fmt.Sprintf("hub-%d", other+1), loopback(other))
				}
			}
			line[n] = arg
		}
		all = append(all, c.process(append(line, "--json", "-a", loopback(i), "--node", s.Hostname, "--advertise", loopback(i))...))
	}
	for i, p := range all {
		c.nodes = append(c.nodes, attend(t, p, loopback(i)))
	}
	id := c.nodes[0].register(someone(t, 1))
	if got := c.nodes[2].whois(someone(t, 1)); got != id {
		t.Errorf("somebody is %v at one node and %v at another", id, got)
	}
}

func TestTheKubernetesManifestFitsTogether(t *testing.T) {
	var kinds []string
	for _, doc := range documents(t, "kubernetes.yaml") {
		kinds = append(kinds, fmt.Sprint(at(t, doc, "apiVersion"), " ", at(t, doc, "kind")))
	}
	if want := []string{"v1 Service", "v1 Service", "policy/v1 PodDisruptionBudget", "apps/v1 StatefulSet"}; !slices.Equal(kinds, want) {
		t.Fatalf("there are %v", kinds)
	}
	docs := documents(t, "kubernetes.yaml")
	headless, set := docs[0], docs[3]
	if at(t, headless, "metadata", "name") != at(t, set, "spec", "serviceName") || at(t, headless, "spec", "publishNotReadyAddresses") != true {
		t.Error("nodes do not find each other before they are ready")
	}
	label := fmt.Sprint(at(t, set, "spec", "template", "metadata", "labels"))
	for _, selector := range []any{
		at(t, docs[0], "spec", "selector"), at(t, docs[1], "spec", "selector"), at(t, docs[2], "spec", "selector", "matchLabels"),
		at(t, set, "spec", "selector", "matchLabels"),
	} {
		if fmt.Sprint(selector) != label {
			t.Errorf("%v selects no pod", selector)
		}
	}
	container := at(t, set, "spec", "template", "spec", "containers", 0)
	args := texts(t, at(t, container, "args"))
	isCommandLine(t, args)
	var peers []string
	for i := range at(t, set, "spec", "replicas").(int) {
		peers = append(peers, fmt.Sprintf("hub-%d.hub", i))
	}
	if !slices.Contains(args, "--join="+strings.Join(peers, ",")) {
		t.Errorf("%v does not name all pods", args)
	}
	if own, err := ownAddress(t.Context(), nodeNameOf("hub-1"), []string{"hub-0.hub:8435", "hub-1.hub:8435"}); err != nil || own != "hub-1.hub:8435" {
		t.Errorf("a pod takes %s for its own address, %v", own, err)
	}
	ports := map[any]int{}
	for _, p := range at(t, container, "ports").([]any) {
		ports[at(t, p, "name")] = at(t, p, "containerPort").(int)
	}
	for _, probe := range []string{"livenessProbe", "readinessProbe"} {
		if port := ports[at(t, container, probe, "httpGet", "port")]; !slices.Contains(args, fmt.Sprintf("--admin=:%d", port)) {
			t.Errorf("the %s asks port %d", probe, port)
		}
	}
	mounts := fmt.Sprint(at(t, container, "volumeMounts"))
	for _, volume := range []any{
		at(t, set, "spec", "template", "spec", "volumes", 0, "name"), at(t, set, "spec", "volumeClaimTemplates", 0, "metadata", "name"),
	} {
		if !regexp.MustCompile(fmt.Sprintf(`name:%s\b`, volume)).MatchString(mounts) {
			t.Errorf("%v is not mounted", volume)
		}
	}
}
