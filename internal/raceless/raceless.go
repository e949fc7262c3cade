// Package raceless says which tests run without the race detector: those that try
// everything in one goroutine. The detector has nothing to find there, and makes
// them six times slower.
//
// It promises that such a test runs under `go test` and `make test`, whose second
// command has it. It refuses nothing.
package raceless

import "testing"

// Only skips the test under the race detector.
func Only(t *testing.T) {
	t.Helper()
	if detector {
		t.Skip("one goroutine's work: `make test` runs it without the race detector, too")
	}
}
