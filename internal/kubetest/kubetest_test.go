package kubetest

import (
	"net/http"
	"os"
	"testing"
)

// A server starts, knows who has its certificates and nobody else, and leaves nothing.
func TestStart(t *testing.T) {
	var dir string
	t.Run("lives", func(t *testing.T) {
		s := Start(t)
		dir = s.dir
		if _, err := http.Get(s.URL); err == nil {
			t.Error("a client that does not know the authority was content")
		}
	})
	if _, err := os.Stat(dir); dir != "" && err == nil {
		t.Errorf("%s is still there", dir)
	}
}
