package docs

import (
	"fmt"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/kthwc/kthwc/pkg/origin"
	"github.com/kthwc/kthwc/pkg/tree"
)

// specimens are the nodes that stand for all of their role.
var specimens = []string{"controller-0", "worker-0"}

// machines is what a host has beside files: swap, users, packages, programs and
// units.
func (b *built) machines(w *strings.Builder) error {
	for _, name := range specimens {
		n := b.tree.Node(name)
		if n == nil {
			return fmt.Errorf("%s has no node %s", b.path, name)
		}
		fmt.Fprintf(w, "\n## What %s has beside files\n\n| what | which | why |\n|---|---|---|\n", name)
		fmt.Fprintf(w, "| swap | %s | %s |\n", n.Swap, b.why(n.SwapFrom))
		for _, u := range n.Users {
			fmt.Fprintf(w, "| user | `%s` | %s |\n", u.Name, b.why(u.From))
		}
		for _, p := range n.Packages {
			fmt.Fprintf(w, "| package | `%s` | %s |\n", p.Name, p.Reason)
		}
		for _, p := range n.Binaries {
			fmt.Fprintf(w, "| program | `%s` %s | %s |\n", p.Path, p.Version, b.why(p.From))
		}
		for _, u := range n.Units {
			fmt.Fprintf(w, "| unit | `%s` | %s |\n", u.Name, state(u))
		}
	}
	return nil
}

func state(u tree.Unit) string {
	if u.Gate == "" {
		return "Started now and at boot."
	}
	return "Started now and at boot; after a restart it must pass the check `" + u.Gate + "`."
}

// why is the sentences of an origin; of the fields only the release counts here.
func (b *built) why(from origin.Origin) string {
	var r reason
	b.add(&r, from.Sources())
	if len(r.prose) == 0 {
		return "The cluster's release, `spec.kubernetes.version`."
	}
	return strings.Join(r.prose, "<br>")
}

// connections is the list of who dials whom, as one table.
func (b *built) connections(w *strings.Builder) error {
	const path = "network/connections.yaml"
	var read struct {
		Connections []struct {
			Component, To, At, Ports, Protocol, ClientCertificate, ServerAuthority, Why string
		}
	}
	if err := yaml.Unmarshal(b.tree.File(path).Body.Bytes(), &read); err != nil {
		return err
	}
	fmt.Fprintf(w, "\n%s", b.head(file{b.tree.File(path), path}))
	w.WriteString("| from | to | ports | shows | must see | why |\n|---|---|---|---|---|---|\n")
	for _, c := range read.Connections {
		fmt.Fprintf(w, "| %s | %s on %s | %s/%s | %s | %s | %s |\n", c.Component, c.To, c.At, c.Ports, c.Protocol, c.ClientCertificate, c.ServerAuthority, c.Why)
	}
	return nil
}
