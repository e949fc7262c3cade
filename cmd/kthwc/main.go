// Command kthwc compiles one cluster.yaml into every file of a Kubernetes
// cluster made the hard way.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/kthwc/kthwc/pkg/diag"
	"github.com/kthwc/kthwc/pkg/pki"
)

func main() {
	ctx, stop := interruptible()
	collectLess()
	code := run(ctx, os.Args[1:], stdio{os.Stdin, os.Stdout, os.Stderr}, os.Getenv)
	stop()
	os.Exit(code)
}

// interruptible is a context that ends with the first interruption: what is at
// work then comes to a good end. The second one ends the program.
func interruptible() (context.Context, func()) {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		<-signals
		cancel()
		<-signals
		fmt.Fprintln(os.Stderr, "\ninterrupted again: hosts undo by themselves what was not confirmed")
		os.Exit(exitInterrupted)
	}()
	return ctx, cancel
}

// collectLess lets the heap grow before it is collected: a run is over in
// milliseconds. Beyond half a GiB, which only thousands of nodes take, memory
// counts again.
func collectLess() {
	if os.Getenv("GOGC") == "" && os.Getenv("GOMEMLIMIT") == "" {
		debug.SetGCPercent(400)
		debug.SetMemoryLimit(512 << 20)
	}
}

// stdio is where a run reads and writes: data on out, everything else on err.
type stdio struct {
	in       io.Reader
	out, err io.Writer
}

// Exit codes.
const (
	exitFailure   = 1
	exitPending   = 2
	exitInvalid   = 3
	exitRefused   = 4 // a check or a gate that must pass first
	exitLocked    = 5
	exitPartial   = 6
	exitUndone    = 7
	exitThreshold = 8
	exitUsage     = 64

	exitInterrupted = 130
)

// exitError ends a run with a code; its message was printed already when empty.
type exitError struct {
	code    int
	message string
	help    string
}

func (e *exitError) Error() string { return e.message }

// session is the state of one run.
type session struct {
	stdio
	file     string
	color    string
	overlays []string
	state    string // directory of what was issued and found out; "" for the one beside cluster.yaml
	identity []string
	now      func() time.Time
	getenv   func(string) string
}

// verbs are the commands, in the order of help.
var verbs = []func(*session) *cobra.Command{
	newInit, newValidate, newFmt, newSchema, newConfig, newRender, newShow, newDiff, newExplain, newPKI, newKubeconfig, newArtifacts, newPreflight, newPlan, newApply, newStatus, newRollback, newUnlock, newReset, newVerify, newVersions, newLab, newMan, newVersion,
}

// newRoot is the command with all its verbs.
func newRoot(s *session) *cobra.Command {
	root := &cobra.Command{
		Use:           "kthwc",
		Short:         "Compile one cluster.yaml into every file of a Kubernetes cluster made the hard way",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.PersistentFlags().StringVarP(&s.file, "file", "f", defaultFile(s.getenv), "the cluster.yaml to read; - is standard input")
	complete(root, "file", clusterFiles)
	root.PersistentFlags().StringArrayVar(&s.overlays, "overlay", nil, "a jsonnet function(node, files) to lay over the files, after those of cluster.yaml")
	complete(root, "overlay", overlayFiles)
	root.PersistentFlags().StringVar(&s.state, "state", "", "the directory of what was issued; NAME.kthwc beside cluster.yaml unless set")
	complete(root, "state", directories)
	root.PersistentFlags().StringArrayVar(&s.identity, "identity", nil, "an age identity or ssh private key that opens encrypted keys; KTHWC_IDENTITY or ~/.config/kthwc/identity.txt unless set")
	addChoice(root, root.PersistentFlags(), &s.color, "color", "colours of diagnostics and differences", "auto", "always", "never")
	root.CompletionOptions.SetDefaultShellCompDirective(cobra.ShellCompDirectiveNoFileComp)
	for _, verb := range verbs {
		root.AddCommand(verb(s))
	}
	return root
}

func run(ctx context.Context, args []string, std stdio, getenv func(string) string) int {
	s := &session{stdio: std, getenv: getenv, now: time.Now}
	root := newRoot(s)
	root.SetArgs(args)
	root.SetIn(std.in)
	root.SetOut(std.out)
	root.SetErr(std.err)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &exitError{exitUsage, err.Error(), "see --help"} })
	err := root.ExecuteContext(ctx)
	if ctx.Err() != nil {
		return exitInterrupted
	}
	return s.report(err)
}

