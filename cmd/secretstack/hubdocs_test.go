package main

import (
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// TestTheOperatorsPageNamesEverySettingAndNoOther, with the defaults that flags have.
func TestTheOperatorsPageNamesEverySettingAndNoOther(t *testing.T) {
	text, err := os.ReadFile("../../docs/OPERATING.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n## All settings\n")
	section, _, _ = strings.Cut(section, "\n## ")
	told := map[string]string{} // and their defaults
	for _, row := range regexp.MustCompile("(?m)^\\| (`[^|]+`) \\| ([^|]+) \\| ").FindAllStringSubmatch(section, -1) {
		for name := range strings.SplitSeq(row[1], ", ") {
			told[strings.Trim(name, "`")] = row[2]
		}
	}
	cmd, _, err := newRoot(streams{}).Find([]string{"hub"})
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]bool{}
	cmd.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
		if f.Name == "help" {
			return
		}
		there["--"+f.Name] = true
		if f.Shorthand != "" {
			there["-"+f.Shorthand] = true
		}
		plain := f.DefValue != "" && f.DefValue != "[]" && f.DefValue != "0"
		if standard, ok := told["--"+f.Name]; ok && plain && !strings.Contains(standard, "`"+f.DefValue+"`") {
			t.Errorf("the default of --%s is %s, and docs/OPERATING.md says %s", f.Name, f.DefValue, standard)
		}
	})
	for _, field := range reflect.VisibleFields(reflect.TypeFor[hubSettings]()) {
		if name := field.Tag.Get("toml"); !there["--"+name] {
			there[name] = true // in the file alone
		}
	}
	for name := range there {
		if _, ok := told[name]; !ok {
			t.Errorf("docs/OPERATING.md does not tell of %s", name)
		}
	}
	for name := range told {
		if !there[name] {
			t.Errorf("docs/OPERATING.md tells of %s, which does not exist", name)
		}
	}
}
