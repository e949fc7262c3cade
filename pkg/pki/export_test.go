package pki

// PickupFields are the fields of the table of ways, as "component field".
func PickupFields() []string {
	var out []string
	for _, row := range pickups {
		out = append(out, row.component+" "+row.field)
	}
	return out
}
