package main

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"minikubelet/e2e/stack"
	"minikubelet/kubelet/local"
	"minikubelet/kubelet/timeline/story"
)

// runStandalone runs the kubelet alone: it is its own runtime, and its pods are the manifests in examples/static.
func runStandalone(ctx context.Context, f flags) error {
	if f.kubelet != "minikubelet" {
		return fmt.Errorf("-standalone needs this project's kubelet, not %q", f.kubelet)
	}
	o := stack.Options{Runtime: stack.Embedded, NoControlPlane: true, NoRegistry: true}
	var env string // what is in the script
	start := func(s *stack.Stack) (*stack.Kubelet, error) {
		// Without a client authority a token opens the kubelet's server.
		config := map[string]any{"authentication": nil}
		_ = os.Remove(timelineLink(s)) // that of a kubelet which was killed leads nowhere
		k, err := s.StartKubelet(stack.KubeletOptions{Standalone: true, Verbosity: f.verbosity, Config: config, Args: append([]string{"--timeline"}, strings.Fields(f.args)...)})
		if err == nil && f.env != "" {
			env = envOf(s, k)
			err = os.WriteFile(f.env, []byte(env), 0o600)
		}
		return k, err
	}
	if f.env != "" {
		// Another run may have written its own meanwhile.
		defer func() {
			if text, _ := os.ReadFile(f.env); string(text) == env {
				_ = os.Remove(f.env)
			}
		}()
	}
	again := func(s *stack.Stack) (*stack.Kubelet, error) {
		k, err := start(s)
		if err != nil {
			return nil, err
		}
		link, err := forwardTimeline(ctx, s, k)
		if err == nil {
			fmt.Printf("\n  each step, from now on: %s\n\n", link)
		}
		return k, err
	}
	return onStack(ctx, f, o, again, func(s *stack.Stack, say sayer, pods []string, ready chan<- struct{}) (*stack.Kubelet, error) {
		k, err := start(s)
		if err != nil {
			return nil, err
		}
		say("started the kubelet, pid %d", k.Pid())
		link, err := forwardTimeline(ctx, s, k)
		if err != nil {
			return nil, err
		}
		showStandalone(s, k, link, f.env)
		go watchStandalone(ctx, s, say, pods, ready)
		return k, nil
	})
}

// envOf is a script for shells: what it sets is where the kubelet's things are, and the way to its program and to Go.
func envOf(s *stack.Stack, k *stack.Kubelet) string {
	var text strings.Builder
	for _, v := range [][2]string{
		{"KUBELET_ROOT_DIR", s.RootDir()}, {"MANIFESTS", s.ManifestDir()}, {"KUBELET_LOG", k.LogPath}, {"POD_LOGS", s.PodLogsDir()}, {"NETNS", s.NetnsPath()},
		{"CNI_CONF", filepath.Join(s.Dir, "cni")}, {"KUBELET_PID", fmt.Sprint(k.Pid())},
	} {
		fmt.Fprintf(&text, "export %s=%s\n", v[0], quote(v[1]))
	}
	programs := filepath.Dir(s.KubeletBinary)
	if compiler, err := exec.LookPath("go"); err == nil { // make's, which may not be in the path of root's shell
		programs += ":" + filepath.Dir(compiler)
	}
	fmt.Fprintf(&text, "export PATH=%s:$PATH\n", quote(programs))
	return text.String()
}

