package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

var (
	controllers = []string{"controller-0", "controller-1", "controller-2"}
	workers     = []string{"worker-0", "worker-1", "worker-2"}
)

// What lab up and apply made is a cluster, down to the last predicted fact.
func boots(t *testing.T, o *operator) {
	o.settled(t)
	o.ready(t, workers...)
	o.verified(t, "--disruptive")
}

// planned is what a plan says of hosts, as other programs read it.
type planned struct {
	Hosts []struct {
		Node    string
		Unknown string
		Drift   []struct{ Do, Path string }
		Changes []struct{ Path string }
		Units   []struct{ Unit, Do string }
	}
}

// byHand are things that a person does to a host and forgets, the path or unit
// that a plan must name for each, and what must be true again afterwards.
var byHand = []struct{ node, does, named, again string }{
	{"worker-0", "echo '# by hand' >>/var/lib/kubelet/config.yaml", "/var/lib/kubelet/config.yaml", "! grep -q 'by hand' /var/lib/kubelet/config.yaml"},
	{"controller-1", "chmod 0644 /etc/kubernetes/pki/sa.key", "/etc/kubernetes/pki/sa.key", "[ $(stat -c %a /etc/kubernetes/pki/sa.key) = 600 ]"},
	{"controller-2", "systemctl stop kube-scheduler", "kube-scheduler.service", "systemctl is-active kube-scheduler"},
	{"worker-1", "rm /usr/local/bin/crictl", "/usr/local/bin/crictl", "crictl --version"},
	{"worker-2", "rm /etc/sysctl.d/*kthwc* /etc/systemd/system/kube-proxy.service", "/etc/systemd/system/kube-proxy.service", "test -s /etc/systemd/system/kube-proxy.service"},
}

// Drift is named first and apart, all of it and nothing else; apply mends it.
func drift(t *testing.T, o *operator) {
	for _, h := range byHand {
		o.on(t, h.node, h.does)
	}
	said := o.run(t, pending, "plan", "--lab", "--exit-code")
	if !strings.HasPrefix(said.stdout, "Changed by others since the last apply") {
		t.Errorf("the plan does not begin with what others changed:\n%s", said.stdout)
	}
	apart, _, _ := strings.Cut(said.stdout, "\n\n")
	for _, h := range byHand {
		if !strings.Contains(apart, h.named) || !strings.Contains(apart, h.node) {
			t.Errorf("%s on %s is not among what others changed:\n%s", h.named, h.node, said.stdout)
		}
	}
	var plan planned
	o.run(t, done, "plan", "--lab", "--format", "json").parse(t, &plan)
	for _, h := range plan.Hosts {
		mine := slices.ContainsFunc(byHand, func(b struct{ node, does, named, again string }) bool { return b.node == h.Node })
		if mine != (len(h.Drift) > 0) {
			t.Errorf("%s has the drift %v", h.Node, h.Drift)
		}
	}
	const image = "registry.k8s.io/coredns/coredns:"
	o.on(t, "worker-2", "ctr -n k8s.io images rm $(ctr -n k8s.io images ls -q | grep ^"+image+")")
	o.apply(t, done)
	for _, h := range byHand {
		o.on(t, h.node, h.again)
	}
	for _, w := range workers { // pods or not, the kubelet removes no image of ours
		o.on(t, w, "crictl inspecti $(ctr -n k8s.io images ls -q | grep ^"+image+`) | grep '"pinned": true'`)
	}
	o.ready(t, workers...)
}

