// Package compile resolves a valid document into the complete, cross-checked
// model of the cluster.
//
// It promises that [Compile] is a pure function of the document and the
// committed facts, that every value of the model knows the fields it came
// from, and that a model without errors satisfies every compile-time
// invariant (each with its own code in pkg/diag). It refuses to read files,
// clocks, the network or the environment, and to hold secret bytes.
package compile
