package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"minikubelet/e2e/stack"
	"minikubelet/kubelet/local"
	"minikubelet/kubelet/timeline/story"
)

const (
	enterKey  = "\r"
	interrupt = "\x03" // Ctrl-C
)

// terminal is a pseudo-terminal with a program on it.
type terminal struct {
	*os.File // the user's end: what is written there is typed
	other    *os.File
	shown    lockedText
	before   unix.Termios
	cmd      *exec.Cmd
	ended    chan struct{}
}

// newTerminal makes a terminal of a size.
func newTerminal(t *testing.T, rows, columns uint16) *terminal {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	x := &terminal{File: os.NewFile(uintptr(fd), "/dev/ptmx"), ended: make(chan struct{})}
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		x.other, err = os.OpenFile(fmt.Sprint("/dev/pts/", number), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	x.resize(t, rows, columns)
	x.before = x.mode(t)
	var copies sync.WaitGroup
	copies.Go(func() { _, _ = io.Copy(&x.shown, x.File) })
	t.Cleanup(func() {
		x.other.Close()
		x.Close()
		copies.Wait()
		if t.Failed() {
			t.Logf("the terminal shows:\n%q", x.shown.String())
		}
	})
	return x
}

// onTerminal runs a command of the kubelet's program on a terminal of 30 rows and 90 columns.
func onTerminal(ctx context.Context, t *testing.T, env string, args ...string) *terminal {
	t.Helper()
	x := newTerminal(t, 30, 90)
	ctx, cancel := context.WithCancel(ctx)
	x.cmd = exec.CommandContext(ctx, shared.KubeletBinary, args...)
	x.cmd.Env = append(os.Environ(), "KUBELET_ROOT_DIR="+shared.RootDir(), "TERM=xterm", env)
	x.cmd.Stdin, x.cmd.Stdout, x.cmd.Stderr = x.other, x.other, x.other
	x.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := x.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = x.cmd.Wait(); close(x.ended) }()
	t.Cleanup(func() { cancel(); <-x.ended })
	return x
}

func (x *terminal) resize(t *testing.T, rows, columns uint16) {
	t.Helper()
	if err := unix.IoctlSetWinsize(int(x.other.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns}); err != nil {
		t.Fatal(err)
	}
}

func (x *terminal) mode(t *testing.T) unix.Termios {
	t.Helper()
	mode, err := unix.IoctlGetTermios(int(x.other.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return *mode
}

func (x *terminal) typed(t *testing.T, text string) {
	t.Helper()
	if _, err := x.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

// see waits until the terminal has shown a text.
func (x *terminal) see(ctx context.Context, t *testing.T, text string) {
	t.Helper()
	eventually(ctx, t, fmt.Sprintf("the terminal shows %q", text), func() bool { return strings.Contains(x.shown.String(), text) })
}

// end waits for the program's end, with an exit code and a text at last, and sees that the terminal is as it was.
func (x *terminal) end(ctx context.Context, t *testing.T, code int, text string) {
	t.Helper()
	eventually(ctx, t, "the program has ended", func() bool {
		select {
		case <-x.ended:
			return true
		default:
			return false
		}
	})
	if got := x.cmd.ProcessState.ExitCode(); got != code {
		t.Errorf("%q ended with %d, want %d", x.cmd.Args[1:], got, code)
	}
	if x.mode(t) != x.before {
		t.Errorf("%q left the terminal in another mode", x.cmd.Args[1:])
	}
	x.see(ctx, t, text)
}

// picture is what kubelet watch has drawn last, as lines.
func (x *terminal) picture() []string {
	shown := x.shown.String()
	whole := strings.LastIndex(shown, "\x1b[J")
	if whole < 0 {
		return nil
	}
	shown = shown[strings.LastIndex(shown[:whole], "\x1b[H")+3 : whole]
	return strings.Split(strings.ReplaceAll(strings.ReplaceAll(shown, "\x1b[K", ""), "\r", ""), "\n")
}

// fakeLocal answers kubelet watch with what it is told, and may break off.
func fakeLocal(t *testing.T, root string) (tell chan<- []story.Summary, away func()) {
	t.Helper()
	path := local.Path(root)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	told := make(chan []story.Summary)
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for {
			select {
			case <-r.Context().Done():
				return
			case lines := <-told:
				_ = json.NewEncoder(w).Encode(lines)
				_ = http.NewResponseController(w).Flush()
			}
		}
	})}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { server.Close() })
	return told, func() { server.Close() }
}

