package kube

import "slices"

// Object is an object of the API as JSON has it: maps, lists, strings, bools,
// int64 and float64. Its methods read; nothing that is missing is an error.
type Object map[string]any

// Ref names one object. Namespace is empty for what belongs to none.
type Ref struct{ APIVersion, Kind, Namespace, Name string }

// String is the way in which messages name an object: "Deployment kube-system/coredns".
func (r Ref) String() string {
	if r.Namespace == "" {
		return r.Kind + " " + r.Name
	}
	return r.Kind + " " + r.Namespace + "/" + r.Name
}

// Ref is the object's own name.
func (o Object) Ref() Ref {
	return Ref{APIVersion: o.Str("apiVersion"), Kind: o.Str("kind"), Namespace: o.Str("metadata", "namespace"), Name: o.Str("metadata", "name")}
}

// At is what is at a path of keys, or nil.
func (o Object) At(path ...string) any {
	var at any = map[string]any(o)
	for _, key := range path {
		m, ok := at.(map[string]any)
		if !ok {
			return nil
		}
		at = m[key]
	}
	return at
}

// Str is the text at a path, or empty.
func (o Object) Str(path ...string) string {
	s, _ := o.At(path...).(string)
	return s
}

// Int is the whole number at a path, or 0.
func (o Object) Int(path ...string) int64 {
	n, _ := o.At(path...).(int64)
	return n
}

// Bool is the truth at a path, or false.
func (o Object) Bool(path ...string) bool {
	b, _ := o.At(path...).(bool)
	return b
}

// List has the objects of the list at a path; what is no object is left out.
func (o Object) List(path ...string) []Object {
	items, _ := o.At(path...).([]any)
	list := make([]Object, 0, len(items))
	for _, item := range items {
		if m, ok := item.(map[string]any); ok {
			list = append(list, m)
		}
	}
	return list
}

// Strs has the texts of the list at a path.
func (o Object) Strs(path ...string) []string {
	items, _ := o.At(path...).([]any)
	list := make([]string, 0, len(items))
	for _, item := range items {
		if s, ok := item.(string); ok {
			list = append(list, s)
		}
	}
	return list
}

// Map has the texts of the map at a path, such as labels.
func (o Object) Map(path ...string) map[string]string {
	m, _ := o.At(path...).(map[string]any)
	texts := make(map[string]string, len(m))
	for key, value := range m {
		if s, ok := value.(string); ok {
			texts[key] = s
		}
	}
	return texts
}

// UID is what tells an object from another of the same name.
func (o Object) UID() string { return o.Str("metadata", "uid") }

// Leaving is whether the object is being deleted.
func (o Object) Leaving() bool { return o.Str("metadata", "deletionTimestamp") != "" }

// Condition is the status, reason and message of a condition in the object's
// status; all are empty where there is none of that type.
func (o Object) Condition(kind string) (status, reason, message string) {
	conditions := o.List("status", "conditions")
	i := slices.IndexFunc(conditions, func(c Object) bool { return c.Str("type") == kind })
	if i < 0 {
		return "", "", ""
	}
	return conditions[i].Str("status"), conditions[i].Str("reason"), conditions[i].Str("message")
}
