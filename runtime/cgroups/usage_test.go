package cgroups

import (
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestUsage(t *testing.T) {
	pod := &corev1.Pod{}
	pod.UID = "uid"
	for _, tt := range []struct {
		name                         string
		files                        map[string]string
		workingSet, processes, limit int64
		bad                          bool
	}{
		{name: "with a limit", files: map[string]string{
			"pods/besteffort/poduid/memory.usage_in_bytes": "1000\n", "pods/besteffort/poduid/memory.stat": "cache 900\ninactive_file 1\ntotal_inactive_file 300\n",
			"pods/besteffort/poduid/pids.current": "7\n",
			"pods/memory.usage_in_bytes":          "100\n", "pods/memory.stat": "total_inactive_file 300\n", "pods/memory.limit_in_bytes": "5000\n",
		}, workingSet: 700, processes: 7, limit: 5000},
		{name: "without", files: map[string]string{
			"pods/besteffort/poduid/memory.usage_in_bytes": "1000\n", "pods/besteffort/poduid/memory.stat": "cache 900\n", "pods/besteffort/poduid/pids.current": "max\n",
			"pods/memory.usage_in_bytes": "100\n", "pods/memory.stat": "", "pods/memory.limit_in_bytes": "9223372036854771712\n",
		}, workingSet: 1000},
		{name: "missing", bad: true},
		{name: "no number", files: map[string]string{"pods/besteffort/poduid/memory.usage_in_bytes": "x", "pods/memory.usage_in_bytes": ""}, bad: true},
	} {
		dir := t.TempDir()
		m := &Manager{root: parseName("/pods"), mounts: map[string]string{"memory": dir, "pids": dir}}
		for file, text := range tt.files {
			path := filepath.Join(dir, file)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		workingSet, processes, err := m.PodUsage(pod)
		if (err != nil) != tt.bad || workingSet != tt.workingSet || processes != tt.processes {
			t.Errorf("%s: a pod uses %d, %d, %v", tt.name, workingSet, processes, err)
		}
		if _, limit, err := m.PodsMemory(); (err != nil) != tt.bad || limit != tt.limit {
			t.Errorf("%s: pods may use %d, %v", tt.name, limit, err)
		}
	}
}
