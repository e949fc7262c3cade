package schema

import "github.com/kthwc/kthwc/pkg/origin"

// Release is the version table at one Kubernetes minor: what exists there, and
// what goes with it. It is made by [ReleaseOf] from rows that CUE proved to be
// gap-free; nothing else in the program compares versions.
type Release struct {
	minor int // 37
	// further fields are the table's own
}

// Verdict is the table's answer about one flag or field.
type Verdict struct {
	Keep bool
	Row  origin.Origin // the row that decided; zero when no row mentions it
}
