package shutdown

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"

	"minikubelet/e2e/logindtest"
	"minikubelet/kubelet/settings"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func podOf(name string, priority int32, grace int64) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns", UID: types.UID(name)},
		Spec:       corev1.PodSpec{Priority: &priority, TerminationGracePeriodSeconds: &grace},
	}
}

func TestGroups(t *testing.T) {
	group := func(priority int32, seconds int64) kubeletconfig.ShutdownGracePeriodByPodPriority {
		return kubeletconfig.ShutdownGracePeriodByPodPriority{Priority: priority, ShutdownGracePeriodSeconds: seconds}
	}
	c := kubeletconfig.KubeletConfiguration{}
	if got := groupsOf(&settings.Settings{KubeletConfiguration: c}); len(got) != 0 {
		t.Errorf("without settings: %v", got)
	}
	c.ShutdownGracePeriod.Duration, c.ShutdownGracePeriodCriticalPods.Duration = 30*time.Second, 10*time.Second
	two := groupsOf(&settings.Settings{KubeletConfiguration: c})
	if !slices.Equal(two, []kubeletconfig.ShutdownGracePeriodByPodPriority{group(0, 20), group(2_000_000_000, 10)}) {
		t.Errorf("of two periods: %v", two)
	}
	given := []kubeletconfig.ShutdownGracePeriodByPodPriority{group(100, 1), group(-5, 2), group(10, 3)}
	three := groupsOf(&settings.Settings{KubeletConfiguration: kubeletconfig.KubeletConfiguration{ShutdownGracePeriodByPodPriority: given}})
	if !slices.Equal(three, []kubeletconfig.ShutdownGracePeriodByPodPriority{group(-5, 2), group(10, 3), group(100, 1)}) || given[0].Priority != 100 {
		t.Errorf("by priority: %v, given %v", three, given)
	}
	var pods []*corev1.Pod
	for _, priority := range []int32{-100, -5, 0, 10, 99, 100, 2_000_000_000} {
		pods = append(pods, podOf(fmt.Sprint(priority), priority, 0))
	}
	var got []string
	for _, pods := range byPriority(three, append(pods, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "none"}})) {
		var names []string
		for _, pod := range pods {
			names = append(names, pod.Name)
		}
		got = append(got, strings.Join(names, ","))
	}
	if want := "-100,-5,0,none 10,99 100,2000000000"; strings.Join(got, " ") != want {
		t.Errorf("pods are in groups %q, want %q", got, want)
	}
}

// released waits until the kubelet lets go of the lock.
func released(t *testing.T, lock *os.File) {
	t.Helper()
	if err := lock.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := lock.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Fatalf("the lock is not released: %v", err)
	}
}