// A change of flags and of kubelets' files rolls through; the API answers all the
// time, and a node that somebody else has cordoned stays so.
func rolls(t *testing.T, o *operator) {
	o.kubectl(t, "cordon", "worker-2")
	before := o.kubectl(t, "get", "pods", "-A", "-o", "name")
	o.kept = wishes{spec: "  configPatches:\n    kubelet:\n      maxPods: 100\n", flags: []arg{{"kube-apiserver", "event-ttl", "2h"}}}
	o.write(t, wishes{})
	p := o.probe(t)
	said := o.apply(t, done)
	p.end(t)
	for _, w := range workers {
		said.says(t, w+` +drain +ok`, w+` +node Ready +ok`)
	}
	for _, c := range controllers {
		said.says(t, c+` +kube-apiserver\.service +ok`)
		o.on(t, c, "pgrep -af '^/usr/local/bin/kube-apiserver .*--event-ttl=2h'")
	}
	eventually(t, time.Minute, func() error { // the kubelet says its capacity when it says its status
		if now := o.tryKubectl(t, "get", "node", "worker-2", "-o", "jsonpath={.spec.unschedulable}{.status.capacity.pods}"); now.stdout != "true100" {
			return fmt.Errorf("worker-2, which was cordoned before, is now %q %s", now.stdout, now.stderr)
		}
		return nil
	})
	o.kubectl(t, "uncordon", "worker-2")
	o.ready(t, workers...)
	if after := o.kubectl(t, "get", "pods", "-A", "-o", "name"); after == before {
		t.Errorf("no pod was moved: %s", after)
	}
}

// deaths are the lines after which the operator's program is killed, and how long
// after.
var deaths = []struct {
	moment, line string
	change       wishes
	after        time.Duration
	interrupted  bool // the host is in the middle of a generation
}{
	{"while the generation is on its way", `^Plan: `, scheduler(3), 700 * time.Millisecond, false},
	{"while files are put in their places", `^controller-0 +stage +ok`, scheduler(4), 100 * time.Millisecond, true},
	{"while a host is confirmed", `^controller-1 +kube-scheduler\.service +ok`, scheduler(5), 30 * time.Millisecond, false},
	{"between two hosts", `^controller-0 +confirm +ok`, scheduler(6), 0, false},
	{"while a unit restarts", `^controller-1 +install +ok`, apiserver("audit-log-maxage", "31"), 6 * time.Second, true},
}

// The operator's program is killed at some moment of a rolling change: status says
// where it stands, and the next apply completes it. The API answers all the time.
func killed(t *testing.T, o *operator) {
	p := o.probe(t)
	for _, d := range deaths {
		o.write(t, d.change)
		r := o.begin(t, "apply", "--lab", "--auto-approve")
		r.until(t, d.line)
		time.Sleep(d.after)
		r.kill(t)
		o.resumed(t, d.moment, d.interrupted)
	}
	o.kept.flags = append(o.kept.flags, deaths[len(deaths)-1].change.flags...) // another rolling change would prove nothing
	p.end(t)
}

// resumed: what was killed is said and completed.
func (o *operator) resumed(t *testing.T, moment string, interrupted bool) {
	t.Helper()
	standing := o.try(t, "status", "--lab")
	t.Logf("killed %s: status ends with %d and says\n%s", moment, standing.code, standing.stdout)
	if interrupted {
		standing.is(t, partial)
		standing.says(t, `interrupted: generation \d+ is (staged|installing|installed)`)
		o.run(t, pending, "plan", "--lab", "--exit-code").says(t, `An earlier apply was interrupted; what it left is undone first:\n  controller-`)
	}
	o.apply(t, done)
	o.settled(t)
}

// A flag that works and is not wanted is taken back by rollback; one with which
// the API server does not start is taken back by apply itself.
func rollback(t *testing.T, o *operator) {
	p := o.probe(t)
	before := o.on(t, "controller-2", "cat /etc/systemd/system/kube-scheduler.service")
	o.write(t, scheduler(9))
	o.apply(t, done).says(t, `kthwc rollback \d+ undoes it`)
	o.run(t, done, "rollback", "--lab", "--auto-approve").says(t, "done: 3 hosts are as they were before")
	if after := o.on(t, "controller-2", "cat /etc/systemd/system/kube-scheduler.service"); after != before {
		t.Errorf("rollback left\n%s", after)
	}
	o.run(t, pending, "plan", "--lab", "--exit-code") // cluster.yaml still wants it
	o.write(t, wishes{})
	o.settled(t)

	o.write(t, apiserver("audit-log-maxbackup", "many"))
	r := o.begin(t, "apply", "--lab", "--auto-approve")
	r.until(t, `^controller-0 +install +ok`)
	o.on(t, "controller-0", "systemctl kill --signal=KILL kube-controller-manager") // as when it loses its lease: it ends again and again until there is an API
	a := r.wait()
	a.is(t, undone)
	a.says(t, `kube-apiserver\.service on controller-0`, `audit-log-maxbackup`, `undone: controller-0\n`, `not begun: controller-\{1\.\.2\}\n`)
	o.run(t, done, "status", "--lab")
	o.write(t, wishes{})
	o.settled(t)
	p.end(t)
}

