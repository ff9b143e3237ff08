package kubelet

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestResolvTrouble: what pods cannot have of the node's resolver configuration is told in upstream's words.
func TestResolvTrouble(t *testing.T) {
	dir := t.TempDir()
	for text, want := range map[string]string{
		"nameserver 192.0.2.1\nsearch example.com\n":                "",
		"search " + strings.Repeat("a.example ", 29):                "",
		"search " + strings.Repeat("a.example ", 30):                "Resolv.conf file 'PATH' contains search line consisting of more than 29 domains!",
		"search " + strings.Repeat("a", 254):                        `Resolv.conf file "PATH" contains a search path which length is more than allowed 253 chars!`,
		"search " + strings.Repeat(strings.Repeat("a", 240)+" ", 9): "Resolv.conf file 'PATH' contains search line which length is more than allowed 2048 chars!",
		"nameserver\n": "nameserver list is empty",
	} {
		path := filepath.Join(dir, "resolv.conf")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := resolvTrouble(path, "cluster.local"); got != strings.ReplaceAll(want, "PATH", path) {
			t.Errorf("%.30q: %q, want %q", text, got, want)
		}
	}
	none := filepath.Join(dir, "none")
	if got := resolvTrouble(none, ""); got != "open "+none+": no such file or directory" {
		t.Errorf("a file that is not there: %q", got)
	}
	many := filepath.Join(dir, "many")
	for count, want := range map[int]bool{32: false, 33: true} {
		if err := os.WriteFile(many, []byte("search "+strings.Repeat("a.example ", count)), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := resolvTrouble(many, ""); strings.Contains(got, "more than 32 domains") != want {
			t.Errorf("%d domains without one of the cluster: %q", count, got)
		}
	}
}
