package settings

import (
	"io"
	"strings"
	"testing"
)

// TestYAML: the configuration that is logged can be read as a file, and has no secrets in it; the settings keep theirs.
func TestYAML(t *testing.T) {
	s, err := load(t, "eventBurst: 101\nstaticPodURL: http://me:secret@127.0.0.1/?key=secret\nstaticPodURLHeader: {X-Key: [secret], X-Other: [secret too]}\n")
	if err != nil {
		t.Fatal(err)
	}
	text := s.YAML()
	for _, want := range []string{"kind: KubeletConfiguration\n", "eventBurst: 101\n", "X-Key:\n  - <masked>\n", "http://masked@127.0.0.1/?masked\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in the configuration", want)
		}
	}
	if header := s.Masked().StaticPodURLHeader; header["X-Key"][0] != Mask || header["X-Other"][0] != "secret too" {
		t.Errorf("who may ask for the configuration sees %q", header)
	}
	if strings.Contains(text, "secret") {
		t.Errorf("a secret is in the configuration:\n%s", text)
	}
	if got := s.StaticPodURLHeader["X-Key"]; len(got) != 1 || got[0] != "secret" {
		t.Errorf("the settings have lost their header: %q", got)
	}
	if again, err := Load([]string{"--config=" + write(t, t.TempDir()+"/again.yaml", text)}, io.Discard); err != nil || again.EventBurst != 101 {
		t.Errorf("read again: %v", err)
	}
}
