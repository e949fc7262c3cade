package apply

import (
	"context"
	_ "embed"
	"fmt"
	"strconv"
	"strings"

	"github.com/kthwc/kthwc/pkg/tree"
)

//go:embed reset.sh
var resetScript string

// Reset makes a host bare again: what is rendered for it and what the last apply
// left there goes, with programs, pods and journals. Etcd's data stays unless it
// is named; then nothing brings it back.
func (f *Fleet) Reset(ctx context.Context, node string, epoch int, s *State, etcdToo bool) error {
	d, err := desiredOf(f.Tree, f.Tree.Node(node), f.Lock)
	if err != nil {
		return err
	}
	args := []string{f.Root, strconv.Itoa(epoch)}
	if data := d.etcdData(); etcdToo && data != "" {
		args = append(args, "etcd", data)
	}
	r, err := f.Conns[node].Run(ctx, Command{Script: resetScript, Args: args, Stdin: strings.NewReader(strings.Join(d.traces(s), "\n") + "\n")})
	switch {
	case err != nil:
		return err
	case r.Status == statusTaken:
		return ErrTaken
	case r.Status != 0:
		return fmt.Errorf("reset (status %d): %s", r.Status, lastLine(r.Stderr))
	}
	return nil
}

// traces are lines for reset.sh. Only what an apply has put on the host is
// removed: what is rendered and was there before stays.
func (d *desired) traces(s *State) []string {
	var out []string
	record := &Recorded{}
	if s.Confirmed != nil {
		if r, err := recordOf(s.Confirmed); err == nil {
			record = r
		}
	}
	for _, u := range d.Units {
		if s.Entries[unitDir+u.Name].Kind == tree.Regular {
			out = append(out, "unit\t"+u.Name)
		}
	}
	for _, e := range record.Entries {
		f := d.find(e.Path)
		switch {
		case f != nil && f.Block:
			out = append(out, "block\t"+e.Path)
		case !essential[e.Path]:
			out = append(out, "path\t"+e.Path)
		}
		if unit, ok := strings.CutPrefix(e.Path, unitDir); ok && !strings.Contains(unit, "/") {
			out = append(out, "unit\t"+unit)
		}
	}
	return out
}

// essential are paths that are everybody's.
var essential = map[string]bool{"/etc": true, "/etc/hosts": true, "/opt": true, "/usr": true, "/var": true, "/var/lib": true, "/var/log": true, "/usr/local": true, "/usr/local/bin": true}
