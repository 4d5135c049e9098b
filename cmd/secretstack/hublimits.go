package main

import (
	"encoding"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/secretstack/secretstack/hub"
)

// setLimits sets the limits that a configuration file names, in the spelling of TOML: max-peers for MaxPeers.
func setLimits(limits *hub.Limits, table map[string]any) error {
	return setFields(reflect.ValueOf(limits).Elem(), table, "limits")
}

func setFields(into reflect.Value, table map[string]any, path string) error {
	for _, name := range slices.Sorted(maps.Keys(table)) {
		field := fieldNamed(into, name)
		if !field.IsValid() {
			return usagef("--config: there is no setting %q", path+"."+name)
		}
		if err := setField(field, table[name], path+"."+name); err != nil {
			return err
		}
	}
	return nil
}

// fieldNamed returns the field of a struct whose name is spelt so.
func fieldNamed(v reflect.Value, name string) reflect.Value {
	for i := range v.NumField() {
		if f := v.Type().Field(i); f.IsExported() && spelt(f.Name) == name {
			return v.Field(i)
		}
	}
	return reflect.Value{}
}

// spelt turns MaxPeersPerKey into max-peers-per-key.
func spelt(name string) string {
	var b strings.Builder
	letters := []rune(name)
	for i, r := range letters {
		if unicode.IsUpper(r) && i > 0 && (unicode.IsLower(letters[i-1]) || i+1 < len(letters) && unicode.IsLower(letters[i+1])) {
			b.WriteByte('-')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

func setField(field reflect.Value, value any, path string) error {
	if text, ok := value.(string); ok {
		return setText(field, text, path)
	}
	switch v := value.(type) {
	case map[string]any:
		if field.Kind() == reflect.Struct && !canText(field) {
			return setFields(field, v, path)
		}
	case int64:
		if field.CanInt() && field.Type() != reflect.TypeFor[time.Duration]() && !field.OverflowInt(v) {
			field.SetInt(v)
			return nil
		}
	case []any:
		if field.Kind() == reflect.Slice {
			return setList(field, v, path)
		}
	}
	return wrongLimit(field, path)
}

func setList(field reflect.Value, values []any, path string) error {
	list := reflect.MakeSlice(field.Type(), len(values), len(values))
	for i, v := range values {
		if err := setField(list.Index(i), v, path); err != nil {
			return err
		}
	}
	field.Set(list)
	return nil
}

func canText(field reflect.Value) bool {
	_, ok := field.Addr().Interface().(encoding.TextUnmarshaler)
	return ok
}

func setText(field reflect.Value, text, path string) error {
	switch into := field.Addr().Interface().(type) {
	case *time.Duration:
		// Limits may be negative, which durations of people are not: they say that there is none.
		none, isNone := strings.CutPrefix(text, "-")
		if d, err := parseDuration(none); err == nil {
			*into = d
			if isNone {
				*into = -d
			}
			return nil
		}
	case encoding.TextUnmarshaler:
		if err := into.UnmarshalText([]byte(text)); err != nil {
			return usagef("--config: %s: %s", path, plain(err))
		}
		return nil
	}
	return wrongLimit(field, path)
}

func wrongLimit(field reflect.Value, path string) error {
	switch {
	case field.Type() == reflect.TypeFor[time.Duration]():
		return usagef("--config: %s takes a time such as \"5s\", \"12h\" or \"7d\"", path)
	case field.CanInt():
		return usagef("--config: %s takes a number", path)
	case field.Kind() == reflect.Struct && !canText(field):
		return usagef("--config: %s is a table of limits", path)
	}
	return usagef("--config: %s does not take this", path)
}