func defaultFile(getenv func(string) string) string {
	if f := getenv("KTHWC_FILE"); f != "" {
		return f
	}
	return "cluster.yaml"
}

// codeOf is the exit code of a run that failed, without printing anything.
func codeOf(err error) int {
	var exit *exitError
	switch {
	case errors.Is(err, context.Canceled):
		return exitInterrupted
	case errors.As(err, &exit):
		return exit.code
	}
	return exitFailure
}

// report prints how a run failed, and gives its exit code.
func (s *session) report(err error) int {
	var exit *exitError
	var stored *pki.StoreError
	var imported *pki.ImportError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &stored):
		fmt.Fprintf(s.err, "kthwc: %s\n  = help: %s\n", err, stored.Help)
		return exitFailure
	case errors.As(err, &imported):
		fmt.Fprintf(s.err, "kthwc: %s\n  = help: %s\n", err, imported.Help)
		return exitInvalid
	case errors.As(err, &exit):
		if exit.message != "" {
			fmt.Fprintf(s.err, "kthwc: %s\n", exit.message)
		}
		if exit.help != "" {
			fmt.Fprintf(s.err, "  = help: %s\n", exit.help)
		}
		return exit.code
	case strings.HasPrefix(err.Error(), "unknown command") || strings.Contains(err.Error(), "arg(s)") || strings.Contains(err.Error(), "flags in the group"):
		fmt.Fprintf(s.err, "kthwc: %s\n  = help: see kthwc --help\n", err)
		return exitUsage
	}
	fmt.Fprintf(s.err, "kthwc: %s\n", err)
	return exitFailure
}

// colored says whether diagnostics have colours, coloredOut whether data has.
func (s *session) colored() bool    { return s.coloredOn(s.err) }
func (s *session) coloredOut() bool { return s.coloredOn(s.out) }

// document writes data in JSON, as every verb does: what it is, and then what
// is in it.
func (s *session) document(kind string, content map[string]any) error {
	encoder := json.NewEncoder(s.out)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	content["apiVersion"], content["kind"] = "kthwc.dev/v1alpha1", kind
	return encoder.Encode(content)
}

func (s *session) coloredOn(w io.Writer) bool {
	switch s.color {
	case "always":
		return true
	case "never":
		return false
	}
	return s.onTerminal(w)
}

// onTerminal says whether somebody watches who may want more than plain lines.
func (s *session) onTerminal(w any) bool {
	f, ok := w.(*os.File)
	if !ok || s.getenv("NO_COLOR") != "" || s.getenv("CI") != "" || s.getenv("TERM") == "dumb" || s.getenv("TERM") == "" {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// textOf is the text that positions in a file point into: cluster.yaml, or an
// overlay beside it.
func (s *session) textOf(file string, source []byte) []byte {
	if file == s.name() {
		return source
	}
	root, err := os.OpenRoot(s.project())
	if err != nil {
		return nil
	}
	defer root.Close()
	text, _ := root.ReadFile(file) // without it, only the position is printed
	return text
}

// diagnose prints faults; an error among them ends the run.
func (s *session) diagnose(faults diag.List, source []byte) error {
	o := diag.Options{Color: s.colored(), Source: func(file string) []byte { return s.textOf(file, source) }}
	if err := diag.Print(s.err, faults, o); err != nil {
		return err
	}
	if faults.HasErrors() {
		return &exitError{code: exitInvalid}
	}
	return nil
}
