package main

import (
	"strings"
	"testing"
)

func TestTableShowsRatiosTargetsAndWhatIsMissing(t *testing.T) {
	results := []result{{
		Key: "7", Title: "a thing", Unit: "things/s",
		Peers: []peerResult{
			{Name: "us", Ours: true, Median: 4190.4, Note: "shared"},
			{Name: "met", Median: 2095.2, Ratio: 2, AtLeast: 2, Note: "shared"},
			{Name: "unmet", Median: 41.94, Ratio: 99.9, AtLeast: 100},
			{Name: "shown", Median: 4190, Ratio: 1},
			{Name: "absent", AtLeast: 1, Missing: "gone"},
		},
		Gauges: []gaugeResult{{Name: "weight", Value: 0.5, AtMost: 0.01}},
	}}
	const want = `
row           unit      ours       peer        figure  ratio  target    met
7    a thing  things/s  4,190 [1]  met [1]     2,095   2.00   ≥ 2.00    yes
                                   unmet       41.9    99.90  ≥ 100.00  NO
                                   shown       4,190   1.00   -         -
                                   absent [2]  none    -      ≥ 1.00    not measured
                                   weight      0.500   -      ≤ 0.01    NO
[1] shared
[2] gone
`
	var out strings.Builder
	if err := writeTable(&out, report{Rows: results}); err != nil {
		t.Fatal(err)
	}
	if got := "\n" + out.String(); got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
}
