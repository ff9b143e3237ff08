package plugins

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// recorder is a Handler that tells of what it hears.
type recorder struct {
	heard  chan string
	refuse chan error // what the next calls of Register answer
}

func (r *recorder) Validate(name, _ string, versions []string) error {
	if len(versions) == 0 {
		return errors.New("no versions")
	}
	r.heard <- "validate " + name
	return nil
}

func (r *recorder) Register(_ context.Context, name, endpoint string, _ []string) error {
	select {
	case err := <-r.refuse:
		r.heard <- "refuse " + name
		return err
	default:
	}
	r.heard <- "register " + name + " " + filepath.Base(endpoint)
	return nil
}

func (r *recorder) Deregister(ctx context.Context, name, _ string) {
	if ctx.Err() != nil {
		name += " too late"
	}
	r.heard <- "deregister " + name
}

// announcer is a plugin's side of the registration.
type announcer struct {
	registerapi.UnimplementedRegistrationServer
	info   *registerapi.PluginInfo
	status chan *registerapi.RegistrationStatus
	mute   bool // never answers what it is told
}

func (a *announcer) GetInfo(context.Context, *registerapi.InfoRequest) (*registerapi.PluginInfo, error) {
	return a.info, nil
}

func (a *announcer) NotifyRegistrationStatus(ctx context.Context, s *registerapi.RegistrationStatus) (*registerapi.RegistrationStatusResponse, error) {
	a.status <- s
	if a.mute {
		<-ctx.Done()
	}
	return &registerapi.RegistrationStatusResponse{}, nil
}

// announce serves a plugin at a socket until stop is called, which removes the socket.
func announce(t *testing.T, socket string, info *registerapi.PluginInfo) (status chan *registerapi.RegistrationStatus, stop func()) {
	t.Helper()
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	a := &announcer{info: info, status: make(chan *registerapi.RegistrationStatus, 10), mute: info.GetName() == "mute"}
	server := grpc.NewServer()
	registerapi.RegisterRegistrationServer(server, a)
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(listener) }()
	stop = func() { server.Stop(); <-done }
	t.Cleanup(stop)
	return a.status, stop
}

func watch(t *testing.T, dir string, r *recorder) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); New(dir, map[string]Handler{"T": r}).Run(ctx) }()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return stop
}

func want(t *testing.T, heard <-chan string, wants ...string) {
	t.Helper()
	for _, want := range wants {
		select {
		case got := <-heard:
			if got != want {
				t.Fatalf("heard %q, want %q", got, want)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("never heard %q", want)
		}
	}
}

// TestPlugins: one that is there already, one that comes in a new directory, both go; ending the watcher deregisters nothing.
func TestPlugins(t *testing.T) {
	dir := t.TempDir()
	r := &recorder{heard: make(chan string, 100), refuse: make(chan error, 1)}
	_, stopFirst := announce(t, dir+"/a.sock", &registerapi.PluginInfo{Type: "T", Name: "a", Endpoint: "/e/a", SupportedVersions: []string{"1.0"}})
	if err := os.WriteFile(dir+"/file", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	stop := watch(t, dir, r)
	want(t, r.heard, "validate a", "register a a")
	if err := os.Mkdir(dir+"/sub", 0o755); err != nil {
		t.Fatal(err)
	}
	status, _ := announce(t, dir+"/sub/b.sock", &registerapi.PluginInfo{Type: "T", Name: "b", SupportedVersions: []string{"1.0"}})
	want(t, r.heard, "validate b", "register b b.sock")
	if s := <-status; !s.PluginRegistered || s.Error != "" {
		t.Errorf("the plugin is told %v", s)
	}
	stopFirst()
	want(t, r.heard, "deregister a")
	stop()
	select {
	case got := <-r.heard:
		t.Errorf("the end of the watcher: %s", got)
	default:
	}
}

// TestRefused: a plugin hears why it is refused; a refusal of the moment is asked again.
func TestRefused(t *testing.T) {
	dir := t.TempDir()
	r := &recorder{heard: make(chan string, 100), refuse: make(chan error, 1)}
	watch(t, dir, r)
	for i, info := range []*registerapi.PluginInfo{
		{Type: "Other", Name: "x", SupportedVersions: []string{"1.0"}}, {Type: "T", Name: "x"}, {Type: "T", SupportedVersions: []string{"1.0"}},
	} {
		status, stop := announce(t, fmt.Sprintf("%s/%d.sock", dir, i), info)
		if s := <-status; s.PluginRegistered || s.Error == "" {
			t.Errorf("plugin %d is told %v", i, s)
		}
		stop()
	}
	r.refuse <- errors.New("not now")
	status, _ := announce(t, dir+"/t.sock", &registerapi.PluginInfo{Type: "T", Name: "t", SupportedVersions: []string{"1.0"}})
	want(t, r.heard, "validate t", "refuse t", "validate t", "register t t.sock")
	if s := <-status; s.PluginRegistered || s.Error != "plugin registration failed with err: not now" {
		t.Errorf("first the plugin is told %v", s)
	}
	if s := <-status; !s.PluginRegistered {
		t.Errorf("then the plugin is told %v", s)
	}
}

// TestReplaced: a plugin that starts again under the same path is registered again.
func TestReplaced(t *testing.T) {
	dir := t.TempDir()
	r := &recorder{heard: make(chan string, 100), refuse: make(chan error, 1)}
	watch(t, dir, r)
	info := &registerapi.PluginInfo{Type: "T", Name: "a", SupportedVersions: []string{"1.0"}}
	_, stop := announce(t, dir+"/a.sock", info)
	want(t, r.heard, "validate a", "register a a.sock")
	stop()
	announce(t, dir+"/a.sock", info)
	want(t, r.heard, "deregister a", "validate a", "register a a.sock")
}

// TestUntold: of a plugin that was taken and does not listen to it, only the plugin's end is a deregistration, not the
// kubelet's.
func TestUntold(t *testing.T) {
	for _, plugin := range []bool{true, false} {
		dir := t.TempDir()
		r := &recorder{heard: make(chan string, 100), refuse: make(chan error, 1)}
		stopWatcher := watch(t, dir, r)
		status, stopPlugin := announce(t, dir+"/m.sock", &registerapi.PluginInfo{Type: "T", Name: "mute", SupportedVersions: []string{"1.0"}})
		want(t, r.heard, "validate mute", "register mute m.sock")
		<-status
		if plugin {
			stopPlugin()
			want(t, r.heard, "deregister mute")
		}
		stopWatcher()
		if len(r.heard) > 0 {
			t.Errorf("at the end of the watcher: %s", <-r.heard)
		}
	}
}

// TestLostEvents: a plugin whose socket goes while the kernel drops events is deregistered when that is known.
func TestLostEvents(t *testing.T) {
	dir := t.TempDir()
	r := &recorder{heard: make(chan string, 100)}
	_, stop := announce(t, dir+"/a.sock", &registerapi.PluginInfo{Type: "T", Name: "a", Endpoint: "/e/a", SupportedVersions: []string{"1.0"}})
	w := New(dir, map[string]Handler{"T": r})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); w.Run(ctx) }()
	defer func() { cancel(); <-done }()
	want(t, r.heard, "validate a", "register a a")
	if err := w.events.Remove(dir); err != nil {
		t.Fatal(err)
	}
	stop()
	w.events.Errors <- fsnotify.ErrEventOverflow
	want(t, r.heard, "deregister a")
}
