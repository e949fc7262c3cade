package docs

import (
	"fmt"
	"strings"

	"github.com/kthwc/kthwc/pkg/diag"
)

// chapters are the ranges of codes, in the order of the page.
var chapters = []struct{ prefix, title, about string }{
	{"E00", "The file itself", "Found while the file is read, all at once."},
	{"E01", "What it says", "Found while the cluster is computed: values that do not fit one another."},
	{"E02", "What would be rendered", "Found in the finished files, before any of them is written."},
	{"W", "Warnings", "These stop nothing."},
}

// errorCodes is the page of every code.
func errorCodes() string {
	var b strings.Builder
	b.WriteString(generated + "# Error codes\n\nWhat kthwc says about a `cluster.yaml`, by code. `kthwc explain E0103` prints one of them.\nA code keeps its meaning for ever; numbers are never used again.\n")
	for _, c := range chapters {
		fmt.Fprintf(&b, "\n## %s\n\n%s\n", c.title, c.about)
		for _, known := range diag.Codes {
			if strings.HasPrefix(known.Code, c.prefix) {
				fmt.Fprintf(&b, "\n### %s `%s`\n\n**%s: %s.** %s\n", known.Code, known.Slug, known.Severity, known.Title, known.Story)
			}
		}
	}
	return b.String()
}
