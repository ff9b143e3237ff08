package main

import (
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"minikubelet/kubelet/local"
)

// TestWrongCommands: what is wrong with a command line is said before a kubelet is asked, and names the flag or the form.
func TestWrongCommands(t *testing.T) {
	for line, want := range map[string]string{
		"explain pod":                    "explain: the command is: kubelet explain pod [NAMESPACE/]NAME",
		"explain node a":                 `explain: only a pod can be explained, not "node"`,
		"explain pod a -o yaml":          "explain: --output=yaml: only json can be chosen",
		"pods a":                         "pods: the command is: kubelet pods",
		"logs a b":                       "logs: the command is: kubelet logs [NAMESPACE/]POD",
		"logs a -- b":                    "logs: the command is: kubelet logs [NAMESPACE/]POD",
		"logs a --grace-period=1":        "logs: unknown flag: --grace-period",
		"logs a --tail=x":                "logs: invalid argument \"x\" for \"--tail\" flag",
		"exec a ls":                      "exec: the command is: kubelet exec [NAMESPACE/]POD -- COMMAND [ARGS...]",
		"exec a -t -- ls":                "exec: --tty needs --stdin",
		"watch --root-dir=/none":         "no kubelet answers on /none/local/kubelet.sock",
		"logs a --root-dir=/none":        "no kubelet answers on /none/local/kubelet.sock",
		"exec a --root-dir=/none -- ls":  "no kubelet answers on /none/local/kubelet.sock",
		"stop a --root-dir /none -n b":   "no kubelet answers on /none/local/kubelet.sock",
		"explain --root-dir=/none pod a": "no kubelet answers on /none/local/kubelet.sock",
	} {
		words := strings.Fields(line)
		if err := find(words).ask(words[1:], t.Output()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", line, err, want)
		}
	}
}

// TestContainerFlags: flags mean what they mean to kubectl; those that stand for everything ask for nothing. The container is the one
// that is named, that the pod's annotation names if there is one of that name, or the first.
func TestContainerFlags(t *testing.T) {
	const annotation = "kubectl.kubernetes.io/default-container"
	dir, asked := t.TempDir(), ""
	if err := os.Mkdir(filepath.Join(dir, "local"), 0o700); err != nil {
		t.Fatal(err)
	}
	listener, err := new(net.ListenConfig).Listen(t.Context(), "unix", local.Path(dir))
	if err != nil {
		t.Fatal(err)
	}
	pods := &corev1.PodList{}
	for name, byDefault := range map[string]string{"web": "", "annotated": "b", "wrong": "c"} {
		pods.Items = append(pods.Items, corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Annotations: map[string]string{annotation: byDefault}},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "a"}, {Name: "b"}}},
		})
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/pods" {
			asked = r.URL.RequestURI()
		} else if err := json.NewEncoder(w).Encode(pods); err != nil {
			t.Error(err)
		}
	}))
	server.Listener = listener
	server.Start()
	defer server.Close()
	for line, want := range map[string]string{
		"logs web":                                "/containerLogs/default/web/a?follow=false&previous=false&timestamps=false",
		"logs annotated":                          "/containerLogs/default/annotated/b?follow=false&previous=false&timestamps=false",
		"logs annotated -c a":                     "/containerLogs/default/annotated/a?follow=false&previous=false&timestamps=false",
		"logs wrong":                              "/containerLogs/default/wrong/a?follow=false&previous=false&timestamps=false",
		"logs web --tail=0":                       "/containerLogs/default/web/a?follow=false&previous=false&tailLines=0&timestamps=false",
		"logs web --tail=-1 --limit-bytes=0":      "/containerLogs/default/web/a?follow=false&previous=false&timestamps=false",
		"logs web --tail=-2 --since=0":            "/containerLogs/default/web/a?follow=false&previous=false&tailLines=-2&timestamps=false",
		"logs web --since=10ms":                   "/containerLogs/default/web/a?follow=false&previous=false&sinceSeconds=1&timestamps=false",
		"logs web --since-time=2026-01-02":        "/containerLogs/default/web/a?follow=false&previous=false&sinceTime=2026-01-02&timestamps=false",
		"logs web -f --limit-bytes=10 --since=2m": "/containerLogs/default/web/a?follow=true&limitBytes=10&previous=false&sinceSeconds=120&timestamps=false",
		"logs web -p --timestamps --tail 5":       "/containerLogs/default/web/a?follow=false&previous=true&tailLines=5&timestamps=true",
		"stop web --grace-period=-1":              "/stop/default/web",
		"stop web --grace-period=0":               "/stop/default/web?gracePeriod=0",
	} {
		words := append(strings.Fields(line), "--root-dir="+dir)
		if err := find(words).ask(words[1:], t.Output()); err != nil || asked != want {
			t.Errorf("%s: %v, asks for %s, want %s", line, err, asked, want)
		}
	}
}
