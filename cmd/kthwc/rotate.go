package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kthwc/kthwc/internal/names"
	"github.com/kthwc/kthwc/pkg/compile"
	"github.com/kthwc/kthwc/pkg/inventory"
	"github.com/kthwc/kthwc/pkg/pki"
)

// rotateFlags are the flags of every kind of rotation.
type rotateFlags struct {
	plan, emergency bool
	stage           int
	confirm, format string
}

func newPKIRotate(s *session) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "rotate",
		Short:   "Replace a key in stages, none of which anybody notices",
		Example: "  kthwc pki rotate ca etcd --plan\n  kthwc pki rotate ca etcd --stage 1\n  kthwc pki rotate ca etcd --stage 2 --confirm applied",
	}
	for _, kind := range []struct{ name, argument, short string }{
		{pki.RotateCA, "NAME", "Replace the key of an authority"},
		{pki.RotateServiceAccount, "", "Replace the key that signs tokens of service accounts"},
		{pki.RotateEncryption, "", "Replace the key that encrypts at rest: the one that spec.encryption.keys lists anew"},
		{pki.RotateLeaf, "NAME", "Replace one certificate and its key"},
	} {
		cmd.AddCommand(newRotateKind(s, kind.name, kind.argument, kind.short))
	}
	return cmd
}

func newRotateKind(s *session, kind, argument, short string) *cobra.Command {
	var f rotateFlags
	cmd := &cobra.Command{
		Use:   strings.TrimSpace(kind + " " + argument),
		Short: short,
		Args:  cobra.NoArgs,
		RunE: func(_ *cobra.Command, args []string) error {
			return s.rotate(pki.Keyset{Kind: kind, Name: strings.Join(args, "")}, f)
		},
	}
	if argument != "" {
		cmd.Args = cobra.ExactArgs(1)
	}
	switch kind {
	case pki.RotateCA:
		cmd.ValidArgsFunction = s.completeUses(pki.Authority)
	case pki.RotateLeaf:
		cmd.ValidArgsFunction = s.completeUses(pki.Certificate)
	}
	cmd.Flags().BoolVar(&f.plan, "plan", false, "print the stages, what each takes on hosts, and how far the rotation is")
	cmd.Flags().IntVar(&f.stage, "stage", 0, "take the store through this stage, which must be the next one")
	addChoice(cmd, cmd.Flags(), &f.confirm, "confirm", "what you say of the stage before: that it is on every host and its gates have passed", "nothing", pki.Applied)
	addChoice(cmd, cmd.Flags(), &f.format, "format", "how the plan is printed", "text", "json")
	if kind != pki.RotateLeaf {
		cmd.Flags().BoolVar(&f.emergency, "emergency", false, "the key has leaked: skip the overlap, with an outage that is stated")
	}
	cmd.MarkFlagsMutuallyExclusive("plan", "stage")
	return cmd
}

// rotate prints the plan, or takes the store through one stage.
func (s *session) rotate(k pki.Keyset, f rotateFlags) error {
	if !f.plan && f.stage == 0 {
		return &exitError{exitUsage, "nothing was asked for", "--plan prints the stages; --stage N begins one"}
	}
	begin := s.withKeys
	if f.plan {
		begin = s.withFacts
	}
	b, inv, store, err := begin()
	if err != nil {
		return err
	}
	r, err := rotation(b.cluster, inv, k, f.emergency)
	if err != nil {
		return err
	}
	if f.plan {
		return s.printRotation(r, f.format)
	}
	var gate *pki.GateError
	if err := r.Check(f.stage, f.confirm); errors.As(err, &gate) {
		return &exitError{exitRefused, gate.Why, gate.Help}
	}
	if err := r.Advance(store, b.cluster, f.stage, s.now()); err != nil {
		return err
	}
	if err := s.writeInventory(b, store); err != nil {
		return err
	}
	fmt.Fprintf(s.err, "next: render and apply what changed, see that the gates of stage %d pass (`kthwc pki rotate %s --plan`)\n", f.stage, strings.TrimSpace(r.Kind+" "+argumentOf(r)))
	return nil
}

// argumentOf is the name where the command takes one.
func argumentOf(r *pki.Rotation) string {
	if r.Kind == pki.RotateCA || r.Kind == pki.RotateLeaf {
		return r.Name
	}
	return ""
}

func rotation(c *compile.Cluster, inv *inventory.Inventory, k pki.Keyset, emergency bool) (*pki.Rotation, error) {
	r, err := pki.MakeRotation(c, inv, k, emergency)
	var name *pki.NameError
	if errors.As(err, &name) {
		return nil, &exitError{exitUsage, name.Why, name.Help}
	}
	return r, err
}

func (s *session) printRotation(r *pki.Rotation, format string) error {
	if format == "json" {
		return s.document("RotationPlan", map[string]any{"rotation": r})
	}
	p := rotationPrinter{r: r}
	p.all()
	_, err := io.WriteString(s.out, p.String())
	return err
}

// rotationPrinter writes a rotation for people.
type rotationPrinter struct {
	strings.Builder
	r *pki.Rotation
}

func (p *rotationPrinter) line(indent int, format string, args ...any) {
	fmt.Fprintf(p, "%s%s\n", strings.Repeat(" ", indent), fmt.Sprintf(format, args...))
}

func (p *rotationPrinter) all() {
	p.line(0, "%s: %s", strings.TrimSpace(p.r.Kind+" "+argumentOf(p.r)), p.r.At())
	for _, v := range p.r.Versions {
		p.line(2, "%s of generation %d: %s", orKey(v.Name), v.Generation, v.State)
	}
	if p.r.Outage != "" {
		p.line(0, "outage: %s", p.r.Outage)
	}
	for i := range p.r.Stages {
		p.stage(&p.r.Stages[i])
	}
	for _, why := range p.r.Blocked {
		p.line(0, "stage %d waits: %s", p.r.Next(), why)
	}
}

func orKey(name string) string {
	if name == "" {
		return "key"
	}
	return name
}

func (p *rotationPrinter) stage(stage *pki.Stage) {
	p.line(0, "")
	p.line(0, "%d %-10s%s", stage.Number, stage.Name, stage.State)
	p.line(2, "%s", stage.Does)
	if stage.Confirm && stage.State == pki.StageNext {
		p.line(2, "begins with --confirm %s, once stage %d is on every host and its gates have passed", pki.Applied, stage.Number-1)
	}
	for n, step := range stage.Steps {
		where := ""
		if len(step.On) > 0 {
			where = " on " + names.Ranges(step.On)
		}
		p.line(2, "%d. %s%s: %s", n+1, step.Who, where, step.Do)
		if step.Gate != "" {
			p.line(5, "gate: %s", step.Gate)
		}
		if step.Why != "" {
			p.line(5, "because %s", step.Why)
		}
	}
}