// TestShutdown: the pods end group by group, then the machine may go down; when that is called off all is as before.
func TestShutdown(t *testing.T) {
	bus := logindtest.Start(t)
	c := kubeletconfig.KubeletConfiguration{}
	c.ShutdownGracePeriod.Duration, c.ShutdownGracePeriodCriticalPods.Duration = 7*time.Second, time.Second
	var mu sync.Mutex
	var did []string
	cleaned := map[types.UID]chan struct{}{"web": make(chan struct{}), "db": make(chan struct{}), "slow-critical": make(chan struct{})}
	events := record.NewFakeRecorder(10)
	dir := filepath.Join(t.TempDir(), "logind.conf.d")
	note := func(what string) {
		mu.Lock()
		defer mu.Unlock()
		did = append(did, what)
	}
	m := New(Options{
		Settings: &settings.Settings{KubeletConfiguration: c}, Events: events, Node: func() *corev1.ObjectReference { return &corev1.ObjectReference{Kind: "Node", Name: "n"} }, ConfDir: dir,
		ActivePods: func() []*corev1.Pod {
			return []*corev1.Pod{podOf("slow-critical", 2_000_000_000, 30), podOf("web", 0, 2), podOf("db", 10, 30)}
		},
		Kill: func(pod *corev1.Pod, grace int64) {
			note(fmt.Sprintf("%s/%d", pod.Name, grace))
			if pod.Name != "slow-critical" {
				time.AfterFunc(50*time.Millisecond, func() { note(pod.Name + " gone"); close(cleaned[pod.UID]) })
			}
		},
		Cleaned:         func(uid types.UID) <-chan struct{} { return cleaned[uid] },
		SetShuttingDown: func(on bool) { note(fmt.Sprint("stopping ", on)) },
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); m.Run(ctx) }()
	defer func() { cancel(); <-done }()

	lock, asked := bus.Lock(t)
	if asked != "shutdown|kubelet|Kubelet needs time to handle node shutdown|delay" {
		t.Errorf("asked for %q", asked)
	}
	if text, err := os.ReadFile(filepath.Join(dir, confFile)); err != nil || !strings.Contains(string(text), "[Login]\nInhibitDelayMaxSec=7\n") {
		t.Errorf("logind's settings: %q, %v", text, err)
	}
	time.Sleep(1500 * time.Millisecond) // the fake's own copy of the lock is closed by then
	bus.Announce(t, true)
	released(t, lock)
	if !m.ShuttingDown() {
		t.Error("the machine goes down and the manager does not say so")
	}
	bus.Announce(t, false)
	bus.Lock(t)
	for range 100 {
		if !m.ShuttingDown() {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	mu.Lock()
	defer mu.Unlock()
	last := slices.Sorted(slices.Values(did[1:5])) // the order within a group is no matter
	if did[0] != "stopping true" || strings.Join(last, " ") != "db gone db/6 web gone web/2" || strings.Join(did[5:], " ") != "slow-critical/1 stopping false" {
		t.Errorf("did %q", did)
	}
	for _, want := range []string{"Shutdown manager detected shutdown event", "Shutdown manager detected shutdown cancellation"} {
		if got := <-events.Events; got != "Normal Shutdown "+want {
			t.Errorf("event %q", got)
		}
	}
}

// TestRestarted: a kubelet that is started while the machine goes down ends the pods that are left.
func TestRestarted(t *testing.T) {
	bus := logindtest.Start(t)
	bus.GoDown()
	c := kubeletconfig.KubeletConfiguration{}
	c.ShutdownGracePeriod.Duration = 5 * time.Second
	killed, gone, over := make(chan string, 1), make(chan struct{}), make(chan struct{})
	close(gone)
	m := New(Options{
		Settings: &settings.Settings{KubeletConfiguration: c}, Events: record.NewFakeRecorder(10), Node: func() *corev1.ObjectReference { return &corev1.ObjectReference{} }, ConfDir: t.TempDir(),
		ActivePods:      func() []*corev1.Pod { return []*corev1.Pod{podOf("left", 0, 2)} },
		Kill:            func(pod *corev1.Pod, _ int64) { killed <- pod.Name },
		Cleaned:         func(types.UID) <-chan struct{} { return gone },
		SetShuttingDown: func(bool) {},
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { defer close(over); m.Run(ctx) }()
	if got := <-killed; got != "left" || !m.ShuttingDown() {
		t.Errorf("killed %q", got)
	}
	cancel()
	<-over
}

// TestCalledOffUnseen: a shutdown that was called off while the bus was away is over.
func TestCalledOffUnseen(t *testing.T) {
	bus := logindtest.Start(t)
	c := kubeletconfig.KubeletConfiguration{}
	c.ShutdownGracePeriod.Duration = 2 * time.Second
	told := make(chan bool, 1)
	m := New(Options{
		Settings: &settings.Settings{KubeletConfiguration: c}, Events: record.NewFakeRecorder(10), Node: func() *corev1.ObjectReference { return &corev1.ObjectReference{} }, ConfDir: t.TempDir(),
		SetShuttingDown: func(on bool) { told <- on },
	})
	m.shuttingDown.Store(true)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); m.Run(ctx) }()
	defer func() { cancel(); <-done }()
	bus.Lock(t)
	select {
	case on := <-told:
		if on || m.ShuttingDown() {
			t.Error("the node still shuts down")
		}
	case <-time.After(20 * time.Second):
		t.Error("the node is not told that it stays")
	}
}

// TestReconnect: a bus that goes away is looked for again.
func TestReconnect(t *testing.T) {
	bus := logindtest.Start(t)
	bus.SetDelay(time.Minute, time.Minute)
	c := kubeletconfig.KubeletConfiguration{}
	c.ShutdownGracePeriod.Duration = 2 * time.Second
	m := New(Options{Settings: &settings.Settings{KubeletConfiguration: c}, ConfDir: filepath.Join(t.TempDir(), "none")})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); m.Run(ctx) }()
	defer func() { cancel(); <-done }()
	bus.Lock(t)
	if _, err := os.Stat(m.ConfDir); !os.IsNotExist(err) {
		t.Error("logind's settings are written although its delay is long enough")
	}
	if err := m.watch(canceled(t)); err == nil {
		t.Error("no error of a connection that ended")
	}
}

// TestReconfigure: logind is asked to wait when pods get time, for longer when they get more, and no more when they get none.
func TestReconfigure(t *testing.T) {
	bus := logindtest.Start(t)
	with := func(period time.Duration) *settings.Settings {
		c := kubeletconfig.KubeletConfiguration{}
		c.ShutdownGracePeriod.Duration = period
		return &settings.Settings{KubeletConfiguration: c, RootDir: t.TempDir()}
	}
	m := New(Options{Settings: with(0), ConfDir: filepath.Join(t.TempDir(), "conf")})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); m.Run(ctx) }()
	defer func() { cancel(); <-done }()
	if _, err := os.Stat(m.ConfDir); !os.IsNotExist(err) {
		t.Error("logind's settings are written although pods get no time")
	}
	settled := func(want string) {
		t.Helper()
		deadline := time.Now().Add(20 * time.Second)
		for {
			text, _ := os.ReadFile(filepath.Join(m.ConfDir, confFile))
			if strings.Contains(string(text), want) {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("logind's settings are %q, want %q", text, want)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	bus.SetDelay(5*time.Second, 8*time.Second)
	m.Reconfigure(with(7 * time.Second))
	settled("InhibitDelayMaxSec=7")
	lock, _ := bus.Lock(t)
	bus.SetDelay(8*time.Second, 10*time.Second)
	m.Reconfigure(with(9 * time.Second))
	settled("InhibitDelayMaxSec=9")
	time.Sleep(1500 * time.Millisecond) // the fake's own copy of the lock is closed by then
	m.Reconfigure(with(0))
	released(t, lock)
}

func canceled(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}

func TestErrors(t *testing.T) {
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+filepath.Join(t.TempDir(), "none"))
	c := kubeletconfig.KubeletConfiguration{}
	c.ShutdownGracePeriod.Duration = 2 * time.Second
	m := New(Options{Settings: &settings.Settings{KubeletConfiguration: c}})
	if err := m.watch(t.Context()); err == nil || !strings.Contains(err.Error(), "system bus") {
		t.Errorf("without a bus: %v", err)
	}
}

// TestStubbornLogind: one that does not take the setting is an error that names it.
func TestStubbornLogind(t *testing.T) {
	bus := logindtest.Start(t)
	bus.SetDelay(5*time.Second, 5*time.Second)
	l, err := connect(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.close() }()
	if err := l.extend(t.Context(), time.Minute); err == nil || !strings.Contains(err.Error(), confFile) {
		t.Errorf("the error is %v", err)
	}
}
