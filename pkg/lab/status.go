package lab

import (
	"context"
	"iter"
	"net/netip"
	"os"
	"strings"
	"sync"
)

// MachineStatus is what is known of one machine.
type MachineStatus struct {
	Name    string `json:"name"`
	Running bool   `json:"running"`
	Off     bool   `json:"off,omitempty"` // since somebody cut its power
	Cut     bool   `json:"cut,omitempty"` // its cable is out
	Address string `json:"address"`
	SSH     bool   `json:"ssh"`             // logs in
	Systemd string `json:"systemd"`         // what systemctl is-system-running says; "" without ssh
	Error   string `json:"error,omitempty"` // why ssh does not log in
}

// Up says whether the machine is as lab up leaves it.
func (m MachineStatus) Up() bool { return m.Running && m.SSH && !m.Cut }

// PartStatus is what is known of a part that is no machine.
type PartStatus struct {
	Running bool   `json:"running"`
	Address string `json:"address"` // where it is reached; "" where it does not run and that is not known
}

// Status is what is known of a lab.
type Status struct {
	Machines []MachineStatus `json:"machines"`
	Balancer *PartStatus     `json:"balancer,omitempty"`
	Resolver PartStatus      `json:"resolver"`
	Forward  PartStatus      `json:"forward"` // from this machine's loopback to the API
}

// Parts are those that are no machines, by their names.
func (s *Status) Parts() iter.Seq2[string, PartStatus] {
	return func(yield func(string, PartStatus) bool) {
		if s.Balancer != nil && !yield(balance, *s.Balancer) {
			return
		}
		_ = yield(resolve, s.Resolver) && yield(forward, s.Forward)
	}
}

// Down counts what is not as lab up leaves it.
func (s *Status) Down() int {
	count := 0
	for _, m := range s.Machines {
		if !m.Up() {
			count++
		}
	}
	for _, p := range s.Parts() {
		if !p.Running {
			count++
		}
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
		s.Balancer = &PartStatus{len(l.marked(balance)) > 0, netip.AddrPortFrom(f.Balancer.Address, uint16(f.Balancer.Port)).String()}
	}
	s.Resolver, s.Forward = l.servantStatus(resolve), l.servantStatus(forward)
	var all sync.WaitGroup
	for i, m := range f.Machines {
		all.Go(func() { s.Machines[i] = l.machineStatus(ctx, m) })
	}
	all.Wait()
	return s, ctx.Err()
}

func (l *Lab) servantStatus(part string) PartStatus {
	address, ok := l.serving(part)
	return PartStatus{ok, address}
}

func (l *Lab) machineStatus(ctx context.Context, m Machine) MachineStatus {
	s := MachineStatus{Name: m.Name, Address: m.Address(), Running: len(l.marked(bootPart(m.Name))) > 0, Off: l.isOff(m.Name)}
	s.Cut = s.Running && l.isCut(m.Name)
	switch {
	case s.Off:
		s.Error = "its power is off: kthwc lab on " + m.Name
		return s
	case !s.Running:
		s.Error = "it does not run"
		return s
	case s.Cut:
		s.Error = "its cable is out: kthwc lab join " + m.Name
		return s
	}
	answer, err := l.ask(ctx, m.Name, "systemctl", "is-system-running")
	s.Systemd = strings.TrimSpace(answer)
	if s.SSH = s.Systemd != ""; !s.SSH && err != nil {
		s.Error = firstLine(err)
	}
	return s
}
