package env

import (
	"errors"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestLookupFile(t *testing.T) {
	const file = "# comment\n\n  \tA='1'\nB='two\nlines' # and this\nC= 'no'\nD=''\r\nE='it''s'\n"
	for _, tt := range []struct{ content, key, want, wantErr string }{
		{file, "A", "1", ""}, {file, "B", "two\nlines", ""}, {file, "C", "", ""}, {file, "D", "", ""},
		{file, "E", "", "line 8: unexpected content after closing quote"}, {file, "F", "", "line 8"}, {"", "A", "", ""},
		{"A='$(B) \\n'", "A", `$(B) \n`, ""}, {"A='1'\nbad", "A", "1", ""}, {"A='1'\nbad", "B", "", "line 2: missing '='"},
		{"='1'", "A", "", "empty variable name"}, {"A ='1'", "A", "", "whitespace before '='"}, {"A=1", "A", "", "single quotes"},
		{`A="1"`, "A", "", "single quotes"}, {"x='\nA='1'", "A", "", "unexpected content"}, {"B='1\n2", "A", "", "line 1: unclosed single quote"},
		{"A='1' #'", "A", "1", ""}, {"export A='1'", "A", "", ""}, {"A='first'\nA='second'", "A", "first", ""},
	} {
		got, err := LookupFile(tt.content, tt.key)
		if got != tt.want || (err == nil) != (tt.wantErr == "") || err != nil && !strings.Contains(err.Error(), tt.wantErr) {
			t.Errorf("LookupFile(%q, %q) = %q, %v; want %q, %q", tt.content, tt.key, got, err, tt.want, tt.wantErr)
		}
	}
}

func TestFileKey(t *testing.T) {
	in := Inputs{Pod: &corev1.Pod{}, File: func(volume, path string) ([]byte, error) {
		if volume != "v" || path != "p" {
			return nil, errors.New("no such file")
		}
		return []byte("A='1'\n"), nil
	}}
	for _, tt := range []struct {
		path, key string
		optional  bool
		want      string
		skip, ok  bool
	}{
		{"p", "A", false, "1", false, true}, {"p", "B", false, "", false, false}, {"p", "B", true, "", true, true}, {"q", "A", true, "", false, false},
	} {
		ref := &corev1.FileKeySelector{VolumeName: "v", Path: tt.path, Key: tt.key, Optional: &tt.optional}
		value, skip, err := in.value(&corev1.EnvVar{Name: "V", ValueFrom: &corev1.EnvVarSource{FileKeyRef: ref}}, nil)
		if value != tt.want || skip != tt.skip || (err == nil) != tt.ok {
			t.Errorf("%+v: %q, %v, %v", tt, value, skip, err)
		}
	}
}

// FuzzLookupFile: the file is a container's.
func FuzzLookupFile(f *testing.F) {
	for _, seed := range []string{"A='1'", "A='1\n2' # x\nB=''", "A= '1'", "='", "A='\n'"} {
		f.Add(seed, "A")
	}
	f.Fuzz(func(t *testing.T, content, key string) {
		value, err := LookupFile(content, key)
		if err != nil && value != "" {
			t.Error("a value with an error")
		}
		if strings.Contains(value, "'") || len(value) > len(content) {
			t.Errorf("value %q of %q", value, content)
		}
	})
}