// A controller without power: the cluster serves, the plan says what it cannot
// know, what can be done is done, and etcd is left alone.
func off(t *testing.T, o *operator) {
	o.run(t, done, "lab", "off", "controller-2")
	o.answers(t) // the balancer needs two checks to see it
	p := o.probe(t)
	said := o.run(t, refused, "plan", "--lab")
	if !strings.HasPrefix(said.stdout, "Nothing is known, and nothing planned:\n  controller-2: ") {
		t.Errorf("the plan does not begin with what it cannot know:\n%s", said.stdout)
	}
	o.run(t, partial, "status", "--lab").says(t, `controller-2 +\? +\? +unknown: `)
	o.write(t, scheduler(4))
	o.apply(t, refused)
	o.apply(t, done, "--allow-partial").says(t, `confirmed: controller-\{0\.\.1\}\n`)
	members := "systemctl show -p InvocationID --value etcd"
	before := o.on(t, "controller-0", members) + o.on(t, "controller-1", members)
	o.write(t, wishes{flags: []arg{{"etcd", "snapshot-count", "20000"}}})
	o.apply(t, 1, "--allow-partial").says(t, `etcd\.service is not touched: controller-2 is not connected`, "nothing that runs was touched")
	if after := o.on(t, "controller-0", members) + o.on(t, "controller-1", members); after != before {
		t.Error("a member of etcd was restarted while another was down")
	}
	if said := o.try(t, "status", "--lab"); strings.Contains(said.stdout, "interrupted") {
		t.Errorf("what was refused was left half done:\n%s", said.stdout)
	}
	p.end(t)
	o.run(t, done, "lab", "on", "controller-2")
	o.serves(t, "controller-2")
	eventually(t, time.Minute, func() error { // what it missed is begun again
		if a := o.try(t, "status", "--lab"); a.code != done {
			return fmt.Errorf("%s%s", a.stdout, a.stderr)
		}
		return nil
	})
	o.write(t, wishes{})
	o.apply(t, done)
}

// answers waits until the API does, three times in a row: the balancer's turns.
func (o *operator) answers(t *testing.T) {
	t.Helper()
	eventually(t, time.Minute, func() error {
		for range controllers {
			if a := o.tryKubectl(t, "get", "--raw", "/readyz"); a.code != done {
				return fmt.Errorf("%s: %s", a.what, a.stderr)
			}
		}
		return nil
	})
}

// serves waits until a controller's own API server is ready, as the balancer asks. A
// controller manager that asked earlier was refused (its roles were not read yet),
// and has ended: systemd starts it again.
func (o *operator) serves(t *testing.T, node string) {
	t.Helper()
	const ask = `exec 3<>/dev/tcp/127.0.0.1/80; printf 'GET /healthz HTTP/1.0\r\nHost: kubernetes.default.svc.cluster.local\r\n\r\n' >&3; grep -m1 ' 200 ' <&3`
	eventually(t, time.Minute, func() error {
		if a := o.try(t, "lab", "exec", node, "--", "bash", "-ec", ask); a.code != done {
			return fmt.Errorf("%s: %s%s", node, a.stdout, a.stderr)
		}
		return nil
	})
}

