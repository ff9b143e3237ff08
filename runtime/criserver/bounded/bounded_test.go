package bounded_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"minikubelet/runtime/criserver/bounded"
)

func TestRead(t *testing.T) {
	for text, ok := range map[string]bool{"": true, "1234": true, "12345": false, strings.Repeat("x", 10_000): false} {
		got, err := bounded.ReadAll(strings.NewReader(text), 4)
		if (err == nil) != ok || ok && string(got) != text {
			t.Errorf("%.10q: %q, %v", text, got, err)
		}
		path := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := bounded.ReadFile(path, 4); (err == nil) != ok || ok && string(got) != text {
			t.Errorf("a file of %.10q: %q, %v", text, got, err)
		}
	}
	if _, err := bounded.ReadFile(filepath.Join(t.TempDir(), "none"), 4); !os.IsNotExist(err) {
		t.Errorf("a file that is not there: %v", err)
	}
}

func TestBuffer(t *testing.T) {
	b := &bounded.Buffer{Limit: 5}
	for _, text := range []string{"abc", "de", "", "fgh"} {
		if n, err := b.Write([]byte(text)); n != len(text) || err != nil {
			t.Errorf("%q: %d, %v", text, n, err)
		}
		if cut := text == "fgh"; b.Cut() != cut {
			t.Errorf("after %q cut is %v", text, b.Cut())
		}
	}
	if b.String() != "abcde" {
		t.Errorf("%q", b)
	}
}
