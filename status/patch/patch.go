// Package patch computes strategic merge patches between two versions of an API object.
//
// apimachinery's strategicpatch does as well, but it brings the OpenAPI libraries into the binary, which a kubelet
// that writes two kinds of objects does not need. Its application, by the apiserver, is what this one has to agree with.
package patch

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
)

// Directives that a patch holds beside an object's own fields.
const (
	directive  = "$patch"            // what to do with the object or list that it stands in
	order      = "$setElementOrder/" // and a list's name: the keys of all its elements, in order
	retainKeys = "$retainKeys"       // the only fields that an element has
)

// errScalars says that a merged list has no key. The few there are (finalizers, podCIDRs) are not a kubelet's to write.
var errScalars = errors.New("a merged list of scalars changed, which is not supported")

// Diff returns the strategic merge patch that makes after of before, nil if they are the same. Objects are merged field
// by field, and lists by the key that their patchMergeKey tag names, so that what others add meanwhile is left alone;
// other lists are replaced.
//
// Upstream: staging/src/k8s.io/apimachinery/pkg/util/strategicpatch/patch.go CreateTwoWayMergePatch.
func Diff[T any](before, after *T) ([]byte, error) {
	b, err := json.Marshal(before)
	if err != nil {
		return nil, fmt.Errorf("encode the object as it is: %w", err)
	}
	a, err := json.Marshal(after)
	if err != nil {
		return nil, fmt.Errorf("encode the object as it should be: %w", err)
	}
	changes, err := diffObjects(reflect.TypeFor[T](), b, a)
	if err != nil || len(changes) == 0 {
		return nil, err
	}
	return json.Marshal(changes)
}

// diffObjects compares encoded fields by their bytes: equal values of one type are encoded alike. A null in the result
// deletes.
func diffObjects(t reflect.Type, before, after json.RawMessage) (map[string]any, error) {
	b, a := map[string]json.RawMessage{}, map[string]json.RawMessage{}
	if err := errors.Join(json.Unmarshal(before, &b), json.Unmarshal(after, &a)); err != nil {
		return nil, fmt.Errorf("decode an object's fields: %w", err)
	}
	changes := map[string]any{}
	for name := range b {
		if _, stays := a[name]; !stays {
			changes[name] = nil
		}
	}
	for name, value := range a {
		old, had := b[name]
		switch f := fieldOf(t, name); {
		case had && bytes.Equal(old, value):
		case had && starts('{', old, value):
			sub, err := diffObjects(f.t, old, value)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			changes[name] = sub
		case had && f.merge && starts('[', old, value):
			if err := f.diffLists(changes, old, value); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
		default:
			changes[name] = value
		}
	}
	return changes, nil
}

func starts(c byte, before, after json.RawMessage) bool { return before[0] == c && after[0] == c }

// field is what a patch has to know of an object's field.
type field struct {
	name   string
	t      reflect.Type // nil when not known
	merge  bool         // a list that is merged,
	key    string       // by this field of its elements,
	retain bool         // whose other fields go when they are not mentioned
}

// fieldOf finds a struct's field by its name in JSON; the values of a map are all of one type.
func fieldOf(t reflect.Type, name string) field {
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case t == nil:
	case t.Kind() == reflect.Map:
		return field{name: name, t: t.Elem()}
	case t.Kind() == reflect.Struct:
		if f, ok := fieldsOf(t)[name]; ok {
			return f
		}
	}
	return field{name: name}
}

// structs has the fields of the structs met so far, by type: reflection takes longer than the rest.
var structs sync.Map

func fieldsOf(t reflect.Type) map[string]field {
	if known, ok := structs.Load(t); ok {
		return known.(map[string]field)
	}
	fields := map[string]field{}
	for _, f := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if _, twice := fields[name]; twice {
			continue
		}
		strategies := strings.Split(f.Tag.Get("patchStrategy"), ",")
		fields[name] = field{
			name: name, t: f.Type, key: f.Tag.Get("patchMergeKey"),
			merge: slices.Contains(strategies, "merge"), retain: slices.Contains(strategies, "retainKeys"),
		}
	}
	structs.Store(t, fields)
	return fields
}

// diffLists notes the elements that are new, changed or gone, and the order of those that are to be there.
func (f *field) diffLists(changes map[string]any, before, after json.RawMessage) error {
	b, err := f.elements(before)
	if err != nil {
		return err
	}
	a, err := f.elements(after)
	if err != nil {
		return err
	}
	if b.twice || a.twice { // as a node has addresses: two of a key cannot be merged
		replaced := []any{map[string]string{directive: "replace"}}
		for _, value := range a.values {
			replaced = append(replaced, value)
		}
		changes[f.name] = replaced
		return nil
	}
	var changed []any
	keys := []any{}
	for i, value := range a.values {
		keys = append(keys, map[string]json.RawMessage{f.key: a.keys[i]})
		old, had := b.find(a.keys[i])
		switch {
		case !had:
			changed = append(changed, value)
		case !bytes.Equal(old, value):
			sub, err := f.diffElement(old, value)
			if err != nil {
				return err
			}
			sub[f.key] = a.keys[i]
			changed = append(changed, sub)
		}
	}
	for _, key := range b.keys {
		if _, stays := a.find(key); !stays {
			changed = append(changed, map[string]any{directive: "delete", f.key: key})
		}
	}
	changes[order+f.name] = keys
	if len(changed) > 0 {
		changes[f.name] = changed
	}
	return nil
}

func (f *field) diffElement(before, after json.RawMessage) (map[string]any, error) {
	sub, err := diffObjects(f.t.Elem(), before, after)
	if err != nil || !f.retain {
		return sub, err
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(after, &fields); err != nil {
		return nil, err
	}
	sub[retainKeys] = slices.Sorted(maps.Keys(fields))
	return sub, nil
}

// elements are those of a list that has keys.
type elements struct {
	keys, values []json.RawMessage
	twice        bool // a key is there more than once
}

func (e *elements) find(key json.RawMessage) (json.RawMessage, bool) {
	i := slices.IndexFunc(e.keys, func(k json.RawMessage) bool { return bytes.Equal(k, key) })
	if i < 0 {
		return nil, false
	}
	return e.values[i], true
}

func (f *field) elements(list json.RawMessage) (*elements, error) {
	if f.key == "" {
		return nil, errScalars
	}
	e := &elements{}
	if err := json.Unmarshal(list, &e.values); err != nil {
		return nil, fmt.Errorf("decode the list: %w", err)
	}
	for _, value := range e.values {
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(value, &fields); err != nil {
			return nil, fmt.Errorf("decode an element: %w", err)
		}
		key, ok := fields[f.key]
		if !ok {
			return nil, fmt.Errorf("an element has no %s", f.key)
		}
		if _, twice := e.find(key); twice {
			e.twice = true
		}
		e.keys = append(e.keys, key)
	}
	return e, nil
}