// quote is a word of a shell, whatever is in it.
func quote(word string) string { return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'" }

func timelineLink(s *stack.Stack) string { return filepath.Join(s.RootDir(), "timeline-link") }

// forwardTimeline makes the timeline's page reachable from the host, and returns its link there.
func forwardTimeline(ctx context.Context, s *stack.Stack, k *stack.Kubelet) (string, error) {
	for {
		text, err := os.ReadFile(timelineLink(s))
		if err == nil {
			link, err := url.Parse(strings.TrimSpace(string(text)))
			if err != nil {
				return "", err
			}
			link.Host, err = listenAndForward(ctx, s, "127.0.0.1:0", link.Host)
			return link.String(), err
		}
		select {
		case <-k.Done():
			return "", fmt.Errorf("the kubelet has ended; its log ends:\n%s", k.LogTail(20))
		case <-ctx.Done():
			return "", context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// showStandalone prints how to look at the pods.
func showStandalone(s *stack.Stack, k *stack.Kubelet, timeline, env string) {
	inside := "nsenter --net=" + s.NetnsPath()
	fmt.Printf(`
  healthz       %[1]s curl -s http://127.0.0.1:10248/healthz
  pods          %[1]s curl -s http://127.0.0.1:10255/pods
  metrics       %[1]s curl -s http://127.0.0.1:10255/metrics
  all the rest  %[1]s curl -sk -H "Authorization: Bearer $(cat %[6]s/server-token)" https://127.0.0.1:10250/runningpods/
  why it waits  bin/kubelet explain pod NAME --root-dir=%[6]s (watch, pods, logs, exec, stop too)
                or: . %[8]s; kubelet explain pod NAME
  the runtime   crictl -r unix://%[2]s pods
  kubelet log   %[3]s
  pod logs      %[4]s
  manifests     %[5]s (what comes here runs, what goes ends)

  each step, live, in a browser of this machine:
                %[7]s

`, inside, s.RuntimeSocket, k.LogPath, s.PodLogsDir(), s.ManifestDir(), s.RootDir(), timeline, cmp.Or(env, "SCRIPT of -env"))
}

// watchStandalone prints the changes of the pods and why those wait that are not Ready, and closes ready once the awaited
// ones are.
func watchStandalone(ctx context.Context, s *stack.Stack, say sayer, await []string, ready chan<- struct{}) {
	follow(ctx, s, func(l story.Summary) {
		key := keyOf(l)
		isReady := l.State == "Ready"
		say("%s %s", key, describe(l))
		if isReady && l.Name == "default/hello-"+s.NodeName {
			say("try: nsenter --net=%s curl http://%s:8080", s.NetnsPath(), l.IP)
		}
		if await = without(await, key, isReady); len(await) == 0 && ready != nil {
			say("everything is Ready; Ctrl-C ends it")
			close(ready)
			ready = nil
		}
	})
}

// tellWhy prints why pods wait, beside what the apiserver tells of them.
func tellWhy(ctx context.Context, s *stack.Stack, say sayer) {
	follow(ctx, s, func(l story.Summary) {
		if l.Answer != "" && l.State != "Ready" {
			say("%s %s", keyOf(l), cmp.Or(l.Progress, l.Answer))
		}
	})
}

// progressEvery is how often it is printed how far a pull is.
const progressEvery = 5 * time.Second

// follow calls tell for each pod that is another than before, as the kubelet's local socket tells it, and now and then for
// one that a pull goes on for.
func follow(ctx context.Context, s *stack.Stack, tell func(story.Summary)) {
	client := local.NewClient(s.RootDir())
	seen, progressed := map[string]string{}, map[string]time.Time{}
	for ctx.Err() == nil {
		_ = client.Watch(ctx, "", func(lines []story.Summary) bool { // an error says that it is starting, or has ended
			for _, l := range lines {
				text := l.State + l.Cause + l.IP
				going := l.Progress != "" && time.Since(progressed[l.Name]) >= progressEvery
				if seen[l.Name] == text && !going || l.Cause == "Starting" {
					continue
				}
				seen[l.Name] = text
				if l.Progress != "" {
					progressed[l.Name] = time.Now()
				}
				tell(l)
			}
			return true
		})
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func keyOf(l story.Summary) string {
	namespace, name, _ := strings.Cut(l.Name, "/")
	return podKey(namespace, name)
}

// describe says how a pod is, and why.
func describe(l story.Summary) string {
	if l.State == "Ready" {
		return "Ready at " + l.IP
	}
	if why := cmp.Or(l.Progress, l.Answer); why != "" {
		return l.State + ": " + why
	}
	return l.State
}

// without removes a key that is done.
func without(keys []string, key string, done bool) []string {
	var rest []string
	for _, k := range keys {
		if k != key || !done {
			rest = append(rest, k)
		}
	}
	return rest
}