// TestWatchTerminal: on a terminal kubelet watch draws a picture that fits it, whatever its size and its pods' texts, and leaves
// nothing behind. On one that can draw none it prints lines.
func TestWatchTerminal(t *testing.T) {
	ctx := onStack(t)
	root := t.TempDir()
	tell, away := fakeLocal(t, root)
	pods := func(state string) (all []story.Summary) {
		for i := range 40 {
			all = append(all, story.Summary{Name: fmt.Sprintf("default/pod-%02d", i), Of: 1, State: state})
		}
		all[0].Answer = strings.Repeat("容器", 60)
		return all
	}
	x := onTerminal(ctx, t, "", "watch", "--root-dir="+root)
	tell <- pods("Pending")[:2]
	x.see(ctx, t, "Pending")
	tell <- pods("Ready")[:2]
	eventually(ctx, t, "what changed is drawn", func() bool { p := x.picture(); return len(p) > 3 && strings.Contains(p[2], "Ready") })
	if p := x.picture(); !strings.HasPrefix(p[0], "NAMESPACE") || !strings.Contains(p[4], "容器") || len(p) != 5 {
		t.Errorf("two pods, one with a text:\n%q", p)
	}
	if shown := x.shown.String(); !strings.Contains(shown, "\x1b[?7l") || !strings.Contains(shown, "\x1b[?1049h") {
		t.Error("a row that is wider than its characters are many would be continued on the next one, or the shell's text is overwritten")
	}
	x.resize(t, 10, 30)
	tell <- pods("Ready")
	eventually(ctx, t, "a small window's picture says that there is more", func() bool { p := x.picture(); return strings.Contains(p[len(p)-1], "more") })
	p := x.picture()
	if len(p) > 10 || !strings.Contains(p[0]+p[1], "pod-00") || p[len(p)-1] != "... 35 more lines" {
		t.Errorf("40 pods on 10 rows:\n%q", p)
	}
	for _, row := range p {
		if len([]rune(row)) > 30 {
			t.Errorf("wider than the window: %q", row)
		}
	}
	x.typed(t, interrupt)
	x.end(ctx, t, 0, "\x1b[?7h\x1b[?25h\x1b[?1049l")

	plain := onTerminal(ctx, t, "TERM=dumb", "watch", "--root-dir="+root)
	tell <- pods("Pending")[:1]
	plain.see(ctx, t, "default/pod-00 Pending 0/1: 容器")
	if shown := plain.shown.String(); strings.Contains(shown, "\x1b") || strings.Count(shown, "\n") != 1 {
		t.Errorf("for a terminal that obeys no escapes: %q", shown)
	}
	pictures := onTerminal(ctx, t, "", "watch", "--root-dir="+root)
	lines := append(pods("Pending")[:2], story.Summary{Name: "kube-system/dns", State: "Ready"})
	feed := func(x *terminal, text string) { // by whichever of the watchers asks
		t.Helper()
		eventually(ctx, t, "a watcher shows "+text, func() bool {
			select {
			case tell <- lines:
			default:
			}
			return strings.Contains(x.shown.String(), text)
		})
	}
	feed(pictures, "kube-system   dns")
	away()
	for _, x := range []*terminal{plain, pictures} {
		x.see(ctx, t, "the kubelet broke off (has it ended?)")
	}
	tell, _ = fakeLocal(t, root)
	lines = append(lines, story.Summary{Name: "kube-system/new", State: "Ready"})
	for _, x := range []*terminal{plain, pictures} {
		feed(x, "new")
		x.typed(t, interrupt)
		x.end(ctx, t, 0, "new")
	}
	if shown := plain.shown.String(); strings.Contains(shown, "gone") {
		t.Errorf("pods that go on are told to be gone: %q", shown)
	}
}

