package lab

import (
	"context"
	"os"
	"strings"
	"sync"
)

// MachineStatus is what is known of one machine.
type MachineStatus struct {
	Name    string `json:"name"`
	Running bool   `json:"running"`
	Address string `json:"address"`
	SSH     bool   `json:"ssh"`             // logs in
	Systemd string `json:"systemd"`         // what systemctl is-system-running says; "" without ssh
	Error   string `json:"error,omitempty"` // why ssh does not log in
}

// Up says whether the machine is as lab up leaves it.
func (m MachineStatus) Up() bool { return m.Running && m.SSH }

// Status asks all machines at once.
func (l *Lab) Status(ctx context.Context) ([]MachineStatus, error) {
	f, err := l.Fleet()
	if err != nil {
		return nil, err
	}
	if os.Geteuid() != 0 {
		return nil, notRoot
	}
	l.resume()
	l.runner = &runner{id: l.id, getenv: l.Getenv}
	out := make([]MachineStatus, len(f.Machines))
	var all sync.WaitGroup
	for i, m := range f.Machines {
		all.Go(func() { out[i] = l.machineStatus(ctx, m) })
	}
	all.Wait()
	return out, ctx.Err()
}

func (l *Lab) machineStatus(ctx context.Context, m Machine) MachineStatus {
	s := MachineStatus{Name: m.Name, Address: m.Address(), Running: len(l.marked(bootPart(m.Name))) > 0}
	if !s.Running {
		s.Error = "it does not run"
		return s
	}
	answer, err := l.ask(ctx, m.Name, "systemctl", "is-system-running")
	s.Systemd = strings.TrimSpace(answer)
	if s.SSH = s.Systemd != ""; !s.SSH && err != nil {
		s.Error = firstLine(err)
	}
	return s
}

// BalancerRuns says whether the balancer's process is there.
func (l *Lab) BalancerRuns() bool {
	l.resume()
	return len(l.marked(balance)) > 0
}
