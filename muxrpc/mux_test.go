package muxrpc

import (
	"context"
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func nothing(context.Context, *CallInfo) (any, error) { return nil, nil }

func TestNamesOfMethodsAreChecked(t *testing.T) {
	for name, ok := range map[string]bool{
		"whoami": true, "blobs.get": true, "a.b.c": true, "with-dash": true, "under_score": true, "$": true, "x1": true,
		"": false, ".": false, "a.": false, ".a": false, "a..b": false, "a b": false, "ä": false, `a"b`: false, "a\x00b": false, "a,b": false,
		"emit": false, "close": false, "closed": false, "stream": false, "on": false, "close.x": false, "x.close": true, "x.emit": true,
		"__proto__": false, "a.__proto__": false, "constructor": false, "a.prototype.b": false,
	} {
		err := NewMux().Handle(Method{name, TypeAsync, nothing})
		if (err == nil) != ok || err != nil && !errors.Is(err, ErrMethod) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestMethodsNeedATypeAndAHandler(t *testing.T) {
	for _, m := range []Method{{"a", "", nothing}, {"a", "stream", nothing}, {"a", TypeAsync, nil}} {
		if err := NewMux().Handle(m); !errors.Is(err, ErrMethod) {
			t.Errorf("%+v: %v", m, err)
		}
	}
}

func TestANameCanBeTakenOnce(t *testing.T) {
	mux := NewMux()
	for _, name := range []string{"a.b", "a.c.d", "e"} {
		if err := mux.Handle(Method{name, TypeAsync, nothing}); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"a.b", "a", "a.c", "a.b.x", "e", "e.f"} {
		if err := mux.Handle(Method{name, TypeSource, nothing}); !errors.Is(err, ErrMethod) || !strings.Contains(err.Error(), "taken") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{"a.bb", "a.c.dd", "ee"} {
		if err := mux.Handle(Method{name, TypeAsync, nothing}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestMethodsAreFoundHoweverTheirNameIsWritten(t *testing.T) {
	mux := NewMux()
	for _, name := range []string{"top", "a.b"} {
		if err := mux.Handle(Method{name, TypeAsync, nothing}); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{
		`["top"]`: "top", `"top"`: "top", `[ "top" ]`: "top", `["\u0074op"]`: "top", `["a","b"]`: "a b", `["a", "b"]`: "a b",
		`"a.b"`: "", `["a.b"]`: "", `["a"]`: "", `["b"]`: "", `["a","b","c"]`: "", `[]`: "", ``: "", `null`: "", `["a\",\"b"]`: "", `["a","b",null]`: "",
		`"a\",\"b"`: "", `{"a":"b"}`: "",
	} {
		got := ""
		if m := mux.named([]byte(name)); m != nil {
			got = strings.Join(m.path, " ")
		}
		if got != want {
			t.Errorf("%s found %q, want %q", name, got, want)
		}
	}
	var none *Mux
	if none.named([]byte(`["top"]`)) != nil {
		t.Error("no Mux has methods")
	}
}

func TestHooksAddedLaterAreOutermost(t *testing.T) {
	mux := NewMux()
	var order []string
	trace := func(name string) Hook {
		return func(next Handler) Handler {
			return func(ctx context.Context, call *CallInfo) (any, error) {
				order = append(order, name)
				return next(ctx, call)
			}
		}
	}
	if err := mux.Hook("a.b", trace("x")); !errors.Is(err, ErrNoMethod) {
		t.Errorf("hook on nothing: %v", err)
	}
	if err := mux.Handle(Method{"a.b", TypeAsync, trace("handler")(nothing)}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"first", "second"} {
		if err := mux.Hook("a.b", trace(name)); err != nil {
			t.Fatal(err)
		}
	}
	_, _ = mux.named([]byte(`["a","b"]`)).handler(t.Context(), nil)
	if want := []string{"second", "first", "handler"}; !slices.Equal(order, want) {
		t.Errorf("order %v", order)
	}
}

func TestManifestIsDerived(t *testing.T) {
	mux := NewMux()
	for name, typ := range map[string]CallType{"whoami": TypeSync, "blobs.get": TypeSource, "blobs.add": TypeSink, "a.b.c": TypeDuplex} {
		if err := mux.Handle(Method{name, typ, nothing}); err != nil {
			t.Fatal(err)
		}
	}
	m := mux.Manifest()
	text, err := json.Marshal(m)
	if err != nil || string(text) != `{"a":{"b":{"c":"duplex"}},"blobs":{"add":"sink","get":"source"},"whoami":"sync"}` {
		t.Errorf("%s, %v", text, err)
	}
	if want := []string{"a.b.c", "blobs.add", "blobs.get", "whoami"}; !slices.Equal(m.Methods(), want) {
		t.Errorf("methods %v", m.Methods())
	}
	m["whoami"] = TypeAsync
	m["a"].(Manifest)["x"] = TypeAsync
	if mux.Manifest().Lookup("whoami") != TypeSync || mux.Manifest().Lookup("a", "x") != "" {
		t.Error("changing a manifest changed the Mux")
	}
}

func TestManifestsOfPeers(t *testing.T) {
	var m Manifest
	text := `{"a":"async","b":{"c":"source","d":{"e":"duplex"}},"odd":"telepathy","n":5,"null":null,"list":["async"]}`
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]CallType{"a": "async", "b.c": "source", "b.d.e": "duplex", "b": "", "b.d": "", "a.x": "", "zzz": "", "odd": "", "n": "", "": ""} {
		if got := m.Lookup(strings.Split(path, ".")...); got != want {
			t.Errorf("%s is %q", path, got)
		}
	}
	if m.Lookup() != "" {
		t.Error("no path has a type")
	}
	for _, bad := range []string{`[]`, `"x"`, `5`, strings.Repeat(`{"a":`, 40) + `"async"` + strings.Repeat("}", 40)} {
		if err := json.Unmarshal([]byte(bad), &m); err == nil {
			t.Errorf("%.20s is a manifest", bad)
		}
	}
}

func TestManifestsMerge(t *testing.T) {
	m := Manifest{"a": TypeAsync, "b": Manifest{"c": TypeSync}, "d": TypeSync}
	m.Merge(Manifest{"a": TypeSource, "b": Manifest{"x": TypeSink}, "d": Manifest{"y": TypeDuplex}, "e": Manifest{"z": TypeAsync}})
	want := Manifest{"a": TypeSource, "b": Manifest{"c": TypeSync, "x": TypeSink}, "d": Manifest{"y": TypeDuplex}, "e": Manifest{"z": TypeAsync}}
	if !reflect.DeepEqual(m, want) {
		t.Errorf("%v", m)
	}
}

func TestPermissions(t *testing.T) {
	list := func(s ...string) []string { return append([]string{}, s...) }
	const notAllowed, disallowed = " is not in list of allowed methods", " is on list of disallowed methods"
	for _, c := range []struct {
		p    Permissions
		path string
		want string
	}{
		{Permissions{}, "a", ""},
		{Permissions{}, "a.b.c", ""},
		{Permissions{Allow: list()}, "a", "method:a" + notAllowed},
		{Permissions{Allow: list("foo")}, "foo", ""},
		{Permissions{Allow: list("foo")}, "foo.bar.baz", ""},
		{Permissions{Allow: list("foo")}, "foobar", "method:foobar" + notAllowed},
		{Permissions{Allow: list("foo.bar")}, "foo.bar.baz", ""},
		{Permissions{Allow: list("foo.bar")}, "foo", "method:foo" + notAllowed},
		{Permissions{Allow: list("foo.bar")}, "foo.baz", "method:foo,baz" + notAllowed},
		{Permissions{Deny: list("foo")}, "foo.bar", "method:foo,bar" + disallowed},
		{Permissions{Deny: list("foo")}, "bar", ""},
		{Permissions{Deny: list()}, "bar", ""},
		{Permissions{Allow: list("foo"), Deny: list("foo.secret")}, "foo.secret", "method:foo,secret" + disallowed},
		{Permissions{Allow: list("foo"), Deny: list("foo.secret")}, "foo.open", ""},
		{Permissions{Allow: list("foo"), Deny: list("bar")}, "bar", "method:bar" + notAllowed},
	} {
		err := c.p.Check(strings.Split(c.path, "."))
		if got := errorText(err); got != c.want {
			t.Errorf("%+v of %s: %q, want %q", c.p, c.path, got, c.want)
		}
	}
	if err := (Permissions{Allow: list("a")}).Check(nil); errorText(err) != "method:"+notAllowed {
		t.Errorf("no path: %v", err)
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestWartAllowingAMethodAndOneBelowItIsNoCrash(t *testing.T) {
	// JavaScript throws `Cannot create property 'bar' on boolean 'true'` and takes the connection down.
	p := Permissions{Allow: []string{"foo", "foo.bar", "foo"}, Deny: []string{"x.y", "x", "x.y.z"}}
	if p.Check([]string{"foo", "other"}) != nil || p.Check([]string{"x", "z"}) == nil {
		t.Error("prefixes do not cover what is below them")
	}
}

func TestWartPermissionsDoNotWalkThePrototypeChain(t *testing.T) {
	// JavaScript looks `constructor` and `__proto__` up in objects that have them by nature.
	for _, name := range []string{"constructor", "__proto__", "toString", "hasOwnProperty"} {
		if err := (Permissions{Allow: []string{"a"}}).Check([]string{name}); !strings.Contains(errorText(err), "not in list of allowed") {
			t.Errorf("%s: %v", name, err)
		}
		if err := (Permissions{Deny: []string{"a"}}).Check([]string{name}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPermissionsInJSON(t *testing.T) {
	for text, want := range map[string]Permissions{
		`{}`:                           {},
		`{"allow":null,"deny":null}`:   {},
		`{"allow":[]}`:                 {Allow: []string{}},
		`{"allow":["a"],"deny":["b"]}`: {Allow: []string{"a"}, Deny: []string{"b"}},
	} {
		var p Permissions
		if err := json.Unmarshal([]byte(text), &p); err != nil || !reflect.DeepEqual(p, want) {
			t.Errorf("%s: %+v, %v", text, p, err)
		}
	}
}
