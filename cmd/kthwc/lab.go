package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/kthwc/kthwc/pkg/lab"
	"github.com/kthwc/kthwc/schema"
)

// labFlags are the flags of every verb of the lab.
type labFlags struct{ cache, mirror string }

func newLab(s *session) *cobra.Command {
	cmd := &cobra.Command{Use: "lab", Short: "Real hosts on this one machine, to try a cluster on"}
	for _, verb := range []func(*session, *labFlags) *cobra.Command{newLabUp, newLabDown, newLabStatus, newLabSSH, newLabExec, newLabFate(0), newLabFate(1), newLabFate(2), newLabFate(3), newLabServe} {
		flags := &labFlags{}
		c := verb(s, flags)
		cmd.AddCommand(c)
	}
	return cmd
}

func newLabUp(s *session, flags *labFlags) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "up",
		Short:   "Make the machines of cluster.yaml and boot them; run it again to go on after an interruption",
		Example: "  kthwc lab up -f examples/lab.yaml\n  kthwc lab ssh controller-0 -f examples/lab.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			b, err := s.build()
			if err != nil {
				return err
			}
			fleet, err := lab.NewFleet(b.cluster)
			if err != nil {
				return labError(err)
			}
			l, err := s.openLab(flags)
			if err != nil {
				return err
			}
			changed, err := l.Up(cmd.Context(), fleet)
			if err != nil {
				return s.labStopped(cmd.Context(), err)
			}
			s.labSummary(l, fleet, changed)
			return nil
		},
	}
	cmd.Flags().StringVar(&flags.cache, "cache", "", "the directory of root file systems; unless given, kthwc/lab in your cache directory")
	cmd.Flags().StringVar(&flags.mirror, "mirror", "http://deb.debian.org/debian", "the Debian archive that machines are made from")
	complete(cmd, "cache", directories)
	return cmd
}

// labSummary says what there is now, and what to do with it.
func (s *session) labSummary(l *lab.Lab, fleet *lab.Fleet, changed bool) {
	if !changed {
		fmt.Fprintf(s.err, "everything is up: %d machines; nothing was done\n", len(fleet.Machines))
		return
	}
	fmt.Fprintf(s.err, "\n%d machines are up", len(fleet.Machines))
	if b := fleet.Balancer; b != nil {
		fmt.Fprintf(s.err, ", and the balancer at %s port %d", b.Address, b.Port)
	}
	if at, ok := l.Forwarded(); ok {
		fmt.Fprintf(s.err, "; this machine's %s leads to the API", at)
	}
	file := ""
	if s.file != defaultFile(s.getenv) {
		file = " -f " + s.file
	}
	fmt.Fprintf(s.err, "\n  kthwc lab ssh %s%s\n  kthwc plan --lab%s\n", fleet.Machines[0].Name, file, file)
}

func newLabDown(s *session, flags *labFlags) *cobra.Command {
	var keep bool
	cmd := &cobra.Command{
		Use:   "down",
		Short: "Throw the lab away, whatever state it is in",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := s.openLab(flags)
			if err != nil {
				return err
			}
			changed, err := l.Down(cmd.Context(), keep)
			switch {
			case err != nil:
				return s.labStopped(cmd.Context(), err)
			case !changed:
				fmt.Fprintf(s.err, "there is no lab in %s; nothing was done\n", l.State)
			case keep:
				fmt.Fprintf(s.err, "the lab is down; its disks and keys stay in %s\n", l.State)
			default:
				fmt.Fprintln(s.err, "the lab is down, and nothing of it is left")
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&keep, "keep", false, "keep the disks and the keys of the machines for the next up")
	return cmd
}

func newLabStatus(s *session, flags *labFlags) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Say how each machine of the lab is; exit 4 unless all are up",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := s.openLab(flags)
			if err != nil {
				return err
			}
			status, err := l.Status(cmd.Context())
			if err != nil {
				return labError(err)
			}
			if format == "json" {
				err = json.NewEncoder(s.out).Encode(status)
			} else {
				err = s.labTable(status)
			}
			if down := status.Down(); down > 0 && err == nil {
				return &exitError{exitRefused, fmt.Sprintf("%d of the lab's parts are not up", down), "kthwc lab up starts what does not run"}
			}
			return err
		},
	}
	addChoice(cmd, cmd.Flags(), &format, "format", "how it is printed", "text", "json")
	return cmd
}

