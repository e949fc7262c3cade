package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kthwc/kthwc/internal/durable"
	"github.com/kthwc/kthwc/pkg/lab"
	"github.com/kthwc/kthwc/pkg/verify"
)

// verifyFlags are what is asked of a verification.
type verifyFlags struct {
	*hostFlags
	verify.Options
	format, output string
	only           []string
	archive        string
	skipSmoke      bool
	verbose        bool
}

func newVerify(s *session) *cobra.Command {
	f := &verifyFlags{hostFlags: &hostFlags{}}
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Compare the running cluster with every predicted fact, and run workloads on it; exit 4 if anything fails",
		Long: `Compare the running cluster with every predicted fact, and run workloads on it.

Nothing of the cluster is changed but for a namespace kthwc-verify-..., which is
removed at the end; what an earlier run could not remove is removed first, so do
not run two at a time. The first broken layer is named: ` + strings.Join(verify.Layers(), ", ") + `.`,
		Example: "  kthwc verify\n  kthwc verify --only route,service --verbose\n  kthwc verify --format junit -o verify.xml --disruptive",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return s.verify(cmd.Context(), f) },
	}
	cmd.Flags().StringVar(&f.sshConfig, "ssh-config", "", "settings of ssh to use instead of ~/.ssh/config")
	cmd.Flags().BoolVar(&f.lab, "lab", false, "the hosts are those of kthwc lab up: reach them there, with the lab's overlay")
	cmd.MarkFlagsMutuallyExclusive("ssh-config", "lab")
	cmd.Flags().IntVar(&f.parallel, "parallel", 16, "so many hosts at once")
	cmd.Flags().StringSliceVar(&f.only, "only", nil, "only checks of these layers")
	complete(cmd, "only", cobra.FixedCompletions(verify.Layers(), cobra.ShellCompDirectiveNoFileComp))
	cmd.Flags().BoolVar(&f.skipSmoke, "skip-smoke", false, "run no workloads: compare facts only, and change nothing")
	cmd.Flags().BoolVar(&f.Disruptive, "disruptive", false, "stop one API server for a moment, where a balancer has others")
	cmd.Flags().StringVar(&f.Image, "image", verify.DefaultImage, "the image of the workloads; it must have the toolbox's commands")
	cmd.Flags().StringVar(&f.archive, "image-archive", "", "an OCI archive of the image, for nodes that do not have it and cannot pull it; it is removed afterwards")
	cmd.Flags().StringVar(&f.External, "external-name", "", "a name outside the cluster that pods shall be able to resolve")
	cmd.Flags().DurationVar(&f.Patience, "timeout", verify.DefaultPatience, "how long one thing may take to happen, such as a pod to run")
	cmd.Flags().BoolVar(&f.verbose, "verbose", false, "print every assertion, also those that hold")
	addChoice(cmd, cmd.Flags(), &f.format, "format", "how the report is printed", "text", "json", "junit")
	cmd.Flags().StringVarP(&f.output, "output", "o", "", "write the report to this file; the text is printed as well")
	return cmd
}

func (s *session) verify(ctx context.Context, f *verifyFlags) error {
	if err := f.layers(); err != nil {
		return err
	}
	f.Smoke = !f.skipSmoke
	if f.lab && f.External == "" {
		f.External = lab.ExternalName
	}
	if f.archive != "" {
		if _, err := os.Stat(f.archive); err != nil {
			return &exitError{exitUsage, err.Error(), "`make lab-artifacts` writes build/artifacts/kthwc.dev/lab/toolbox/1-linux-" + runtime.GOARCH + ".tar"}
		}
		f.Archive = func() (io.ReadCloser, error) { return os.Open(f.archive) }
	}
	word := make([]byte, 4)
	if _, err := rand.Read(word); err != nil {
		return err
	}
	f.Suffix = hex.EncodeToString(word)
	subject, done, err := s.subject(ctx, f.hostFlags)
	if err != nil {
		return err
	}
	defer done()
	watch := s.watchVerify()
	report, err := verify.Run(ctx, subject, f.Options, watch.event)
	watch.end()
	if report != nil {
		if err := s.reportVerify(f, report); err != nil {
			return err
		}
	}
	if err != nil {
		return err
	}
	if !report.OK() {
		return &exitError{code: exitRefused}
	}
	return nil
}

