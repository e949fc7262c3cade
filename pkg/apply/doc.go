// Package apply brings a rendered tree to its hosts: it observes them, plans,
// and carries the plan out.
//
// It obeys a tree and its manifest and never looks at cluster.yaml. It promises
// that observing changes nothing, that what could not be observed is unknown
// and never absent, and that a plan is a value that can be read before anything
// is done. It refuses to guess: a host that did not answer in full has no plan.
package apply
