package artifact

import "fmt"

// Fault is why an artefact was not taken, and what to do about it. Mismatch
// says that bytes were there and are not what they must be.
type Fault struct {
	What, Help string
	Mismatch   bool
}

func (f *Fault) Error() string { return f.What }

func fault(help, format string, args ...any) error {
	return &Fault{What: fmt.Sprintf(format, args...), Help: help}
}

func mismatch(help, format string, args ...any) error {
	return &Fault{What: fmt.Sprintf(format, args...), Help: help, Mismatch: true}
}

// passing is a failure that another try may not meet.
type passing struct{ error }

func (p passing) Unwrap() error { return p.error }
