// Package verify asks a live cluster whether it is what the model says.
//
// Every fact that was computed before a machine was touched is compared with
// what machines, etcd and the API say: IDs, addresses, ranges, routes,
// certificates, units, files, versions. Then workloads run: the tutorial's
// smoke test and what it leaves out. It promises that a failure is filed under
// the layer that is broken and not under the one that noticed, that the first
// broken layer is named with its likely cause and what to do, that what a
// profile cannot do is told apart from what does not work, and that nothing of
// a run stays in the cluster. It refuses to repair anything, and to stop
// anything unless it was told to.
package verify
