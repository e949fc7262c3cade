//go:build tools

package main

// kubectl is built from this module too.
import _ "k8s.io/kubectl/pkg/cmd"
