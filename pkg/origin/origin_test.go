package origin_test

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/kthwc/kthwc/pkg/origin"
)

func origins() *rapid.Generator[origin.Origin] {
	source := rapid.SampledFrom([]string{"spec.a", "spec.b", "default:spec.c", "row:x", "fixed:y", "overlay:z.jsonnet"})
	return rapid.Custom(func(t *rapid.T) origin.Origin {
		return origin.Parse(rapid.SliceOf(source).Draw(t, "sources")...)
	})
}

func TestJoinIsASetUnion(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := origins().Draw(t, "a"), origins().Draw(t, "b"), origins().Draw(t, "c")
		if origin.Join(a, b) != origin.Join(b, a) {
			t.Fatal("join does not commute")
		}
		if origin.Join(a, origin.Join(b, c)) != origin.Join(origin.Join(a, b), c) {
			t.Fatal("join is not associative")
		}
		if origin.Join(a, a) != a || origin.Join(a, origin.Origin{}) != a {
			t.Fatal("join is not idempotent, or the empty set is not neutral")
		}
		want := append(a.Sources(), b.Sources()...)
		slices.Sort(want)
		if got := origin.Join(a, b).Sources(); !slices.Equal(got, slices.Compact(want)) {
			t.Fatalf("join of %v and %v is %v", a, b, got)
		}
		if origin.Parse(a.Sources()...) != a {
			t.Fatal("Parse does not read what Sources wrote")
		}
	})
}

func TestHasFindsEverySource(t *testing.T) {
	o := origin.Join(origin.Field("spec.a"), origin.Default("spec.a"), origin.Row("r"), origin.Fixed("f"), origin.Overlay("o"))
	for _, s := range []string{"spec.a", "default:spec.a", "row:r", "fixed:f", "overlay:o"} {
		if !o.Has(s) {
			t.Errorf("%v lacks %s", o, s)
		}
	}
	if o.Has("spec") {
		t.Errorf("%v has a source that nobody gave", o)
	}
}

func TestMapAndZipKeepOrigins(t *testing.T) {
	a, b := origin.Of(2, origin.Field("spec.a")), origin.Of("x", origin.Row("b"))
	if got := origin.Map(a, func(n int) int { return n * n }); got.V != 4 || got.From != a.From {
		t.Errorf("Map gave %+v", got)
	}
	zipped := origin.Zip(a, b, func(n int, s string) string { return s + s })
	if zipped.V != "xx" || zipped.From != origin.Join(a.From, b.From) {
		t.Errorf("Zip gave %+v", zipped)
	}
}
