// Package pki knows what must be issued, issues it, keeps it, and hands it out
// by name.
//
// [MakePlan] compares what a compiled cluster wants with the public inventory
// of what was issued; [Issue] carries a plan out; a [Store] keeps the material
// in generations, its keys encrypted to age recipients if there are any. It
// promises that nothing is issued again without a reason, that nothing is ever
// overwritten, and that a crash leaves either a whole new generation or none.
// It is the only package that imports cfssl and age. It refuses stores with
// open keys that others can read, recipients that somebody else wrote, and
// material that is truncated, changed or from another cluster: such a file is
// named and not used.
package pki