// TestExecTerminal: a shell in a container behaves as one of this machine does, and whatever ends it, the terminal is as before.
func TestExecTerminal(t *testing.T) {
	ctx, _ := node(t)
	pod := newPod(t)
	pod.Spec.Containers[0] = shell("app", "echo hello; sleep 1000")
	ready(ctx, t, pod)
	x := onTerminal(ctx, t, "", "exec", "-it", pod.Name, "--", "sh")
	eventually(ctx, t, "the size is known, which the shell may ask for before it arrives", func() bool {
		x.typed(t, "stty size\r")
		return strings.Contains(x.shown.String(), "30 90")
	})
	x.typed(t, "echo pro\"\"mpt\r")
	x.see(ctx, t, "echo pro\"\"mpt")
	x.see(ctx, t, "prompt")
	if x.mode(t) == x.before {
		t.Error("the terminal echoes what is typed, as the container's does")
	}
	x.typed(t, "echo be\"\"gun; cat\r")
	x.see(ctx, t, "begun")
	x.typed(t, "line\r")
	x.see(ctx, t, "line\r\nline")
	x.resize(t, 20, 50)
	x.typed(t, interrupt)
	eventually(ctx, t, "the new size is known", func() bool {
		x.typed(t, "stty size\r")
		return strings.Contains(x.shown.String(), "20 50")
	})
	x.typed(t, "exit 7\r")
	x.end(ctx, t, 7, "exit 7")

	killed := onTerminal(ctx, t, "", "exec", "-it", pod.Name, "--", "sh")
	killed.see(ctx, t, "# ")
	if err := killed.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	killed.end(ctx, t, 1, "kubelet: exec: ")

	left, follower := onTerminal(ctx, t, "", "exec", "-it", pod.Name, "--", "sh"), onTerminal(ctx, t, "", "logs", "-f", pod.Name)
	watcher, stopped := onTerminal(ctx, t, "", "watch"), onTerminal(ctx, t, "", "logs", "-f", pod.Name)
	left.see(ctx, t, "# ")
	follower.see(ctx, t, "hello")
	watcher.see(ctx, t, pod.Name)
	stopped.see(ctx, t, "hello")
	stopped.typed(t, interrupt)
	stopped.end(ctx, t, 0, "hello")
	o := options
	if err := kubelet.Kill(); err != nil {
		t.Fatal(err)
	}
	left.end(ctx, t, 1, "kubelet: exec: the connection was lost before the command's end was known")
	follower.end(ctx, t, 1, "kubelet: the kubelet broke off (has it ended?)")
	watcher.see(ctx, t, "the kubelet broke off (has it ended?)")
	startKubelet(ctx, t, o)
	eventually(ctx, t, "the watcher has gone on with the next kubelet", func() bool { return strings.Contains(strings.Join(watcher.picture(), "\n"), pod.Name) })
	watcher.typed(t, interrupt)
	watcher.end(ctx, t, 0, pod.Name)
}

// TestExecPipes: what goes through pipes arrives whole, in both directions.
func TestExecPipes(t *testing.T) {
	ctx, _ := node(t)
	pod := newPod(t)
	pod.Spec.Containers[0] = shell("app", "sleep 1000")
	ready(ctx, t, pod)
	data := make([]byte, 8<<20)
	_, _ = rand.Read(data)
	cmd := exec.CommandContext(ctx, shared.KubeletBinary, "exec", "-i", "--root-dir="+shared.RootDir(), pod.Name, "--", "sh", "-c", "cat; echo aside >&2; exit 9")
	var out, aside bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(data), &out, &aside
	err := cmd.Run()
	if code := new(exec.ExitError); !asExit(err, code) || code.ExitCode() != 9 || !bytes.Equal(out.Bytes(), data) || aside.String() != "aside\n" {
		t.Errorf("%v, %d bytes of %d come back, %q aside", err, out.Len(), len(data), aside.String())
	}
}