// layers reads --only.
func (f *verifyFlags) layers() error {
	for _, word := range f.only {
		if !slices.Contains(verify.Layers(), word) {
			return &exitError{exitUsage, fmt.Sprintf("there is no layer %q", word), "the layers are " + listed(verify.Layers())}
		}
		f.Only = append(f.Only, verify.Layer(word))
	}
	return nil
}

// subject is the cluster with its hosts, as verify takes it. What is returned
// beside it closes the connections.
func (s *session) subject(ctx context.Context, f *hostFlags) (*verify.Subject, func(), error) {
	h, err := s.connect(ctx, f)
	if err != nil {
		return nil, nil, err
	}
	return &verify.Subject{Fleet: h.Fleet, Cluster: h.cluster, Dial: h.operatorDial(), Now: s.now}, h.close, nil
}

// operatorDial connects from where the operator is: in a lab, from inside its
// network, where names of the cluster are not known to anybody.
func (h *hosts) operatorDial() func(context.Context, string, string) (net.Conn, error) {
	dial := h.options.Dial
	if dial == nil {
		return (&net.Dialer{}).DialContext
	}
	first := h.cluster.Etcd.Members[0].Node.Addresses[0].V.String()
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		host, port, err := net.SplitHostPort(address)
		if err == nil && host == h.cluster.API.Address.V.Name {
			address = net.JoinHostPort(first, port)
		}
		return dial(ctx, network, address)
	}
}

// reportVerify prints the report, and writes it where it was asked for.
func (s *session) reportVerify(f *verifyFlags, r *verify.Report) error {
	if f.output == "" {
		return s.writeReport(f.format, f.verbose, r)
	}
	var b bytes.Buffer
	file := *s
	file.out = &b
	if err := file.writeReport(f.format, f.verbose, r); err != nil {
		return err
	}
	if err := durable.Replace(f.output, b.Bytes(), 0o644); err != nil {
		return err
	}
	return s.writeReport("text", f.verbose, r)
}

func (s *session) writeReport(format string, verbose bool, r *verify.Report) error {
	switch format {
	case "json":
		encoder := json.NewEncoder(s.out)
		encoder.SetIndent("", "  ")
		encoder.SetEscapeHTML(false)
		return encoder.Encode(r.Document())
	case "junit":
		return r.JUnit(s.out)
	}
	r.Text(s.out, verify.TextOptions{Color: s.coloredOut(), Verbose: verbose})
	return nil
}

// verifyWatch shows what a verification is at: on a terminal in one row that is
// written over, elsewhere a line for each check, and for what takes long.
type verifyWatch struct {
	s    *session
	live bool
	said time.Time
}

func (s *session) watchVerify() *verifyWatch {
	return &verifyWatch{s: s, live: s.onTerminal(s.err), said: s.now()}
}

func (w *verifyWatch) event(e verify.Event) {
	if e.Done != nil {
		return
	}
	row := fmt.Sprintf("%-12s %s", e.Layer, e.Check)
	waits := e.Doing != verify.Begin
	if waits {
		row += ": " + e.Doing
	}
	switch {
	case w.live:
		fmt.Fprintf(w.s.err, "\r\x1b[K%s", cut(row, 100))
	case !waits || w.s.now().Sub(w.said) >= tick:
		w.said = w.s.now()
		fmt.Fprintln(w.s.err, row)
	}
}

func (w *verifyWatch) end() {
	if w.live {
		fmt.Fprint(w.s.err, "\r\x1b[K")
	}
}
