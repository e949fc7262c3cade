package apply

// EventRecord is an event as JSON has it, one object a line. Version 1 only
// gains fields.
type EventRecord struct {
	Version     int     `json:"v"`
	Time        string  `json:"ts"`                    // RFC 3339, UTC, of the operator's machine
	Type        string  `json:"type"`                  // begin, wait, done, failed, undone, or summary
	Node        string  `json:"node,omitempty"`        // none: the cluster
	Step        string  `json:"step,omitempty"`        // "install", "confirm", a unit, and so on
	Detail      string  `json:"detail,omitempty"`      // what is waited for, or what went wrong
	Seconds     float64 `json:"seconds,omitempty"`     // that the step took
	Transaction int     `json:"transaction,omitempty"` // of a summary
	Exit        *int    `json:"exit,omitempty"`        // of a summary: the exit code
}
