package docs

import (
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/kthwc/kthwc/internal/names"
	"github.com/kthwc/kthwc/pkg/certmap"
	"github.com/kthwc/kthwc/pkg/compile"
	"github.com/kthwc/kthwc/pkg/pki"
)

const certificatesIntroduction = `# Which certificate is used where

` + "`kthwc pki map`" + ` shows all of this for your own cluster, ` + "`kthwc pki map --format svg`" + ` as a picture, and
` + "`kthwc explain cert NAME`" + ` says everything about one.

## Questions that the tutorial leaves open

**What is a certificate good for here?** It ties a name to a public key, and an authority has signed that. Whoever holds the
private key can prove to be the one with the name. Every connection of the cluster has two ends, and both ask for proof: the
client wants to know that this is the API server and nobody who stands between, and the API server wants to know which
component or person calls. So there are certificates for servers and for clients. What the other end shows is judged by a
*bundle*: the authorities that one trusts for this purpose.

**What is a SAN?** A subject alternative name is a name or an address by which a server may be called. A client that dials
` + "`https://10.240.0.10:2379`" + ` accepts a certificate only if ` + "`10.240.0.10`" + ` is among its SANs. It is not a way to pose as others:
the authority signs the list, and kthwc puts in the names that clients have for the server. The API server has many, because it
is reached in many ways: by a program beside it, through a balancer, by its Service from pods. The list is below. Certificates
of clients have none: nobody dials them.

**Who is admin?** A person: you, with kubectl. The API server takes the common name of a client certificate for the user, and
the organisations for the groups. In the tutorial admin's group is ` + "`system:masters`" + `, which may do everything and cannot be
unbound; in the hardened profile it is a group of the cluster's own, and the certificate lives for a week.

**What is a service account?** The name that a *pod* has for the API server. A pod proves it with a token, not with a
certificate: a text that the API server has signed with the key of the service account key pair. API servers verify tokens
with the public half. That is why this key pair belongs to no component, and why the certificate that the tutorial makes of
it is never shown to anybody.

**Why are the clients' certificates not copied to the nodes?** They are, inside kubeconfigs: a kubeconfig holds where the API
server is, the bundle to judge it by, and one's own certificate and key. Components that are no clients of the API server
(etcd), and servers, take files of their own.

**Why does the kubelet have to be called system:node:NAME?** The Node authorizer lets a kubelet touch only what the pods of its
own node need, and it takes the name of the node out of the name of the user.

**Why does etcd use the API server's certificate?** In the tutorial one certificate, ` + "`kubernetes.pem`" + `, serves for everything on a
controller: the API server shows it to its clients, to kubelets and to etcd, and etcd shows it to the API server and to other
members. It is short to type; but whoever reads that one file can be all of them. The second table shows how often
it is used. In the hardened profile each purpose has a certificate of its own, and etcd an authority that signs nothing else.

**How are they ever replaced?** Files of certificates lie in many places, and some programs read them once. The column "a change"
says what it takes: *reload* is picked up, *restart* is not, *each run* is a program that people run.
`

// certificateExamples are the examples on the page, and what is said of each.
var certificateExamples = []struct{ input, title, about string }{
	{"examples/cluster.yaml", "The hardened profile", "Six authorities, a key for each host and role. Kubernetes 1.37, `examples/cluster.yaml`."},
	{"examples/kthw-1.21.yaml", "The tutorial", "One authority, and one certificate for most of what a controller does. Kubernetes 1.21, `examples/kthw-1.21.yaml`."},
}

// certificates is the page of who uses which certificate.
func certificates(project fs.FS) (string, error) {
	var w strings.Builder
	w.WriteString(generated + certificatesIntroduction)
	for _, e := range certificateExamples {
		b, err := build(project, e.input)
		if err != nil {
			return "", err
		}
		uses := pki.Uses(b.cluster)
		items := certmap.Items(uses)
		fmt.Fprintf(&w, "\n## %s\n\n%s\n\n```mermaid\n%s```\n", e.title, e.about, certmap.Mermaid(items))
		useTable(&w, items)
		nameTable(&w, b.cluster, uses)
	}
	return w.String(), nil
}

// useTable has a row for each item: who shows it, where it lies, who reads it.
func useTable(w *strings.Builder, items []certmap.Item) {
	w.WriteString("\n| what | shown by → judged by | lies in | read by: a change |\n|---|---|---|---|\n")
	for n := range items {
		i := &items[n]
		var shown, files, readers []string
		if i.Kind != pki.Authority {
			for a := range i.Arrows {
				shown = append(shown, i.Arrows[a].Role()+": "+i.Arrows[a].Sentence())
			}
		}
		if i.Apart != "" {
			shown = append(shown, i.Apart)
		}
		for _, f := range i.Files {
			files = append(files, code(f.Where)+" ("+f.Holds+")")
			for _, r := range f.Readers {
				readers = append(readers, r.Component+" "+code(r.Fields)+": "+string(r.Pickup))
			}
		}
		fmt.Fprintf(w, "| %s %s<br>%s | %s | %s | %s |\n", i.Kind, code(i.Label()), i.Why, cell(shown), cell(files), cell(readers))
	}
}

// cell is the distinct lines of a cell of a table.
func cell(lines []string) string {
	var out []string
	for _, l := range lines {
		if !slices.Contains(out, l) {
			out = append(out, l)
		}
	}
	return strings.Join(out, "<br>")
}

// nameTable has the names of the first API server's certificate, and who dials each.
func nameTable(w *strings.Builder, c *compile.Cluster, uses []pki.Use) {
	at := slices.IndexFunc(c.Listeners, func(l compile.Listener) bool { return l.Component == "kube-apiserver" })
	serving := c.Listeners[at].Cert
	cert := c.Certs[slices.IndexFunc(c.Certs, func(cert *compile.Cert) bool { return cert.Name == serving })]
	use := uses[slices.IndexFunc(uses, func(u pki.Use) bool { return u.Kind == pki.Certificate && u.Name == serving })]
	fmt.Fprintf(w, "\nThe names in %s:\n\n| name | why | dialled by |\n|---|---|---|\n", code(serving))
	for _, san := range cert.SANs {
		var by []string
		for _, s := range use.Showings {
			if s.As == compile.ServerAuth && s.Name == san.Value.V {
				by = append(by, s.To.String())
			}
		}
		fmt.Fprintf(w, "| %s | %s | %s |\n", code(san.Value.V), compile.Reason(san.Why), names.Ranges(names.Sorted(by)))
	}
}
