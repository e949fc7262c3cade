package lab

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// entered runs f in the network of a process and gives what it made there: a
// socket stays in the network that it was made in.
func entered[T any](pid int, f func() (T, error)) (out T, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		out, err = visiting(pid, f)
	}()
	<-done
	return out, err
}

// visiting runs f on a thread of its own in another network. A thread that
// cannot come back stays locked and ends with its goroutine, so that no other
// goroutine is ever there.
func visiting[T any](pid int, f func() (T, error)) (out T, err error) {
	there, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return out, errNotUp
	}
	defer there.Close()
	runtime.LockOSThread()
	here, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return out, err
	}
	defer here.Close()
	if err = unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err == nil {
		out, err = f()
	}
	if unix.Setns(int(here.Fd()), unix.CLONE_NEWNET) == nil {
		runtime.UnlockOSThread()
	}
	return out, err
}