func (s *session) labTable(status *lab.Status) error {
	w := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "MACHINE\tRUNNING\tADDRESS\tSSH\tSYSTEMD")
	for _, m := range status.Machines {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", m.Name, running(m), m.Address, yes(m.SSH), cmp.Or(m.Systemd, m.Error))
	}
	for name, p := range status.Parts() {
		fmt.Fprintf(w, "%s\t%s\t%s\t-\t-\n", name, yes(p.Running), cmp.Or(p.Address, "-"))
	}
	return w.Flush()
}

func yes(is bool) string {
	if is {
		return "yes"
	}
	return "no"
}

// running is a word for whether a machine runs, and what was done to it.
func running(m lab.MachineStatus) string {
	switch {
	case m.Off:
		return "off"
	case m.Cut:
		return "cut"
	}
	return yes(m.Running)
}

// fates are the verbs of what can befall a machine.
var fates = []struct {
	verb, short, did, was string
	do                    func(*lab.Lab, context.Context, string) (bool, error)
}{
	{"off", "Cut a machine's power: everything on it ends at once, its disk stays", "is off", "was off", (*lab.Lab).Off},
	{"on", "Boot a machine whose power was cut, and wait until it is ready", "is on and ready", "was on", (*lab.Lab).On},
	{"cut", "Take a machine's network cable out; it runs on", "is cut off", "was cut off", (*lab.Lab).Cut},
	{"join", "Put a machine's network cable back", "is joined again", "was joined", (*lab.Lab).Join},
}

// newLabFate is the verb of one row of fates.
func newLabFate(row int) func(*session, *labFlags) *cobra.Command {
	fate := fates[row]
	return func(s *session, flags *labFlags) *cobra.Command {
		return &cobra.Command{
			Use:     fate.verb + " MACHINE",
			Short:   fate.short,
			Example: "  kthwc lab " + fate.verb + " controller-1",
			Args:    cobra.ExactArgs(1),

			ValidArgsFunction: s.completeMachines(flags),
			RunE: func(cmd *cobra.Command, args []string) error {
				l, err := s.openLab(flags)
				if err != nil {
					return err
				}
				changed, err := fate.do(l, cmd.Context(), args[0])
				if err != nil {
					return s.labStopped(cmd.Context(), err)
				}
				if !changed {
					fmt.Fprintf(s.err, "%s %s already; nothing was done\n", args[0], fate.was)
					return nil
				}
				fmt.Fprintf(s.err, "%s %s\n", args[0], fate.did)
				return nil
			},
		}
	}
}

func newLabSSH(s *session, flags *labFlags) *cobra.Command {
	return &cobra.Command{
		Use:     "ssh MACHINE",
		Short:   "Log in to a machine of the lab",
		Example: "  kthwc lab ssh worker-0",
		Args:    cobra.ExactArgs(1),

		ValidArgsFunction: s.completeMachines(flags),
		RunE: func(_ *cobra.Command, args []string) error {
			l, err := s.openLab(flags)
			if err != nil {
				return err
			}
			return s.attached(l.SSH(args[0]))
		},
	}
}

func newLabExec(s *session, flags *labFlags) *cobra.Command {
	return &cobra.Command{
		Use:     "exec [MACHINE] -- COMMAND",
		Short:   "Run a command on a machine of the lab; without one, on this machine in the lab's network",
		Example: "  kthwc lab exec worker-0 -- systemctl --failed\n  kthwc lab exec -- ping -c 1 10.240.0.20",
		Args: func(cmd *cobra.Command, args []string) error {
			if before := cmd.ArgsLenAtDash(); before < 0 || before > 1 || len(args) == before {
				return &exitError{exitUsage, "it takes a machine, --, and a command", "kthwc lab exec worker-0 -- systemctl --failed"}
			}
			return nil
		},

		ValidArgsFunction: s.completeMachines(flags),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := s.openLab(flags)
			if err != nil {
				return err
			}
			if cmd.ArgsLenAtDash() == 0 {
				return s.attached(l.Here(args...))
			}
			return s.attached(l.SSH(args[0], args[1:]...))
		},
	}
}

