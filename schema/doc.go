// Package schema owns the CUE definition of cluster.yaml, its defaults and the
// version table, and turns bytes into a typed [Document] with positions.
//
// It promises that CUE alone judges values, that every fault is a diagnostic
// in the user's own coordinates, and that defaults and version rows are data.
// It is the only package that imports CUE. It refuses anything but one YAML
// document of plain values: no aliases, no custom tags, no duplicate keys.
package schema
