package images

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"k8s.io/klog/v2"
	"k8s.io/klog/v2/textlogger"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
	testingclock "k8s.io/utils/clock/testing"

	"minikubelet/e2e/hungdisk"
)

func configJSON(user string) string {
	return `{"auths": {"registry.example": {"username": "` + user + `", "password": "hunter2"}}}`
}

func dockercfg(user string) string {
	return `{"registry.example": {"username": "` + user + `", "password": "hunter2"}}`
}

// TestNodeCredentials: the first valid file is the one that counts, and what is wrong with those before it is told by path.
func TestNodeCredentials(t *testing.T) {
	for _, test := range []struct {
		name    string
		files   map[string]string // below the test's directory
		want    []string
		ignored []string
	}{
		{"none", nil, nil, nil},
		{"root directory first", map[string]string{
			"root/config.json": configJSON("root"), "work/config.json": configJSON("work"), "home/.docker/config.json": configJSON("home"),
		}, []string{"root"}, nil},
		{"then working directory", map[string]string{
			"work/config.json": configJSON("work"), "home/.docker/config.json": configJSON("home"), "root/.dockercfg": dockercfg("old"),
		}, []string{"work"}, nil},
		{"then home", map[string]string{
			"home/.docker/config.json": configJSON("home"), "home/config.json": configJSON("no"), "root/.dockercfg": dockercfg("old"),
		}, []string{"home"}, nil},
		{"old files", map[string]string{"root/.dockercfg": dockercfg("root"), "work/.dockercfg": dockercfg("work")}, []string{"root"}, nil},
		{"old file in home", map[string]string{"home/.dockercfg": dockercfg("home")}, []string{"home"}, nil},
		{"one without logins counts", map[string]string{"root/config.json": `{"credsStore": "x"}`, "work/config.json": configJSON("work")}, nil, nil},
		{"broken ones are passed over", map[string]string{
			"root/config.json": `{"auths": {"hunter2`, "work/config.json": "", "home/.docker/config.json": `{"auths": {"registry.example": {"auth": "hunter2"}}}`,
			"root/.dockercfg": `["hunter2"]`, "work/.dockercfg": dockercfg("work"),
		}, []string{"work"}, []string{"root/config.json", "work/config.json", "home/.docker/config.json", "root/.dockercfg"}},
		{"only the entry without a location", map[string]string{
			"root/config.json": `{"auths": {"https://": {"username": "x"}, "registry.example": {"auth": "bWU6aHVudGVyMg=="}}}`,
		}, []string{"me"}, []string{"root/config.json"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir, said := t.TempDir(), &bytes.Buffer{}
			n := nodeCredentials(t, dir, testingclock.NewFakePassiveClock(time.Now()))
			for name, content := range test.files {
				put(t, filepath.Join(dir, name), content)
			}
			ctx := klog.NewContext(t.Context(), textlogger.NewLogger(textlogger.NewConfig(textlogger.Output(said))))
			got := n.Lookup(ctx, "registry.example/app")
			if !slices.Equal(users(got), test.want) {
				t.Errorf("credentials of %v, want %v", users(got), test.want)
			}
			for _, c := range got {
				if want := (kubeletconfig.ImagePullCredentials{NodePodsAccessible: true}); c.Auth.Password != "hunter2" || !c.Source.NodePodsAccessible || c.Source.KubernetesSecrets != nil {
					t.Errorf("credential %v, want source %v", c, want)
				}
			}
			if n.Lookup(ctx, "other.example/app") != nil {
				t.Error("another registry has credentials")
			}
			for _, name := range test.ignored {
				if !strings.Contains(said.String(), filepath.Join(dir, name)) {
					t.Errorf("nothing is said of %s", name)
				}
			}
			if lines := strings.Count(said.String(), "\n"); lines != len(test.ignored) || strings.Contains(said.String(), "hunter2") {
				t.Errorf("log of %d lines, want %d:\n%s", lines, len(test.ignored), said)
			}
		})
	}
}

// TestNodeCredentialsReread: a change counts after five minutes, and a pipe holds up nothing.
func TestNodeCredentialsReread(t *testing.T) {
	dir, clock := t.TempDir(), testingclock.NewFakePassiveClock(time.Now())
	n := nodeCredentials(t, dir, clock)
	want := func(names ...string) {
		t.Helper()
		if got := users(n.Lookup(t.Context(), "registry.example/app")); !slices.Equal(got, names) {
			t.Errorf("credentials of %v, want %v", got, names)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "root/config.json"), 0o600); err != nil {
		t.Fatal(err)
	}
	want()
	put(t, filepath.Join(dir, "work/config.json"), configJSON("one"))
	want()
	clock.SetTime(clock.Now().Add(5 * time.Minute))
	want("one")
	put(t, filepath.Join(dir, "work/config.json"), configJSON("two"))
	clock.SetTime(clock.Now().Add(5*time.Minute - time.Second))
	want("one")
	clock.SetTime(clock.Now().Add(time.Second))
	want("two")
}

// TestNodeCredentialsHang needs root. A disk that does not answer holds up no pull for long; what was read last counts meanwhile.
func TestNodeCredentialsHang(t *testing.T) {
	dir, clock := t.TempDir(), testingclock.NewFakePassiveClock(time.Now())
	n := nodeCredentials(t, dir, clock)
	put(t, filepath.Join(dir, "work/config.json"), configJSON("one"))
	want := func(ctx context.Context, names ...string) {
		t.Helper()
		if got := users(n.Lookup(ctx, "registry.example/app")); !slices.Equal(got, names) {
			t.Errorf("credentials of %v, want %v", got, names)
		}
	}
	want(t.Context(), "one")
	hung, wake := hungdisk.Mount(t)
	if err := os.Symlink(filepath.Join(hung, "config.json"), filepath.Join(dir, "root/config.json")); err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(dir, "work/config.json"), configJSON("two"))
	clock.SetTime(clock.Now().Add(5 * time.Minute))
	ended, end := context.WithCancel(t.Context())
	end()
	for range 2 {
		want(ended, "one")
	}
	wake()
	want(t.Context(), "two")
}

func nodeCredentials(t *testing.T, dir string, clock *testingclock.FakePassiveClock) *NodeCredentials {
	t.Helper()
	for _, name := range []string{"root", "work", "home/.docker"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("HOME", filepath.Join(dir, "home"))
	t.Chdir(filepath.Join(dir, "work"))
	n, err := NewNodeCredentials(filepath.Join(dir, "root"), clock)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func put(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
