package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const readme = "../../README.md"

// A step is a command of a transcript, and what it prints.
type step struct {
	command string
	want    []string
}

// transcript is the first console block of a page.
func transcript(page string) []step {
	_, block, _ := strings.Cut(page, "```console\n")
	block, _, _ = strings.Cut(block, "```")
	var steps []step
	for line := range strings.Lines(block) {
		line = strings.TrimSuffix(line, "\n")
		if command, ok := strings.CutPrefix(line, "$ "); ok {
			steps = append(steps, step{command: command})
		} else if last := len(steps) - 1; last >= 0 {
			steps[last].want = append(steps[last].want, line)
		}
	}
	return steps
}

// matches compares line by line; "..." stands for any number of lines.
func matches(want, got []string) bool {
	if len(want) == 0 {
		return len(got) == 0
	}
	if want[0] != "..." {
		return len(got) > 0 && want[0] == got[0] && matches(want[1:], got[1:])
	}
	for i := range len(got) + 1 {
		if matches(want[1:], got[i:]) {
			return true
		}
	}
	return false
}

// The transcript of the first screen works when it is pasted, and prints what
// it says it prints.
func TestReadmeTranscript(t *testing.T) {
	page, err := os.ReadFile(readme)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "bin/kthwc"), "./cmd/kthwc")
	build.Dir = "../.."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := os.CopyFS(filepath.Join(dir, "examples"), os.DirFS("../../examples")); err != nil {
		t.Fatal(err)
	}
	steps := transcript(string(page))
	if len(steps) < 5 || steps[0].command != "go build -o bin/kthwc ./cmd/kthwc" {
		t.Fatalf("the transcript does not begin with the build: %q", steps)
	}
	for _, s := range steps[1:] {
		cmd := exec.Command("sh", "-c", s.command)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "KTHWC_FILE=")
		out, err := cmd.CombinedOutput()
		if cmd.ProcessState == nil {
			t.Fatal(err)
		}
		got := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
		if len(out) == 0 {
			got = nil
		}
		if !matches(s.want, got) {
			t.Errorf("$ %s\nprints\n%s\nand README.md says\n%s", s.command, out, strings.Join(s.want, "\n"))
		}
	}
}

func TestTranscriptsMatchLineByLine(t *testing.T) {
	for _, c := range []struct {
		want, got string
		ok        bool
	}{
		{"a b", "a b", true}, {"a", "a b", false}, {"a b", "a", false}, {"a ...", "a b c", true}, {"... c", "a b c", true},
		{"a ... d", "a b c", false}, {"...", "", true}, {"", "a", false},
	} {
		if got := matches(strings.Fields(c.want), strings.Fields(c.got)); got != c.ok {
			t.Errorf("%q and %q: %v", c.want, c.got, got)
		}
	}
}

// The two commands that set a fresh machine up stand before everything else.
func TestReadmeBeginsWithTheTwoCommands(t *testing.T) {
	page, err := os.ReadFile(readme)
	if err != nil {
		t.Fatal(err)
	}
	_, block, _ := strings.Cut(string(page), "```")
	block, _, _ = strings.Cut(block, "```")
	var commands []string
	for line := range strings.Lines(block) {
		if command, _, _ := strings.Cut(line, "#"); strings.Contains(command, " ") {
			commands = append(commands, strings.TrimSpace(command))
		}
	}
	if len(commands) != 2 || commands[1] != "make test" {
		t.Fatalf("%q", commands)
	}
	out := filepath.Join(t.TempDir(), "rendered")
	cmd := exec.Command("sh", "-c", strings.Replace(commands[0], "-o rendered", "-o "+out, 1))
	cmd.Dir = "../.."
	if text, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(text), "files for 6 nodes") {
		t.Errorf("%s: %v\n%s", commands[0], err, text)
	}
}

// README names every command, and no other.
func TestReadmeListsTheCommands(t *testing.T) {
	page, err := os.ReadFile(readme)
	if err != nil {
		t.Fatal(err)
	}
	_, list, _ := strings.Cut(string(page), "## Commands\n\n")
	list, _, _ = strings.Cut(list, "\n")
	var out, errs strings.Builder
	run(t.Context(), []string{"--help"}, stdio{nil, &out, &errs}, func(string) string { return "" })
	_, help, _ := strings.Cut(out.String(), "Available Commands:\n")
	help, _, _ = strings.Cut(help, "\n\n")
	known := map[string]bool{}
	for line := range strings.Lines(help) {
		name := strings.Fields(line)[0]
		known[name] = true
		if name != "help" && !strings.Contains(list, "`"+name+"`") && !strings.Contains(list, "`"+name+" ") {
			t.Errorf("README.md does not list %s", name)
		}
	}
	if len(known) < 10 {
		t.Fatalf("help lists %v", known)
	}
	for i, name := range strings.Split(list, "`") {
		if i%2 == 1 && !known[strings.Fields(name)[0]] {
			t.Errorf("README.md lists %s, which is no command", name)
		}
	}
}
