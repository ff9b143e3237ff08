package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"path"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/term"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/remotecommand"
	clientspdy "k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/util/exec"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"

	podinfo "minikubelet/config/pod"
	"minikubelet/kubelet/local"
	"minikubelet/kubelet/timeline/story"
)

// command is something that this program asks a kubelet on the same machine, over its local socket.
type command struct {
	name, args, usage string
	flags             string // those of asker.flags that it takes besides --root-dir and --namespace
	run               func(ctx context.Context, a *asker) error
}

// asker is a command that was given, with its flags.
type asker struct {
	*local.Client
	args []string // without flags
	rest []string // after --
	out  io.Writer

	rootDir, namespace, output, container, sinceTime string
	follow, previous, timestamps, stdin, tty         bool
	tail, limit, grace                               int64
	since                                            time.Duration
}

var commands = []command{
	{"explain", "pod [NAMESPACE/]NAME", "why a pod does not run or was restarted, what to do about it, and its life so far", "output", explain},
	{"pods", "", "the pods on this node", "", listPods},
	{"watch", "", "the pods on this node, live, and why those wait that do not run", "", watch},
	{"logs", "[NAMESPACE/]POD", "what a container wrote", "container follow previous timestamps tail since since-time limit-bytes", logs},
	{"exec", "[NAMESPACE/]POD -- COMMAND [ARGS...]", "run a command in a container", "container stdin tty", execute},
	{"stop", "[NAMESPACE/]POD", "end a static pod until its manifest changes or the kubelet starts", "grace-period", stopPod},
}

// flags are those of all commands.
func (a *asker) flags() *pflag.FlagSet {
	set := pflag.NewFlagSet("", pflag.ContinueOnError)
	set.StringVar(&a.rootDir, "root-dir", cmp.Or(os.Getenv("KUBELET_ROOT_DIR"), "/var/lib/kubelet"), "the kubelet's root directory, in which its socket is; $KUBELET_ROOT_DIR by default")
	set.StringVarP(&a.namespace, "namespace", "n", "", "namespace, as with kubectl; by default that of a pod is default, and lists have all")
	set.StringVarP(&a.output, "output", "o", "", "json for programs")
	set.StringVarP(&a.container, "container", "c", "", "container of the pod; by default the one that its annotation kubectl.kubernetes.io/default-container names, or its first")
	set.BoolVarP(&a.follow, "follow", "f", false, "print what it writes from now on too, until Ctrl-C")
	set.BoolVarP(&a.previous, "previous", "p", false, "what its instance before the last restart wrote")
	set.BoolVar(&a.timestamps, "timestamps", false, "each line with its time")
	set.Int64Var(&a.tail, "tail", -1, "print only so many lines at the end; -1 for all")
	set.DurationVar(&a.since, "since", 0, "print only what is newer than this, such as 5s, 2m or 3h")
	set.StringVar(&a.sinceTime, "since-time", "", "print only what is newer than this time, as RFC 3339 writes it")
	set.Int64Var(&a.limit, "limit-bytes", 0, "print no more than so many bytes; 0 for all")
	set.BoolVarP(&a.stdin, "stdin", "i", false, "pass on what is typed")
	set.BoolVarP(&a.tty, "tty", "t", false, "give it a terminal")
	set.Int64Var(&a.grace, "grace-period", -1, "seconds between SIGTERM and SIGKILL, if that is less than the pod's own, which -1 stands for")
	return set
}

// line is how the command is given.
func (c *command) line() string { return strings.TrimSpace("kubelet " + c.name + " " + c.args) }

// find returns the command that the command line begins with, nil if it is none: then it is a kubelet's.
func find(args []string) *command {
	for i := range commands {
		if len(args) > 0 && args[0] == commands[i].name {
			return &commands[i]
		}
	}
	return nil
}

// main runs a command as a program of its own. Its exit code is that of the command which it ran in a container.
func (c *command) main(args []string) {
	err := c.ask(args, os.Stdout)
	if ended, ok := errors.AsType[exec.CodeExitError](err); ok {
		os.Exit(ended.Code)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "kubelet:", err)
		os.Exit(1)
	}
}

