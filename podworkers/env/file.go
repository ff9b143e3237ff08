package env

import (
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// FileLimit is the size of the largest file of variables that is read.
const FileLimit = 1 << 20

// fileKey returns a variable's value from a file in one of the pod's volumes. A key that is not in the file, or that
// has an empty value there, counts as missing. The error of a file that cannot be understood does not tell what is in it.
func (in Inputs) fileKey(ref *corev1.FileKeySelector) (value string, skip bool, err error) {
	if in.File == nil {
		return "", false, errors.New("files in volumes cannot be read here")
	}
	data, err := in.File(ref.VolumeName, ref.Path)
	if err != nil {
		return "", false, err
	}
	value, err = LookupFile(string(data), ref.Key)
	if err != nil {
		return "", false, fmt.Errorf("couldn't parse env file %q of volume %q: %w", ref.Path, ref.VolumeName, err)
	}
	if value == "" && (ref.Optional == nil || !*ref.Optional) {
		return "", false, fmt.Errorf("environment variable key %q not found in file %q", ref.Key, ref.Path)
	}
	return value, value == "", nil
}

// LookupFile returns the value that a file of variables gives to a key, "" for none. Each variable is NAME='value':
// what is between the quotes is the value as it stands, over several lines if need be. Blank lines and lines that begin
// with # are passed over, and so is a comment behind the closing quote. As in a shell, NAME= followed by a blank sets an
// empty value. What stands after the key's own line is not looked at.
//
// Upstream: pkg/kubelet/util/env/env_util.go ParseEnv.
func LookupFile(content, key string) (string, error) {
	rest, line := content, 0
	for rest != "" {
		var text string
		text, rest, _ = strings.Cut(rest, "\n")
		line++
		text = strings.TrimLeft(strings.TrimSuffix(text, "\r"), " \t")
		if text == "" || text[0] == '#' {
			continue
		}
		name, value, found := strings.Cut(text, "=")
		switch {
		case !found:
			return "", fmt.Errorf("line %d: missing '='", line)
		case strings.Trim(name, " \t") == "":
			return "", fmt.Errorf("line %d: empty variable name", line)
		case strings.TrimRight(name, " \t") != name:
			return "", fmt.Errorf("line %d: whitespace before '=' is not allowed", line)
		case strings.HasPrefix(value, " "), strings.HasPrefix(value, "\t"):
			if name == key {
				return "", nil
			}
			continue
		case !strings.HasPrefix(value, "'"):
			return "", fmt.Errorf("line %d: value must be enclosed in single quotes", line)
		}
		begin := line
		var quoted strings.Builder
		for value = value[1:]; ; {
			inside, after, closed := strings.Cut(value, "'")
			quoted.WriteString(inside)
			if closed {
				if after = strings.TrimLeft(after, " \t"); after != "" && after[0] != '#' {
					return "", fmt.Errorf("line %d: unexpected content after closing quote", line)
				}
				break
			}
			if rest == "" {
				return "", fmt.Errorf("line %d: unclosed single quote", begin)
			}
			quoted.WriteByte('\n')
			value, rest, _ = strings.Cut(rest, "\n")
			value = strings.TrimSuffix(value, "\r")
			line++
		}
		if name == key {
			return quoted.String(), nil
		}
	}
	return "", nil
}
