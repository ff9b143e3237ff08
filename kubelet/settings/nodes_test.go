package settings

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestNodes: the flags and files of real nodes, testdata/nodes, are taken as they are, or refused with every problem in one error.
// said.txt in a node's folder has what is said of them; go test ./kubelet/settings -run TestNodes -rewrite writes it anew.
func TestNodes(t *testing.T) {
	refused := []string{"kubespray-all-options"} // static CPU manager and topology manager
	nodes, err := os.ReadDir("testdata/nodes")
	if err != nil {
		t.Fatal(err)
	}
	for _, node := range nodes {
		t.Run(node.Name(), func(t *testing.T) {
			dir := filepath.Join("testdata/nodes", node.Name())
			s, err := Load(nodeArgs(t, dir), &bytes.Buffer{})
			t.Cleanup(func() { _, _ = Load(nil, &bytes.Buffer{}) })
			var said string
			if err != nil {
				said = fmt.Sprintln("refused:") + err.Error() + "\n"
			} else {
				said = fmt.Sprintln("taken") + strings.Join(append(s.Warnings, ""), "\n")
			}
			said = strings.ReplaceAll(said, dir+"/", "")
			if (err != nil) != slices.Contains(refused, node.Name()) {
				t.Errorf("the error is %v", err)
			}
			want := filepath.Join(dir, "said.txt")
			if *rewrite {
				if err := os.WriteFile(want, []byte(said), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if data, err := os.ReadFile(want); err != nil || string(data) != said {
				t.Errorf("%v; said is\n%s\nwant\n%s", err, said, data)
			}
		})
	}
}

// nodeArgs is a node's command line with the paths of its files replaced by those of testdata.
func nodeArgs(t *testing.T, dir string) []string {
	t.Helper()
	flags, err := os.ReadFile(filepath.Join(dir, "flags"))
	if err != nil {
		t.Fatal(err)
	}
	args := strings.Fields(string(flags))
	for i, arg := range args {
		args[i] = strings.ReplaceAll(arg, `"`, "") // as a shell and systemd do, so that an argument can be empty
		for name, file := range map[string]string{"--config": "config.yaml", "--config-dir": "config.d"} {
			if strings.HasPrefix(arg, name+"=") {
				args[i] = name + "=" + filepath.Join(dir, file)
			} else if arg == name {
				args[i+1] = filepath.Join(dir, file)
			}
		}
	}
	return args
}
