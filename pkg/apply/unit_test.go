package apply

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// An image is imported when containerd listens, which is some time after it began.
func TestImageWaitsForContainerd(t *testing.T) {
	dir := t.TempDir()
	fake := `#!/bin/sh
printf '%s\n' "$*" >>` + dir + `/asked
[ "$(wc -l <` + dir + `/asked)" -gt 3 ]
`
	if err := os.WriteFile(filepath.Join(dir, "ctr"), []byte(fake), 0o755); err != nil {
		t.Fatal(err)
	}
	script := strings.Replace(unitScript, "PATH=", "PATH="+dir+":", 1)
	r, err := local{"sh"}.Run(t.Context(), Command{Script: script, Args: []string{"image", "/image.tar", "name"}})
	asked, _ := os.ReadFile(filepath.Join(dir, "asked"))
	if err != nil || r.Status != 0 || !strings.Contains(string(asked), "-n k8s.io images import --no-unpack=false -- /image.tar\n") || !strings.HasPrefix(string(asked), "version\nversion\n") {
		t.Errorf("%v, status %d: %s%s", err, r.Status, asked, r.Stderr)
	}
}