// ask runs a command.
func (c *command) ask(args []string, out io.Writer) error {
	a := &asker{out: out}
	all, set := a.flags(), pflag.NewFlagSet("kubelet "+c.name, pflag.ContinueOnError)
	for name := range strings.FieldsSeq("root-dir namespace " + c.flags) {
		set.AddFlag(all.Lookup(name))
	}
	set.SetOutput(out)
	set.Usage = func() {
		fmt.Fprintf(out, "%s\n\n  %s\n\n%s", c.usage, c.line(), set.FlagUsages())
	}
	if err := set.Parse(args); errors.Is(err, pflag.ErrHelp) {
		return nil
	} else if err != nil {
		return fmt.Errorf("%s: %w", c.name, err)
	}
	a.args = set.Args()
	if at := set.ArgsLenAtDash(); at >= 0 {
		a.args, a.rest = a.args[:at], a.args[at:]
	}
	if want := len(strings.Fields(strings.Split(c.args, " -- ")[0])); len(a.args) != want || strings.Contains(c.args, " -- ") != (len(a.rest) > 0) {
		return fmt.Errorf("%s: the command is: %s", c.name, c.line())
	}
	if a.output != "" && a.output != "json" {
		return fmt.Errorf("%s: --output=%s: only json can be chosen", c.name, a.output)
	}
	if a.tty && !a.stdin {
		return fmt.Errorf("%s: --tty needs --stdin (-it), since without it no key reaches the command", c.name)
	}
	a.Client = local.NewClient(a.rootDir)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	return c.run(ctx, a)
}

// pod is the one that the last argument names, and the container that is meant of it.
func (a *asker) pod(ctx context.Context) (pod *corev1.Pod, container string, err error) {
	if pod, err = a.Find(ctx, path.Join(a.namespace, a.args[len(a.args)-1])); err != nil {
		return nil, "", err
	}
	byDefault := cmp.Or(podinfo.Container(pod, pod.Annotations["kubectl.kubernetes.io/default-container"]), &pod.Spec.Containers[0])
	return pod, cmp.Or(a.container, byDefault.Name), nil
}

func explain(ctx context.Context, a *asker) error {
	if kind := a.args[0]; kind != "pod" {
		return fmt.Errorf("explain: only a pod can be explained, not %q: kubelet explain pod [NAMESPACE/]NAME", kind)
	}
	return a.print(ctx, http.MethodGet, url.Values{"output": {a.output}}, "story", false)
}

// help lists the commands.
func help(out io.Writer) {
	fmt.Fprintln(out, "\nCommands, which ask the kubelet that runs on this machine (--help after one tells more):")
	for _, c := range commands {
		fmt.Fprintf(out, "  %s\n        %s\n", c.line(), c.usage)
	}
}

// listPods prints the pods as they are now.
func listPods(ctx context.Context, a *asker) error {
	return a.Watch(ctx, a.namespace, func(lines []story.Summary) bool {
		fmt.Fprint(a.out, table(lines, time.Now()))
		return false
	})
}

// table is a line for each pod.
func table(lines []story.Summary, now time.Time) string {
	var text strings.Builder
	t := tabwriter.NewWriter(&text, 0, 8, 3, ' ', 0)
	fmt.Fprintln(t, "NAMESPACE\tNAME\tREADY\tSTATE\tRESTARTS\tAGE\tIP")
	for _, l := range lines {
		age := "-"
		if !l.Created.IsZero() {
			age = max(0, now.Sub(l.Created)).Round(time.Second).String()
		}
		fmt.Fprintf(t, "%s\t%d/%d\t%s\t%d\t%s\t%s\n", strings.Replace(l.Name, "/", "\t", 1), l.Ready, l.Of, l.State, l.Restarts, age, cmp.Or(l.IP, "-"))
	}
	_ = t.Flush() // a Builder takes everything
	return text.String()
}

