package kubetest

import (
	"os/exec"
	"syscall"
)

// dieWithUs ends a program when this one ends, however it does.
func dieWithUs(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
