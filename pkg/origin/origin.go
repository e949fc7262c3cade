// Package origin lets a value remember which fields it was computed from.
//
// Every line that kthwc renders carries an [Origin]: the set of sources that
// its text depends on. A source is one of
//
//	spec.network.serviceCIDR          a field of cluster.yaml, lists keyed by name
//	default:spec.network.podCIDR      the schema's default for a field that was left out
//	row:kubelet-network-plugin        a row of the version table
//	overlay:overlays/gpu.jsonnet      a user's overlay
//	inventory:service-account         what inventory.yaml says of a keyset
//	fixed:unit-restart                a constant, with its reason in the text table
//
// It promises that equal sets are equal values (Origin is comparable and
// interned), that joining is commutative, associative and idempotent, and that
// it is safe for concurrent use. It refuses to know positions: a source is a
// name, and names are looked up in a document only when something is printed.
package origin

import (
	"slices"
	"strings"
	"unique"
)

// Prefixes of the kinds of source; a source without one is a field path.
const (
	PrefixDefault   = "default:"
	PrefixRow       = "row:"
	PrefixOverlay   = "overlay:"
	PrefixInventory = "inventory:"
	PrefixFixed     = "fixed:"
)

// Origin is a set of sources. The zero Origin is the empty set.
type Origin struct{ set unique.Handle[string] }

const separator = "\n"

// Field is the origin of a value that the user wrote at path.
func Field(path string) Origin { return of(path) }

// Default is the origin of a value that the schema supplied for path.
func Default(path string) Origin { return of(PrefixDefault + path) }

// Row is the origin of a value that a version row decided.
func Row(id string) Origin { return of(PrefixRow + id) }

// Overlay is the origin of text that a user's overlay file produced.
func Overlay(file string) Origin { return of(PrefixOverlay + file) }

// Inventory is the origin of what follows from the states of a keyset's keys.
func Inventory(keyset string) Origin { return of(PrefixInventory + keyset) }

// Fixed is the origin of a constant; id names its reason in the text table.
func Fixed(id string) Origin { return of(PrefixFixed + id) }

func of(source string) Origin { return Origin{unique.Make(source)} }

// Parse reads what [Origin.Sources] gave, in any order.
func Parse(sources ...string) Origin {
	var o Origin
	for _, s := range sources {
		o = Join(o, of(s))
	}
	return o
}

// IsZero says whether the set is empty.
func (o Origin) IsZero() bool { return o == Origin{} }

// Sources lists the set, sorted.
func (o Origin) Sources() []string {
	if o.IsZero() {
		return nil
	}
	return strings.Split(o.set.Value(), separator)
}

// String is the sorted sources joined by ", ".
func (o Origin) String() string { return strings.Join(o.Sources(), ", ") }

// Has says whether source is in the set.
func (o Origin) Has(source string) bool { return slices.Contains(o.Sources(), source) }

// Join is the union of the sets.
func Join(origins ...Origin) Origin {
	var first Origin
	var rest []Origin
	for _, o := range origins {
		switch {
		case o.IsZero() || o == first:
		case first.IsZero():
			first = o
		default:
			rest = append(rest, o)
		}
	}
	if len(rest) == 0 {
		return first
	}
	all := first.Sources()
	for _, o := range rest {
		all = append(all, o.Sources()...)
	}
	slices.Sort(all)
	return of(strings.Join(slices.Compact(all), separator))
}

// Value is a T and the sources that it was computed from.
type Value[T any] struct {
	V    T
	From Origin
}

// Of pairs a value with its origin.
func Of[T any](v T, from Origin) Value[T] { return Value[T]{v, from} }

// Map computes a value from one other.
func Map[T, U any](v Value[T], f func(T) U) Value[U] { return Value[U]{f(v.V), v.From} }

// Zip computes a value from two others.
func Zip[A, B, C any](a Value[A], b Value[B], f func(A, B) C) Value[C] {
	return Value[C]{f(a.V, b.V), Join(a.From, b.From)}
}
