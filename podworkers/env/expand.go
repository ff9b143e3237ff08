// Package env computes a container's environment from the pod and from what the pod refers to. It reads nothing itself:
// functions of its caller do.
package env

import "strings"

// Expand replaces $(NAME) by what the mapping gives; $$ stands for $. A reference that is not closed, or that the
// mapping does not know, stays as it is.
//
// Upstream: third_party/forked/golang/expansion/expand.go Expand.
func Expand(s string, mapping func(string) (string, bool)) string {
	var out strings.Builder
	for {
		i := strings.IndexByte(s, '$')
		if i < 0 || i+1 == len(s) {
			out.WriteString(s)
			return out.String()
		}
		out.WriteString(s[:i])
		s = s[i+1:]
		switch s[0] {
		case '$':
			out.WriteByte('$')
			s = s[1:]
		case '(':
			end := strings.IndexByte(s, ')')
			if end < 0 {
				out.WriteString("$(")
				s = s[1:]
				continue
			}
			if value, ok := mapping(s[1:end]); ok {
				out.WriteString(value)
			} else {
				out.WriteString("$" + s[:end+1])
			}
			s = s[end+1:]
		default:
			out.WriteByte('$')
			out.WriteByte(s[0])
			s = s[1:]
		}
	}
}

// ExpandAll expands each word of a command by a set of variables.
func ExpandAll(words []string, vars map[string]string) (expanded []string) {
	for _, word := range words {
		expanded = append(expanded, Expand(word, Mapping(vars)))
	}
	return expanded
}

// Mapping returns the lookup of a set of variables.
func Mapping(vars map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		value, ok := vars[name]
		return value, ok
	}
}
