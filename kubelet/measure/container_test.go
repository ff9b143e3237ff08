package measure

import (
	"maps"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/cgroups"
)

// The cgroups of these tests are files in a directory, which the library refuses to read otherwise.
func init() { cgroups.TestMode = true }

// container is the memory of one.
type container struct{ workingSet, limit int64 }

const (
	mountV1      = "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
	mountPids    = "39 31 0:36 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n"
	mountV2      = "41 31 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
	mountUnified = "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
	mountDeeper  = "50 31 0:32 /x /sys/fs/cgroup/memory/docker/x rw - cgroup cgroup rw,memory\n"
)

// TestContainer: a node in a container has what the cgroup has that is seen as the root of the hierarchy, of any kind.
func TestContainer(t *testing.T) {
	v1 := map[string]string{
		"sys/fs/cgroup/memory/memory.usage_in_bytes": "1000\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": "5000\n",
		"sys/fs/cgroup/memory/memory.stat":               "inactive_file 1\ntotal_inactive_file 300\n",
		"sys/fs/cgroup/memory/memory.max_usage_in_bytes": "1\n", "sys/fs/cgroup/memory/memory.failcnt": "0\n", "sys/fs/cgroup/memory/memory.use_hierarchy": "1\n",
	}
	v2 := map[string]string{
		"sys/fs/cgroup/memory.current": "2000\n", "sys/fs/cgroup/memory.max": "max\n", "sys/fs/cgroup/memory.stat": "anon 7\ninactive_file 2500\n",
	}
	with := func(files map[string]string, more ...string) map[string]string {
		out := map[string]string{}
		maps.Copy(out, files)
		for i := 0; i < len(more); i += 2 {
			out[more[i]] = more[i+1]
		}
		return out
	}
	for name, tt := range map[string]struct {
		files  map[string]string
		mounts string
		want   *container
		fails  bool
	}{
		"v1":                         {v1, mountPids + mountDeeper + mountV1, &container{700, 5000}, false},
		"v1 without a limit":         {with(v1, "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712"), mountV1, &container{700, 0}, false},
		"v1, nothing in it":          {with(v1, "sys/fs/cgroup/memory/memory.usage_in_bytes", "0\n"), mountV1, &container{0, 5000}, false},
		"v1, the machine":            {with(v1, "sys/fs/cgroup/memory/release_agent", ""), mountV1, nil, false},
		"hybrid":                     {v1, mountUnified + mountV1, &container{700, 5000}, false},
		"hybrid, v1 first":           {v1, mountV1 + mountUnified, &container{700, 5000}, false},
		"v2":                         {v2, mountV2, &container{0, 0}, false},
		"v2 with a limit":            {with(v2, "sys/fs/cgroup/memory.max", "4000\n"), mountV2, &container{0, 4000}, false},
		"v2, the machine":            {map[string]string{"sys/fs/cgroup/memory.stat": "anon 1\n"}, mountV2, nil, false},
		"none":                       {nil, "1 2 0:1 / / rw - ext4 x rw\n", nil, true},
		"a limit that is none":       {with(v2, "sys/fs/cgroup/memory.max", "much\n"), mountV2, nil, true},
		"a file that is none":        {with(v2, "sys/fs/cgroup/memory.stat", "inactive_file much\n"), mountV2, nil, true},
		"mounts that are unlike any": {nil, "what\n", nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			for path, text := range with(tt.files, "proc/self/mountinfo", tt.mounts) {
				path = filepath.Join(root, path)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			var got *container
			m, err := Open(root)
			if err == nil {
				var u *Usage
				if u, err = m.container(); u != nil {
					got = &container{}
					got.workingSet, got.limit, err = m.WorkingSet("/")
				}
			}
			if (err != nil) != tt.fails || (got == nil) != (tt.want == nil) || got != nil && *got != *tt.want {
				t.Errorf("%+v, %v; want %+v", got, err, tt.want)
			}
		})
	}
}
