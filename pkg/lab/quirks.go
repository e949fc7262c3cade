package lab

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"strings"
)

// quirk is something in which the lab's machines differ from others, and the
// configuration that goes with it.
type quirk struct {
	why     string
	applies func(facts) bool
	kind    string // of a configuration file: its own, or one that overlay.jsonnet gives it
	since   int    // Kubernetes 1.N; 0: always
	data    any    // laid over the file
}

func always(facts) bool { return true }

func oldCgroups(f facts) bool { return f.cgroup == 1 }

func noResource(f facts) bool { return f.capabilities&(1<<capSysResource) == 0 }

// quirks are all of them; the rows that apply make the overlay.
var quirks = []quirk{
	{"The machines have no systemd-resolved.", always, "KubeletConfiguration", 0,
		map[string]any{"resolvConf": "/etc/resolv.conf"}},
	{"The machines share this one's disk with all else that is on it: which part of it is free says nothing of them.", always, "KubeletConfiguration", 0,
		map[string]any{
			"evictionHard":                map[string]any{"memory.available": "100Mi", "nodefs.available": "512Mi", "imagefs.available": "512Mi"},
			"imageGCHighThresholdPercent": 100, "imageGCLowThresholdPercent": 99,
		}},
	{"In a network namespace nobody may set the limits of conntrack.", always, "KubeProxyConfiguration", 0,
		map[string]any{"conntrack": map[string]any{"maxPerCore": 0, "min": 0}}},
	{"This machine has cgroups of version 1, which the kubelet refuses unless told otherwise.", oldCgroups, "KubeletConfiguration", 31,
		map[string]any{"failCgroupV1": false}},
	{"With version 1, systemd in the machines has no controllers to hand out.", oldCgroups, "KubeletConfiguration", 0,
		map[string]any{"cgroupDriver": "cgroupfs"}},
	{"The kubelet and the runtime must agree on who makes cgroups.", oldCgroups, "runc", 0,
		map[string]any{"SystemdCgroup": false}},
	{"This machine may not lower oom_score_adj (no CAP_SYS_RESOURCE).", noResource, "containerd", 0,
		map[string]any{"restrict_oom_score_adj": true}},
}

//go:embed overlay.jsonnet
var overlayText string

// overlayFor is the overlay of a machine: jsonnet that lays the quirks that apply over
// the rendered files.
func overlayFor(f facts) (string, error) {
	var rows []string
	for _, q := range quirks {
		if !q.applies(f) {
			continue
		}
		data, err := json.Marshal(q.data)
		if err != nil {
			return "", err
		}
		rows = append(rows, fmt.Sprintf("  // %s\n  { kind: '%s', since: %d, data: %s },\n", q.why, q.kind, q.since, data))
	}
	return strings.Replace(overlayText, "  // QUIRKS\n", strings.Join(rows, ""), 1), nil
}

// Overlay is where up writes the overlay that goes with this machine.
func (l *Lab) Overlay() string { return l.path("overlay.jsonnet") }

func (l *Lab) writeQuirks(f facts) error {
	text, err := overlayFor(f)
	if err != nil {
		return err
	}
	return writeFile(l.Overlay(), []byte(text), 0o644)
}
