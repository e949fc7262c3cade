package kube

import (
	"sync"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"
)

// quiet ends the libraries' own lines on standard error: what they have to say
// is in the errors that they return.
var quiet = sync.OnceFunc(func() { klog.SetLogger(logr.Discard()) })