// TestLocalMistakes: what cannot be done ends with 1 and a line that names the mistake, and nothing on standard output.
func TestLocalMistakes(t *testing.T) {
	ctx, _ := node(t)
	pod := newPod(t)
	pod.Spec.Containers[0] = shell("app", "sleep 1000")
	ready(ctx, t, pod)
	name := pod.Name
	for _, tc := range [][]string{ // the message, then the command
		{"pod default/no-such is not on this node", "exec", "no-such", "--", "true"},
		{`container not found ("nope")`, "exec", name, "-c", "nope", "--", "true"},
		{"no-such-command", "exec", name, "--", "no-such-command"},
		{"exec: the command is: kubelet exec [NAMESPACE/]POD -- COMMAND", "exec", name},
		{"exec: --tty needs --stdin", "exec", "-t", name, "--", "sh"},
		{"exec: --tty needs a terminal as standard input", "exec", "-it", name, "--", "sh"},
		{"pod kube-system/" + name + " is not on this node, but default/" + name + " is", "logs", "kube-system/" + name},
		{"pod kube-system/" + name + " is not on this node, but default/" + name + " is", "logs", "-n", "kube-system", name},
		{"pod kube-system/" + name + " is not on this node", "exec", "-nkube-system", name, "--", "true"},
		{"pod kube-system/" + name + " is not on this node", "explain", "pod", name, "--namespace=kube-system"},
		{"pod kube-system/" + name + " is not on this node", "stop", name, "--namespace", "kube-system"},
		{`container "nope" not found in pod`, "logs", name, "--container=nope"},
		{`previous terminated container "app" in pod "` + name + `" not found`, "logs", "-p", name},
		{"logs: the command is: kubelet logs [NAMESPACE/]POD", "logs"},
		{"tailLines: -5 is less than 0", "logs", name, "--tail=-5"},
		{`logs: invalid argument "x" for "--tail" flag`, "logs", name, "--tail=x"},
		{"pod default/no-such is not on this node", "stop", "no-such"},
		{`gracePeriod: "-3" is not a number`, "stop", name, "--grace-period=-3"},
		{"pods: the command is: kubelet pods", "pods", "web"},
		{"watch: unknown flag: --nope", "watch", "--nope"},
		{"explain: only a pod can be explained", "explain", "node", name},
		{"no kubelet answers on /none/local/kubelet.sock", "pods", "--root-dir=/none"},
	} {
		args := tc[1:]
		cmd := exec.CommandContext(ctx, shared.KubeletBinary, args...)
		cmd.Env = append(os.Environ(), "KUBELET_ROOT_DIR="+shared.RootDir())
		var out, wrong bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &wrong
		_ = cmd.Run()
		if code := cmd.ProcessState.ExitCode(); code != 1 || out.Len() > 0 || !strings.HasPrefix(wrong.String(), "kubelet: ") || !strings.Contains(wrong.String(), tc[0]) || strings.Count(wrong.String(), "\n") != 1 {
			t.Errorf("%q ends with %d, writes %q and %q, want 1 and %q", args, code, out.String(), wrong.String(), tc[0])
		}
	}
}

// TestStepTerminal: Enter in the terminal of a kubelet that was started by hand releases the first step that is held, and other
// words are answered.
func TestStepTerminal(t *testing.T) {
	ctx, s := embeddedStack(t)
	write(t, filepath.Join(s.ManifestDir(), "pod.yaml"), fmt.Sprintf(manifest, "pod", "red"))
	x := newTerminal(t, 24, 80)
	k, err := s.StartKubelet(stack.KubeletOptions{Standalone: true, Args: []string{"--timeline", "--step=RunPodSandbox,CreateContainer"}, Wrap: func(args []string) []string {
		return append([]string{"sh", "-c", `exec "$@" <"$0"`, x.other.Name()}, args...)
	}})
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []string{"RunPodSandbox", "CreateContainer"} {
		eventually(ctx, t, step+" is held", func() bool { return strings.Contains(k.Log(), `step="`+step+`"`) })
		x.typed(t, "what\n77\n\n")
	}
	standalone(ctx, t, s, "the pod is ready", isReady)
	for _, want := range []string{"STEP MODE: steps wait until they are released", "Enter releases the first step, a number that one", "no step 77 is held", `"STEP MODE: the step is released" id=2`} {
		if !strings.Contains(k.Log(), want) {
			t.Errorf("the log lacks %q", want)
		}
	}
	token := timelineLink(ctx, t, s).Query().Get("token")
	if n := strings.Count(k.Log(), token); n != 1 {
		t.Errorf("the page's token is in the log %d times", n)
	}
	if err := k.Stop(20 * time.Second); err != nil {
		t.Error(err)
	}
}
