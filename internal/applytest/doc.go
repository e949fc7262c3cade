// Package applytest proves that an apply survives what happens to operators,
// networks, disks and hosts. It has tests only.
//
// The hosts are the lab's: real systemd, real sshd, no Kubernetes. What is
// applied to them is a tree made by hand that has one of every kind of change. An
// operator is a process of its own, this program again, so that its death is a
// real SIGKILL. docs/reliability.md lists which test shows what.
package applytest