// A host loses power while apply waits at a gate: at its next boot it undoes what
// was not confirmed, before anything starts.
func rebooted(t *testing.T, o *operator) {
	o.write(t, wishes{spec: `  units:
    - name: slow.service
      on: [worker-1]
      content: |
        [Unit]
        Description=Takes its time
        [Service]
        Type=oneshot
        RemainAfterExit=yes
        ExecStart=/bin/sleep 60
        [Install]
        WantedBy=multi-user.target
`})
	r := o.begin(t, "apply", "--lab", "--auto-approve", "--timeout", "20s")
	r.until(t, `^worker-1 +install +ok`)
	o.run(t, done, "lab", "off", "worker-1")
	a := r.wait()
	a.is(t, partial)
	t.Logf("the operator is told %.0f s after it began, %s", a.took.Seconds(), a.stdout[strings.LastIndex(a.stdout, "worker-1"):])
	a.says(t, "worker-1: it undoes everything by itself")
	o.run(t, done, "lab", "on", "worker-1")
	o.on(t, "worker-1", "! test -e /etc/systemd/system/slow.service && ! test -e /var/lib/kthwc/unconfirmed && systemctl is-enabled kthwc-recover.service")
	o.write(t, wishes{})
	o.ready(t, workers...)
}

// A change that cuts the host off: nobody can reach it, and it heals itself.
func cutOff(t *testing.T, o *operator) {
	o.write(t, wishes{spec: `  units:
    - name: cut.service
      on: [worker-1]
      content: |
        [Unit]
        Description=Nothing leaves this host any more
        [Service]
        Type=oneshot
        RemainAfterExit=yes
        ExecStart=/bin/sh -c 'ip rule add pref 5 unreachable'
        ExecStop=/bin/sh -c 'ip rule del pref 5'
        [Install]
        WantedBy=multi-user.target
`})
	start := time.Now()
	o.apply(t, partial, "--timeout", "5s").says(t, "worker-1: it undoes everything by itself within 1m5s")
	eventually(t, 2*time.Minute, func() error {
		a := o.try(t, "lab", "exec", "worker-1", "--", "sh", "-ec", "! systemctl is-active kthwc-guard.timer kthwc-guard.service && ! test -e /etc/systemd/system/cut.service")
		if a.code != done {
			return fmt.Errorf("worker-1 does not answer: %s", a.stderr)
		}
		return nil
	})
	t.Logf("healed %.0f s after the apply began", time.Since(start).Seconds())
	o.write(t, wishes{})
	o.ready(t, workers...)
}

// A worker comes, and goes.
func worker(t *testing.T, o *operator) {
	o.write(t, wishes{nodes: `    - name: worker-3
      roles: [worker]
      address: 10.240.0.23
      podCIDR: 10.200.3.0/24
`})
	o.run(t, done, "lab", "up")
	o.run(t, done, "pki", "issue")
	r := o.begin(t, "apply", "--lab", "--auto-approve")
	r.until(t, `^Plan: `)
	time.Sleep(2 * time.Second) // programs are on their way
	r.kill(t)
	o.apply(t, done)
	o.ready(t, append(slices.Clone(workers), "worker-3")...)
	o.settled(t)

	o.kubectl(t, "drain", "worker-3", "--ignore-daemonsets", "--delete-emptydir-data")
	o.run(t, done, "reset", "--lab", "--on", "worker-3", "--confirm", o.cluster)
	o.on(t, "worker-3", "! test -e /usr/local/bin/kubelet && ! test -e /opt/kthwc && ! grep -q kthwc /etc/hosts && ! ls /var/lib/kubelet | grep . && ! ip link show cnio0")
	o.write(t, wishes{})
	o.run(t, invalid, "lab", "up").says(t, "worker-3 is a machine of this lab and is not in cluster.yaml", "kthwc lab off worker-3")
	o.run(t, done, "plan", "--lab").says(t, "the cluster has the node worker-3, and cluster.yaml has not")
	o.kubectl(t, "delete", "node", "worker-3")
	o.run(t, done, "lab", "off", "worker-3")
	o.run(t, done, "lab", "up")
	o.apply(t, done)
	o.run(t, done, "pki", "renew")
	o.apply(t, done)
	o.ready(t, workers...)
}
