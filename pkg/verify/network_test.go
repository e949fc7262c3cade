package verify

import "testing"

// A Service that is refused until kube-proxy has followed is no failure.
func TestRulesMayFollow(t *testing.T) {
	asked := 0
	got := soon(t.Context(), "echo-", func() string {
		if asked++; asked < 3 {
			return "connection refused"
		}
		return "echo-1"
	})
	if got != "echo-1" || asked != 3 {
		t.Errorf("%q after %d questions", got, asked)
	}
}
