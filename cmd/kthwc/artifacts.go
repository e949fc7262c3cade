package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/kthwc/kthwc/pkg/artifact"
	"github.com/kthwc/kthwc/schema"
)

// artifacts is what the verbs below `artifacts` have in common.
type artifacts struct {
	*session
	cache, mirror, from string
}

func newArtifacts(s *session) *cobra.Command {
	a := &artifacts{session: s}
	cmd := &cobra.Command{Use: "artifacts", Short: "Pin programs and images by digest, get them, and prove them"}
	for _, verb := range []*cobra.Command{a.newLock(), a.newFetch(), a.newVerify()} {
		verb.Flags().StringVar(&a.cache, "cache", "", "the directory of what was downloaded; $XDG_CACHE_HOME/kthwc where empty")
		complete(verb, "cache", directories)
		cmd.AddCommand(verb)
	}
	return cmd
}

// addSources adds the flags that say where artefacts come from.
func (a *artifacts) addSources(cmd *cobra.Command) {
	cmd.Flags().StringVar(&a.mirror, "mirror", "", "an https address with the official files below directories named like their hosts")
	cmd.Flags().StringVar(&a.from, "from", "", "a directory with the same files, such as build/artifacts")
	cmd.MarkFlagsMutuallyExclusive("mirror", "from")
	complete(cmd, "from", directories)
}

func (a *artifacts) newLock() *cobra.Command {
	var update bool
	cmd := &cobra.Command{
		Use:   "lock",
		Short: "Write kthwc.lock: address, digest and size of every program and image",
		Example: "  kthwc artifacts lock\n  kthwc artifacts lock --from build/artifacts\n" +
			"  kthwc artifacts lock --mirror https://mirror.example.com/kthwc",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			w, err := a.wanted()
			if err != nil {
				return err
			}
			old, err := artifact.ReadLock(w.path)
			if _, there := os.Stat(w.path); errors.Is(there, os.ErrNotExist) {
				old, err = nil, nil
			}
			if err != nil {
				return unproven(err)
			}
			client, err := a.client()
			if err != nil {
				return err
			}
			lock, err := client.Lock(cmd.Context(), w.cluster, schema.Revision(), w.needs, old, update)
			if err != nil {
				return unproven(err)
			}
			if err := artifact.WriteLock(w.path, lock); err != nil {
				return err
			}
			fmt.Fprintf(a.err, "wrote %s: %d artefacts; commit it\n", w.path, len(lock.Artifacts))
			return nil
		},
	}
	cmd.Flags().BoolVar(&update, "update", false, "look everything up again, also what is locked")
	a.addSources(cmd)
	return cmd
}

func (a *artifacts) newFetch() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "fetch",
		Short: "Bring what kthwc.lock names into the cache",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			lock, missing, err := a.locked()
			if err != nil {
				return err
			}
			if len(missing) > 0 {
				return &exitError{exitFailure, fmt.Sprintf("kthwc.lock has no %s", missing[0]), "kthwc artifacts lock -f " + a.file}
			}
			client, err := a.client()
			if err != nil {
				return err
			}
			if err := client.Fetch(cmd.Context(), lock); err != nil {
				return unproven(err)
			}
			fmt.Fprintf(a.err, "%s has all %d artefacts\n", a.cacheDir(), len(lock.Artifacts))
			return nil
		},
	}
	a.addSources(cmd)
	return cmd
}

func (a *artifacts) newVerify() *cobra.Command {
	return &cobra.Command{
		Use:   "verify",
		Short: "Hash the cache again, and check that programs are for their nodes' architecture",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			lock, missing, err := a.locked()
			if err != nil {
				return err
			}
			cache, err := artifact.OpenCache(a.cacheDir())
			if err != nil {
				return err
			}
			results := cache.Verify(lock)
			for _, n := range missing {
				results = append(results, artifact.Result{Entry: artifact.Entry{Need: n}, Fault: "not in kthwc.lock"})
			}
			return a.table(results)
		},
	}
}