// newLabServe is what lab up starts for what it serves itself; nobody types it.
func newLabServe(s *session, _ *labFlags) *cobra.Command {
	return &cobra.Command{
		Use:    "serve PART STATE",
		Short:  "Be a part of a lab that is up",
		Args:   cobra.ExactArgs(2),
		Hidden: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			log := func(e lab.Event) { fmt.Fprintf(s.err, "%s: %s\n", e.Step, e.Detail) }
			l, err := lab.Open(lab.Options{State: args[1], Cache: args[1], Getenv: s.getenv, Progress: log})
			if err != nil {
				return labError(err)
			}
			return labError(l.Serve(cmd.Context(), args[0]))
		},
	}
}

// attached runs a command with this run's streams; its exit code is ours.
func (s *session) attached(cmd *exec.Cmd, err error) error {
	if err != nil {
		return labError(err)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = s.in, s.out, s.err
	err = cmd.Run()
	var ended *exec.ExitError
	if errors.As(err, &ended) {
		return &exitError{code: max(exitFailure, ended.ExitCode())}
	}
	return err
}

func (s *session) completeMachines(flags *labFlags) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		l, err := s.openLab(flags)
		if err != nil || len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		fleet, err := l.Fleet()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var out []cobra.Completion
		for _, m := range fleet.Machines {
			out = append(out, m.Name)
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}

// openLab finds the lab of the file, or of the directory that --state names.
func (s *session) openLab(flags *labFlags) (*lab.Lab, error) {
	name := ""
	if s.state == "" {
		var err error
		if name, err = s.clusterName(); err != nil {
			return nil, err
		}
	}
	cache := flags.cache
	if cache == "" {
		cache = filepath.Join(cacheDir(s.getenv), "kthwc", "lab")
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	l, err := lab.Open(lab.Options{State: filepath.Join(s.stateDir(name), "lab"), Cache: cache, Mirror: flags.mirror, Self: self, Getenv: s.getenv, Progress: s.labProgress()})
	return l, labError(err)
}

// clusterName reads no more of the file than it needs: a lab can be taken down
// when the rest has mistakes.
func (s *session) clusterName() (string, error) {
	source, err := s.read()
	if err != nil {
		return "", err
	}
	doc, faults := schema.Load(s.name(), source)
	if doc == nil {
		return "", s.diagnose(faults, source)
	}
	return doc.Cluster.Metadata.Name, nil
}

// cacheDir is where the caller keeps what can be made again.
func cacheDir(getenv func(string) string) string {
	if dir := getenv("XDG_CACHE_HOME"); dir != "" {
		return dir
	}
	if home := getenv("HOME"); home != "" {
		return filepath.Join(home, ".cache")
	}
	return "/var/cache"
}

// labProgress prints what is done, line by line; on a terminal, what is being
// done stands below.
func (s *session) labProgress() func(lab.Event) {
	terminal := s.onTerminal(s.err)
	said := map[string]bool{}
	return func(e lab.Event) {
		line := fmt.Sprintf("%-7s %s", e.Doing, e.Step)
		if e.Detail != "" {
			line += ": " + e.Detail
		}
		ended := (e.Doing == lab.Made || e.Doing == lab.Undone) && !e.Step.Small()
		long := e.Doing == lab.Waiting && e.Step.Of == "" && !said[e.Step.Kind] // machines wait at once, and soon are ready
		said[e.Step.Kind] = said[e.Step.Kind] || long
		switch {
		case terminal && ended:
			fmt.Fprintf(s.err, "\r\x1b[K%s\n", line)
		case terminal:
			fmt.Fprintf(s.err, "\r\x1b[K%.78s", line) // a line that wraps could not be cleared
		case ended || long:
			fmt.Fprintln(s.err, line)
		}
	}
}

// Exit codes of the lab's errors.
var labExits = map[lab.Reason]int{lab.Failed: exitPartial, lab.Refused: exitInvalid, lab.Lacking: exitRefused, lab.Locked: exitLocked}

func labError(err error) error {
	var known *lab.Error
	if errors.As(err, &known) {
		return &exitError{labExits[known.Reason], known.Message, known.Help}
	}
	return err
}

// labStopped says how to go on after a run that did not end as asked.
func (s *session) labStopped(ctx context.Context, err error) error {
	if s.onTerminal(s.err) {
		fmt.Fprintln(s.err)
	}
	if ctx.Err() != nil {
		fmt.Fprintln(s.err, "interrupted; `kthwc lab up` goes on, `kthwc lab down` throws it away")
		return err
	}
	var known *lab.Error
	if errors.As(err, &known) {
		return labError(err)
	}
	return &exitError{exitPartial, err.Error(), "`kthwc lab up` goes on, `kthwc lab down` throws it away"}
}
