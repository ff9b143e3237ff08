package runtime

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/config/pod/podtest"
	"minikubelet/runtime/cri"
)

func TestTerminationMessage(t *testing.T) {
	b := newBench(t, nil)
	file := filepath.Join(b.opts.RootDir, "pods/uid-1/containers/a/0a")
	log := filepath.Join(b.opts.Node.PodLogsDir, "ns_pod_uid-1/a/0.log")
	for path, content := range map[string]string{
		file: "", log: "", filepath.Join(b.opts.RootDir, "secret"): "s",
	} {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, []byte("outside"), 0o600); err != nil {
		t.Fatal(err)
	}
	line := func(tag, text string) string { return "2030-01-01T00:00:00.000000000Z stdout " + tag + " " + text }
	for name, tc := range map[string]struct {
		file, log string
		link      bool
		policy    corev1.TerminationMessagePolicy
		code      int32
		message   string
		want      string
	}{
		"nothing":                  {want: ""},
		"file":                     {file: "bye", want: "bye"},
		"file and runtime":         {file: "bye", message: "killed", want: "killed: bye"},
		"runtime alone":            {message: "killed", want: "killed"},
		"long file":                {file: "x" + strings.Repeat("y", maxMessage), want: strings.Repeat("y", maxMessage)},
		"log not asked for":        {log: line("F", "oops\n"), code: 1, want: ""},
		"log":                      {log: line("F", "one\n") + line("P", "tw") + line("F", "o\n"), code: 1, policy: corev1.TerminationMessageFallbackToLogsOnError, want: "one\ntwo\n"},
		"log, but no error":        {log: line("F", "one\n"), policy: corev1.TerminationMessageFallbackToLogsOnError, want: ""},
		"file before log":          {file: "bye", log: line("F", "one\n"), code: 1, policy: corev1.TerminationMessageFallbackToLogsOnError, want: "bye"},
		"last 80 lines of the log": {log: strings.Repeat(line("F", "a\n"), 90), code: 1, policy: corev1.TerminationMessageFallbackToLogsOnError, want: strings.Repeat("a\n", 80)},
		"last 2048 bytes of the log": {log: strings.Repeat(line("F", strings.Repeat("b", 16<<10)+"\n"), 9), code: 1,
			policy: corev1.TerminationMessageFallbackToLogsOnError, want: strings.Repeat("b", 2047) + "\n"},
		"a link that leads out": {link: true, want: "Error on reading termination log"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
			if tc.link {
				if err := os.Symlink(outside, file); err != nil {
					t.Fatal(err)
				}
			} else if err := os.WriteFile(file, []byte(tc.file), 0o600); err != nil {
				t.Fatal(err)
			}
			// Partial lines end in a newline of their own in the file.
			text := strings.ReplaceAll(tc.log, line("P", "tw"), line("P", "tw")+"\n")
			if err := os.WriteFile(log, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			status := &cri.ContainerStatus{
				State: cri.Exited, ExitCode: tc.code, Message: tc.message, LogPath: log,
				Mounts: []*runtimeapi.Mount{{HostPath: file, ContainerPath: "/dev/termination-log"}},
				Annotations: map[string]string{
					cri.AnnotationTerminationMessagePath:   "/dev/termination-log",
					cri.AnnotationTerminationMessagePolicy: string(tc.policy),
				},
			}
			got := b.TerminationMessage(status)
			if tc.link && strings.HasPrefix(got, tc.want) && !strings.Contains(got, "outside\n") {
				return
			}
			if got != tc.want {
				t.Errorf("%q, want %q", got, tc.want)
			}
			status.State = cri.Running
			if got := b.TerminationMessage(status); got != "" {
				t.Errorf("of a running container: %q", got)
			}
		})
	}
	if got := b.written(&cri.ContainerStatus{
		Mounts:      []*runtimeapi.Mount{{HostPath: outside, ContainerPath: "/t"}},
		Annotations: map[string]string{cri.AnnotationTerminationMessagePath: "/t"},
	}); !strings.Contains(got, "is not below") {
		t.Errorf("a file elsewhere: %q", got)
	}
}

// TestTerminationLogs: an instance whose creation is asked for twice is asked for in the same words, and a container that
// crashes again and again leaves no more files than there are instances of it.
func TestTerminationLogs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		pod := podtest.Pod("c:a", corev1.RestartPolicyAlways)
		pod.Spec.Containers[0].TerminationMessagePath = "/dev/termination-log"
		dir := filepath.Join(b.opts.RootDir, "pods/uid-1/containers/a")
		files := func() (names []string) {
			entries, err := os.ReadDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				names = append(names, e.Name())
			}
			return names
		}
		b.fake.FailNext("CreateContainer", errors.New("cut"))
		if _, err := b.sync(t, pod, inputs{}); err == nil {
			t.Fatal("the creation did not fail")
		}
		first := files()
		b.mustSync(t, pod)
		if got := files(); len(got) != 1 || !slices.Equal(got, first) {
			t.Errorf("the same instance has the files %v, had %v", got, first)
		}
		for range 3 {
			id := b.fake.ContainerID("a")
			b.fake.SetExit(id, 1)
			time.Sleep(crashLoopMax) // longer than any back-off
			b.mustSync(t, pod)
			if got := files(); len(got) != 2 {
				t.Errorf("two instances have the files %v", got)
			}
			if _, err := b.opts.CRI.Runtime.RemoveContainer(t.Context(), &runtimeapi.RemoveContainerRequest{ContainerId: id}); err != nil {
				t.Fatal(err)
			}
		}
	})
}
