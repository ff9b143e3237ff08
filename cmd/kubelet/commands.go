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
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/term"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/exec"

	"minikubelet/kubelet/local"
	"minikubelet/kubelet/timeline/story"
)

// command is something that this program asks a kubelet on the same machine, over its local socket.
type command struct {
	name, args, usage string
	flags             func(*pflag.FlagSet, *options)
	run               func(ctx context.Context, c *asker) error
}

// options are the flags of all commands.
type options struct {
	rootDir, output, container, tail, grace  string
	follow, previous, timestamps, stdin, tty bool
}

// asker is a command that was given.
type asker struct {
	*local.Client
	options
	args []string // without flags
	rest []string // after --
	out  io.Writer
}

var commands = []command{
	{"explain", "pod [NAMESPACE/]NAME", "why a pod does not run or was restarted, what to do about it, and its life so far",
		func(set *pflag.FlagSet, o *options) {
			set.StringVarP(&o.output, "output", "o", "", "json for programs")
		}, explain},
	{"pods", "", "the pods on this node", nil, listPods},
	{"watch", "", "the pods on this node, live, and why those wait that do not run", nil, watch},
	{"logs", "[NAMESPACE/]POD", "what a container wrote",
		func(set *pflag.FlagSet, o *options) {
			containerFlag(set, o)
			set.BoolVarP(&o.follow, "follow", "f", false, "print what it writes from now on too, until Ctrl-C")
			set.BoolVarP(&o.previous, "previous", "p", false, "what its instance before the last restart wrote")
			set.BoolVar(&o.timestamps, "timestamps", false, "each line with its time")
			set.StringVar(&o.tail, "tail", "", "print only so many lines at the end")
		}, logs},
	{"exec", "[NAMESPACE/]POD -- COMMAND [ARGS...]", "run a command in a container",
		func(set *pflag.FlagSet, o *options) {
			containerFlag(set, o)
			set.BoolVarP(&o.stdin, "stdin", "i", false, "pass on what is typed")
			set.BoolVarP(&o.tty, "tty", "t", false, "give it a terminal")
		}, execute},
	{"stop", "[NAMESPACE/]POD", "end a static pod until its manifest changes or the kubelet starts",
		func(set *pflag.FlagSet, o *options) {
			set.StringVar(&o.grace, "grace-period", "", "seconds between SIGTERM and SIGKILL, if that is less than the pod's own")
		}, stopPod},
}

func containerFlag(set *pflag.FlagSet, o *options) {
	set.StringVarP(&o.container, "container", "c", "", "container of the pod; its first by default")
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
	set := pflag.NewFlagSet("kubelet "+c.name, pflag.ContinueOnError)
	set.SetOutput(out)
	set.StringVar(&a.rootDir, "root-dir", cmp.Or(os.Getenv("KUBELET_ROOT_DIR"), "/var/lib/kubelet"), "the kubelet's root directory, in which its socket is; $KUBELET_ROOT_DIR by default")
	if c.flags != nil {
		c.flags(set, &a.options)
	}
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
	if want := len(strings.Fields(strings.Split(c.args, " -- ")[0])); len(a.args) != want || strings.Contains(c.args, " -- ") && len(a.rest) == 0 {
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
	if pod, err = a.Find(ctx, a.args[len(a.args)-1]); err != nil {
		return nil, "", err
	}
	if a.container != "" {
		return pod, a.container, nil
	}
	return pod, pod.Spec.Containers[0].Name, nil
}

func explain(ctx context.Context, a *asker) error {
	if kind := a.args[0]; kind != "pod" {
		return fmt.Errorf("explain: only a pod can be explained, not %q: kubelet explain pod [NAMESPACE/]NAME", kind)
	}
	pod, _, err := a.pod(ctx)
	if err != nil {
		return err
	}
	return a.print(ctx, http.MethodGet, url.Values{"output": {a.output}}, "story", pod.Namespace, pod.Name)
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
	return a.Watch(ctx, func(lines []story.Summary) bool {
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

// watch prints the pods as they change: a picture that is drawn anew on a terminal, and lines elsewhere.
func watch(ctx context.Context, a *asker) error {
	file, ok := a.out.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) || os.Getenv("TERM") == "dumb" {
		return a.Watch(ctx, differences(a.out))
	}
	fmt.Fprint(file, enterScreen)
	defer fmt.Fprint(file, leaveScreen)
	return a.Watch(ctx, func(lines []story.Summary) bool {
		width, height, err := term.GetSize(int(file.Fd()))
		if err != nil || width == 0 || height == 0 { // a serial line does not know its size
			width, height = 80, 24
		}
		fmt.Fprint(file, picture(lines, time.Now(), width, height))
		return true
	})
}

// differences returns what prints a line for each pod that is another than before.
func differences(out io.Writer) func([]story.Summary) bool {
	told := map[types.UID]string{}
	return func(lines []story.Summary) bool {
		here, now := map[types.UID]bool{}, time.Now().Format("15:04:05")
		for _, l := range lines {
			here[l.UID] = true
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
			told[l.UID] = text
		}
		for uid, text := range told {
			if !here[uid] {
				fmt.Fprintln(out, now, strings.Fields(text)[0], "gone")
				delete(told, uid)
			}
		}
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