// table prints what verifying found; anything wrong is an error.
func (a *artifacts) table(results []artifact.Result) error {
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tVERSION\tARCH\tBYTES\tSHA256\tRESULT")
	wrong := 0
	for _, r := range results {
		if r.Fault != "" {
			wrong++
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%.12s\t%s\n", r.Entry.Name, r.Entry.Version, r.Entry.Arch, r.Entry.Size, r.Entry.SHA256, cmp.Or(r.Fault, "ok"))
	}
	w.Flush()
	if wrong > 0 {
		return &exitError{exitRefused, fmt.Sprintf("%d of %d artefacts are not what they must be", wrong, len(results)), "kthwc artifacts lock pins what is not locked; kthwc artifacts fetch replaces what is damaged or gone"}
	}
	return nil
}

// wanted is what a cluster needs, and where its lock is.
type wanted struct {
	cluster, path string
	needs         []artifact.Need
}

func (a *artifacts) wanted() (*wanted, error) {
	b, err := a.build()
	if err != nil {
		return nil, err
	}
	needs, err := artifact.Wanted(b.tree)
	if err != nil {
		return nil, err
	}
	return &wanted{b.tree.Cluster, filepath.Join(a.stateDir(b.tree.Cluster), artifact.LockName), needs}, nil
}

// locked is the lock, and what the cluster needs and the lock does not have.
func (a *artifacts) locked() (*artifact.Lock, []artifact.Need, error) {
	w, err := a.wanted()
	if err != nil {
		return nil, nil, err
	}
	lock, err := artifact.ReadLock(w.path)
	if err != nil {
		return nil, nil, unproven(err)
	}
	return lock, lock.Missing(w.needs), nil
}

// cacheDir is the flag, or the user's own cache.
func (a *artifacts) cacheDir() string {
	if a.cache != "" {
		return a.cache
	}
	return filepath.Join(cmp.Or(a.getenv("XDG_CACHE_HOME"), filepath.Join(a.getenv("HOME"), ".cache")), "kthwc")
}

func (a *artifacts) client() (*artifact.Client, error) {
	if u, err := url.Parse(a.mirror); a.mirror != "" && (err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "") {
		return nil, &exitError{exitUsage, "--mirror is not an https address without user and query", "it is written into kthwc.lock, which everybody reads"}
	}
	cache, err := artifact.OpenCache(a.cacheDir())
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, TLSHandshakeTimeout: 15 * time.Second, ResponseHeaderTimeout: 30 * time.Second}
	p := &transfer{w: a.err, live: a.colored()}
	return &artifact.Client{HTTP: &http.Client{Transport: transport}, Cache: cache, Mirror: a.mirror, From: a.from,
		Waiting: func() { fmt.Fprintln(a.err, "another run of kthwc uses the cache: waiting for it") }, Starting: p.starting, Progress: p.progress}, nil
}

// unproven gives a fault its exit code.
func unproven(err error) error {
	var f *artifact.Fault
	switch {
	case errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, artifact.ErrBusy):
		return &exitError{exitLocked, err.Error(), "wait until it has ended"}
	case errors.As(err, &f) && f.Mismatch:
		return &exitError{exitRefused, f.What, f.Help}
	case errors.As(err, &f):
		return &exitError{exitFailure, f.What, f.Help}
	}
	return err
}

// transfer prints what is got: a line for each artefact, and on a terminal how
// far it is.
type transfer struct {
	w       io.Writer
	live    bool
	name    string
	percent int64
}

func (t *transfer) starting(n artifact.Need, address string) {
	t.name, t.percent = n.String(), -1
	fmt.Fprintf(t.w, "getting %s from %s\n", n, address)
}

func (t *transfer) progress(done, total int64) {
	if !t.live || total <= 0 || done*100/total == t.percent {
		return
	}
	t.percent = done * 100 / total
	fmt.Fprintf(t.w, "\r%s: %d%% of %.1f MB", t.name, t.percent, float64(total)/1e6)
	if done == total {
		fmt.Fprintln(t.w)
	}
}
