package runtime

import (
	"os"
	"path/filepath"
	"testing"
)

func TestNextLogAttempt(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"0.log", "2.log.20300101", "7.txt", "x.log"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got := nextLogAttempt(dir); got != 3 {
		t.Errorf("attempt after 2.log.<date>: %d", got)
	}
	if got := nextLogAttempt(filepath.Join(dir, "none")); got != 0 {
		t.Errorf("attempt without logs: %d", got)
	}
}
