package lab

import (
	"context"
	"net/netip"
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

// BalancerStatus is what is known of the balancer.
type BalancerStatus struct {
	Running bool   `json:"running"`
	Address string `json:"address"`
}

// Status is what is known of a lab.
type Status struct {
	Machines []MachineStatus `json:"machines"`
	Balancer *BalancerStatus `json:"balancer,omitempty"`
}

// Down counts what is not as lab up leaves it.
func (s *Status) Down() int {
	count := 0
	for _, m := range s.Machines {
		if !m.Up() {
			count++
		}
	}
	if s.Balancer != nil && !s.Balancer.Running {
		count++
	}
	return count
}

// Status asks all machines at once.
func (l *Lab) Status(ctx context.Context) (*Status, error) {
	f, err := l.Fleet()
	if err != nil {
		return nil, err
	}
	if os.Geteuid() != 0 {
		return nil, errNotRoot
	}
	l.runner = &runner{id: l.id, getenv: l.Getenv}
	s := &Status{Machines: make([]MachineStatus, len(f.Machines))}
	if f.Balancer != nil {
		s.Balancer = &BalancerStatus{len(l.marked(balance)) > 0, netip.AddrPortFrom(f.Balancer.Address, uint16(f.Balancer.Port)).String()}
	}
	var all sync.WaitGroup
	for i, m := range f.Machines {
		all.Go(func() { s.Machines[i] = l.machineStatus(ctx, m) })
	}
	all.Wait()
	return s, ctx.Err()
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