// watch prints the pods as they change: a picture on a terminal, and lines elsewhere. It goes on with the next kubelet when one ends.
func watch(ctx context.Context, a *asker) error {
	show, say := differences, func(text string) { fmt.Fprintln(a.out, time.Now().Format(time.TimeOnly), text) }
	if file, ok := a.out.(*os.File); ok && term.IsTerminal(int(file.Fd())) && os.Getenv("TERM") != "dumb" {
		show, say = pictures, func(text string) { fmt.Fprint(file, home+clearLine+text+clearBelow) }
		fmt.Fprint(file, enterScreen)
		defer fmt.Fprint(file, leaveScreen)
	}
	for first := true; ; first = false {
		answered, on := false, show(a.out)
		err := a.Watch(ctx, a.namespace, func(lines []story.Summary) bool {
			answered = true
			return on(lines)
		})
		switch {
		case ctx.Err() != nil:
			return nil
		case first && !answered:
			return err
		case answered:
			say(err.Error() + "; it is waited for")
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// pictures returns what draws the pods on a terminal.
func pictures(out io.Writer) func([]story.Summary) bool {
	return func(lines []story.Summary) bool {
		width, height, err := term.GetSize(int(out.(*os.File).Fd()))
		if err != nil || width == 0 || height == 0 { // a serial line does not know its size
			width, height = 80, 24
		}
		fmt.Fprint(out, picture(lines, time.Now(), width, height))
		return true
	}
}

// differences returns what prints a line for each pod that is another than before.
func differences(out io.Writer) func([]story.Summary) bool {
	told := map[types.UID]string{}
	return func(lines []story.Summary) bool {
		here, now := map[types.UID]string{}, time.Now().Format(time.TimeOnly)
		for _, l := range lines {
			text := fmt.Sprintf("%s %s %d/%d", l.Name, l.State, l.Ready, l.Of)
			if l.Restarts > 0 {
				text += fmt.Sprintf(" restarts %d", l.Restarts)
			}
			if about := cmp.Or(l.Progress, l.Answer); about != "" {
				text += ": " + about
			}
			if told[l.UID] != text {
				fmt.Fprintln(out, now, text)
			}
			here[l.UID] = text
		}
		for uid, text := range told {
			if here[uid] == "" {
				fmt.Fprintln(out, now, strings.Fields(text)[0], "gone")
			}
		}
		told = here
		return true
	}
}

const (
	enterScreen = "\x1b[?1049h\x1b[?25l\x1b[?7l" // the alternate screen, without a cursor; a row that is too wide, as of Chinese, is cut off
	leaveScreen = "\x1b[?7h\x1b[?25h\x1b[?1049l"
	home        = "\x1b[H"
	clearLine   = "\x1b[K"
	clearBelow  = "\x1b[J"
)

// picture is the screen's content: the table, and below it why pods wait.
func picture(lines []story.Summary, now time.Time, width, height int) string {
	rows := strings.Split(table(lines, now), "\n")
	for _, l := range lines {
		if about := cmp.Or(l.Progress, l.Answer); about != "" {
			rows = append(rows, l.Name+": "+about)
		}
	}
	if most := max(height-1, 1); len(rows) > most {
		rows = append(rows[:most-1], fmt.Sprintf("... %d more lines", len(rows)-most+1))
	}
	for i, row := range rows {
		if runes := []rune(row); len(runes) > width {
			row = string(runes[:max(width-3, 0)]) + "..."
		}
		rows[i] = clearLine + row
	}
	return home + strings.Join(rows, "\r\n") + clearBelow
}

// logs prints what a container wrote.
func logs(ctx context.Context, a *asker) error {
	return a.print(ctx, http.MethodGet, url.Values{
		"follow": {fmt.Sprint(a.follow)}, "previous": {fmt.Sprint(a.previous)}, "timestamps": {fmt.Sprint(a.timestamps)}, "sinceTime": {a.sinceTime},
		"tailLines": {unless(-1, a.tail)}, "limitBytes": {unless(0, a.limit)}, "sinceSeconds": {unless(0, int64((a.since+time.Second-1)/time.Second))},
	}, "containerLogs", true)
}

// unless writes a flag's number for the query, but for the one that stands for everything, which is not asked for.
func unless(everything, number int64) string {
	if number == everything {
		return ""
	}
	return fmt.Sprint(number)
}

// stopPod ends a static pod and waits until it has ended.
func stopPod(ctx context.Context, a *asker) error {
	return a.print(ctx, http.MethodPost, url.Values{"gracePeriod": {unless(-1, a.grace)}}, "stop", false)
}

// print prints what is answered to a request about the pod, or about its container.
func (a *asker) print(ctx context.Context, method string, query url.Values, what string, ofContainer bool) error {
	pod, container, err := a.pod(ctx)
	if err != nil {
		return err
	}
	of := []string{what, pod.Namespace, pod.Name}
	if ofContainer {
		of = append(of, container)
	}
	body, err := a.Do(ctx, method, query, of...)
	if err != nil {
		return err
	}
	defer body.Close()
	if _, err := io.Copy(a.out, body); err != nil && ctx.Err() == nil {
		return local.BrokenOff(err)
	}
	return nil
}

// execute runs a command in a container, with this program's input and output.
func execute(ctx context.Context, a *asker) error {
	pod, container, err := a.pod(ctx)
	if err != nil {
		return err
	}
	o := remotecommand.StreamOptions{Stdout: a.out, Stderr: os.Stderr, Tty: a.tty}
	query := url.Values{corev1.ExecStdoutParam: {"1"}, "command": a.rest}
	if a.stdin {
		o.Stdin = os.Stdin
		query.Set(corev1.ExecStdinParam, "1")
	}
	if a.tty {
		o.Stderr = nil
		query.Set(corev1.ExecTTYParam, "1")
		in := int(os.Stdin.Fd())
		before, err := term.MakeRaw(in) // every key is the command's
		if err != nil {
			return fmt.Errorf("exec: --tty needs a terminal as standard input: %w", err)
		}
		defer func() { _ = term.Restore(in, before) }()
		changed := make(sizes, 1)
		changed <- syscall.SIGWINCH // the size that it has now
		signal.Notify(changed, syscall.SIGWINCH)
		o.TerminalSizeQueue = changed
	} else {
		query.Set(corev1.ExecStderrParam, "1")
	}
	tripper, err := spdy.NewRoundTripperWithConfig(spdy.RoundTripperConfig{UpgradeTransport: a.Transport, PingPeriod: 5 * time.Second})
	if err != nil {
		return err
	}
	target := a.URL(query, "exec", pod.Namespace, pod.Name, container)
	end := &ends{SpdyRoundTripper: tripper}
	executor, err := remotecommand.NewSPDYExecutorForTransports(tripper, clientspdy.NewUpgraderForStreaming(end), http.MethodPost, target)
	if err != nil {
		return err
	}
	if err := executor.StreamWithContext(ctx, o); err != nil {
		return fmt.Errorf("exec: %w", err)
	}
	if !end.told {
		return errors.New("exec: the connection was lost before the command's end was known")
	}
	return nil
}

// ends notes whether the kubelet told of a command's end: a connection that is lost ends its streams as a command does that succeeds.
type ends struct {
	*spdy.SpdyRoundTripper
	httpstream.Connection
	told bool
}

// NewConnection implements httpstream.UpgradeRoundTripper.
func (e *ends) NewConnection(answer *http.Response) (_ httpstream.Connection, err error) {
	e.Connection, err = e.SpdyRoundTripper.NewConnection(answer)
	return e, err
}

// CreateStream implements httpstream.Connection.
func (e *ends) CreateStream(header http.Header) (httpstream.Stream, error) {
	stream, err := e.Connection.CreateStream(header)
	if err == nil && header.Get(corev1.StreamType) == corev1.StreamTypeError {
		return endStream{stream, e}, nil
	}
	return stream, err
}

// endStream is the one that the end is told on.
type endStream struct {
	httpstream.Stream
	of *ends
}

// Read implements io.Reader.
func (s endStream) Read(p []byte) (int, error) {
	n, err := s.Stream.Read(p)
	s.of.told = s.of.told || n > 0
	return n, err
}

// sizes has a signal when the terminal has another size.
type sizes chan os.Signal

// Next implements remotecommand.TerminalSizeQueue.
func (changed sizes) Next() *remotecommand.TerminalSize {
	<-changed
	width, height, err := term.GetSize(int(os.Stdin.Fd()))
	if err != nil {
		return nil
	}
	return &remotecommand.TerminalSize{Width: uint16(width), Height: uint16(height)}
}
