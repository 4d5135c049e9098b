package keys

import (
	"reflect"
	"testing"
)

// == on keys is not constant time, so it must not compile.
func TestKeysAreNotComparable(t *testing.T) {
	for _, v := range []any{PublicKey{}, AppKey{}, Identity{}} {
		if reflect.TypeOf(v).Comparable() {
			t.Errorf("%T can be compared with ==", v)
		}
	}
}
