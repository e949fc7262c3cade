package lab

import (
	"context"
	"errors"
	"net"
	"os"
	"slices"
)

// What befalls a machine: its power and its cable. All of it is undone by up.

// Off cuts a machine's power: whatever runs there ends at once, and its network
// is gone. Its disk stays, with all that was written to it; a real one may lose
// the last seconds. It says whether the machine was on.
func (l *Lab) Off(ctx context.Context, name string) (changed bool, err error) {
	err = l.alter(ctx, name, func(*Fleet) error {
		if changed = len(l.marked(bootPart(name))) > 0 || !l.isOff(name); !changed {
			return nil
		}
		return errors.Join(writeFile(l.offMark(name), nil, 0o600), l.undoPower(ctx, name))
	})
	return changed, err
}

// undoPower undoes what a machine is besides its disk. All of it ends at once:
// the rest is what it left on this machine.
func (l *Lab) undoPower(ctx context.Context, name string) error {
	e := l.engine()
	for _, kind := range []string{cable, boot, overlay, wire} {
		if r, ok := l.journal.find(Step{Kind: kind, Of: name}); ok {
			if err := e.undo(ctx, r.Step); err != nil {
				return err
			}
		}
	}
	return nil
}

// On boots a machine again and waits until it is ready. It says whether the
// machine was off.
func (l *Lab) On(ctx context.Context, name string) (changed bool, err error) {
	err = l.alter(ctx, name, func(f *Fleet) error {
		if changed = len(l.marked(bootPart(name))) == 0; !changed {
			return nil
		}
		steps := slices.DeleteFunc(f.steps(l.site()), func(s Step) bool { return s.Of != name })
		return l.engine().make(ctx, steps)
	})
	return changed, err
}

// Cut takes a machine's cable out, and Join puts it back. The machine runs on,
// and keeps its addresses and routes. They say whether that changed anything.
func (l *Lab) Cut(ctx context.Context, name string) (changed bool, err error) {
	return l.plug(ctx, name, "down")
}

// Join undoes Cut.
func (l *Lab) Join(ctx context.Context, name string) (changed bool, err error) {
	return l.plug(ctx, name, "up")
}

func (l *Lab) plug(ctx context.Context, name, way string) (changed bool, err error) {
	err = l.alter(ctx, name, func(*Fleet) error {
		net, port := l.plugged(name)
		if !net || !port {
			return &Error{Refused, name + " is off, and has no cable", "kthwc lab on " + name}
		}
		if changed = l.isCut(name) != (way == "down"); !changed {
			return nil
		}
		return l.lines(ctx, []string{plug(name, way)})
	})
	return changed, err
}

// alter does something to one machine of a lab that is up.
func (l *Lab) alter(ctx context.Context, name string, do func(*Fleet) error) error {
	if os.Geteuid() != 0 {
		return errNotRoot
	}
	f, err := l.Fleet()
	if err != nil {
		return err
	}
	if _, err := f.Machine(name); err != nil {
		return err
	}
	if err := l.begin(ctx, false); err != nil {
		return err
	}
	defer l.end()
	if _, ok := l.holder(); !ok {
		return errNotUp
	}
	return do(f)
}

// offMark is there while a machine is off because somebody wanted it so.
func (l *Lab) offMark(name string) string { return l.path("machines", name, "off") }

func (l *Lab) isOff(name string) bool { return exists(l.offMark(name)) }

// isCut says whether a machine's cable is out.
func (l *Lab) isCut(name string) bool {
	pid, ok := l.holder()
	if !ok {
		return false
	}
	up, err := entered(pid, func() (bool, error) {
		port, err := net.InterfaceByName(portName(name))
		return err == nil && port.Flags&net.FlagUp != 0, err
	})
	return err == nil && !up
}

// A cable is in when the lab is up.
func (l *Lab) cableKind() kind {
	return kind{
		present: func(_ context.Context, s Step) bool { return !l.isCut(s.Of) },
		ensure:  func(ctx context.Context, s Step) error { return l.lines(ctx, s.With) },
	}
}
