package stats

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestDeepDirectory: directories that are deep inside one another are counted, with all that is in them.
func TestDeepDirectory(t *testing.T) {
	dir := t.TempDir()
	const depth = 150
	if err := os.MkdirAll(filepath.Join(dir, strings.Repeat("d/", depth)), 0o755); err != nil {
		t.Fatal(err)
	}
	got := provider(t, unifiedTree(t), rich(t.TempDir()), nil).directory(t.Context(), dir, nil)
	if got == nil || *got.InodesUsed != depth+1 || got.Time.IsZero() {
		t.Errorf("the usage is %+v", got)
	}
}
