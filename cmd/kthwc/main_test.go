package main

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"kthwc": func() {
		os.Exit(run(context.Background(), os.Args[1:], stdio{os.Stdin, os.Stdout, os.Stderr}, os.Getenv))
	}})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Cmds:                map[string]func(*testscript.TestScript, bool, []string){"release": releaseCommand},
		Setup: func(e *testscript.Env) error {
			text, err := os.ReadFile("../../examples/cluster.yaml")
			if err != nil {
				return err
			}
			return os.WriteFile(e.WorkDir+"/cluster.yaml", text, 0o644)
		},
	})
}

// The page of commands says what the commands are, whatever ran first.
func TestCommandsPageIsCurrent(t *testing.T) {
	got, err := os.ReadFile("../../docs/commands.md")
	if err != nil {
		t.Fatal(err)
	}
	var out, errs strings.Builder
	dir := t.TempDir()
	if code := run(t.Context(), []string{"man", "--format", "markdown", "-o", dir}, stdio{nil, &out, &errs}, func(string) string { return "" }); code != 0 {
		t.Fatal(errs.String())
	}
	want, err := os.ReadFile(dir + "/commands.md")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("docs/commands.md is stale (-want +got); `make docs` writes it:\n%s", diff)
	}
}
