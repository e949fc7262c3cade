// Package names shortens lists of names for people.
//
// It promises that what it writes a shell would expand to the names again
// (controller-{0..2}), and that order is kept. It refuses to guess: only
// numbers that follow one another are taken together.
package names

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Ranges shortens a list of names: controller-{0..2}, worker-1.
func Ranges(names []string) string {
	var out []string
	for i := 0; i < len(names); {
		stem, first, ok := numbered(names[i])
		j := i + 1
		for ; ok && j < len(names); j++ {
			if s, n, numberedToo := numbered(names[j]); !numberedToo || s != stem || n != first+j-i {
				break
			}
		}
		if j-i < 2 {
			out, i = append(out, names[i]), i+1
			continue
		}
		out, i = append(out, fmt.Sprintf("%s{%d..%d}", stem, first, first+j-i-1)), j
	}
	return strings.Join(out, ", ")
}

// Sorted is each name once, in the order in which people count: worker-2
// before worker-10.
func Sorted(names []string) []string {
	out := slices.Clone(names)
	slices.SortFunc(out, func(a, b string) int {
		stemA, numberA, _ := numbered(a)
		stemB, numberB, _ := numbered(b)
		return cmp.Or(cmp.Compare(cmp.Or(stemA, a), cmp.Or(stemB, b)), cmp.Compare(numberA, numberB), cmp.Compare(a, b))
	})
	return slices.Compact(out)
}

// numbered cuts a name into what stands before its number and the number.
func numbered(name string) (stem string, n int, ok bool) {
	stem = strings.TrimRight(name, "0123456789")
	if _, err := fmt.Sscan(name[len(stem):], &n); err != nil || fmt.Sprint(n) != name[len(stem):] {
		return "", 0, false
	}
	return stem, n, true
}
