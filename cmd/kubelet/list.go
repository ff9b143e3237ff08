package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"golang.org/x/term"

	"minikubelet/kubelet/local"
)

// listPods prints the pods as they are now.
func listPods(ctx context.Context, a *asker) error {
	pods, err := a.Pods(ctx)
	if err != nil {
		return err
	}
	var lines []local.Summary
	for i := range pods {
		told, err := a.Story(ctx, &pods[i])
		if errors.Is(err, local.ErrNotFound) { // it has gone since
			continue
		}
		if err != nil {
			return err
		}
		lines = append(lines, local.Summarize(&pods[i], told))
	}
	return table(a.out, lines, time.Now())
}

// table prints a line for each pod.
func table(out io.Writer, lines []local.Summary, now time.Time) error {
	t := tabwriter.NewWriter(out, 0, 8, 3, ' ', 0)
	fmt.Fprintln(t, "NAMESPACE\tNAME\tREADY\tSTATE\tRESTARTS\tAGE\tIP")
	for _, l := range lines {
		age := "-"
		if !l.Created.IsZero() {
			age = max(0, now.Sub(l.Created)).Round(time.Second).String()
		}
		fmt.Fprintf(t, "%s\t%s\t%d/%d\t%s\t%d\t%s\t%s\n", l.Namespace, l.Name, l.Ready, l.Of, l.State, l.Restarts, age, cmp.Or(l.IP, "-"))
	}
	return t.Flush()
}

// watch prints the pods as they change: a picture that is drawn anew on a terminal, and lines elsewhere.
func watch(ctx context.Context, a *asker) error {
	file, ok := a.out.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) {
		return a.Watch(ctx, func(l local.Summary) {
			fmt.Fprintln(a.out, time.Now().Format("15:04:05"), line(l))
		})
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := &screen{out: file, pods: map[string]local.Summary{}}
	fmt.Fprint(a.out, enterScreen)
	defer s.leave()
	go func() { // ages grow while nothing happens
		for tick := time.Tick(time.Second); ctx.Err() == nil; <-tick {
			s.draw()
		}
	}()
	return a.Watch(ctx, s.set)
}

// line is a pod with what there is to say of it.
func line(l local.Summary) string {
	state := l.State
	if l.Gone {
		state = "gone"
	}
	text := fmt.Sprintf("%s/%s %s %d/%d", l.Namespace, l.Name, state, l.Ready, l.Of)
	if l.Restarts > 0 {
		text += fmt.Sprintf(" restarts %d", l.Restarts)
	}
	if about := cmp.Or(l.Progress, l.Answer); about != "" && !l.Gone {
		text += ": " + about
	}
	return text
}

const (
	enterScreen = "\x1b[?1049h\x1b[?25l" // the alternate screen, without a cursor
	leaveScreen = "\x1b[?25h\x1b[?1049l"
	home        = "\x1b[H"
	clearLine   = "\x1b[K"
	clearBelow  = "\x1b[J"
)

// screen is a terminal with all pods on it.
type screen struct {
	out *os.File

	mu   sync.Mutex
	pods map[string]local.Summary
	left bool
}

// leave gives the terminal back; nothing is drawn on it afterwards.
func (s *screen) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left = true
	_, _ = io.WriteString(s.out, leaveScreen)
}

func (s *screen) set(l local.Summary) {
	s.mu.Lock()
	if s.pods[string(l.UID)] = l; l.Gone {
		delete(s.pods, string(l.UID))
	}
	s.mu.Unlock()
	s.draw()
}

func (s *screen) draw() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.left {
		return
	}
	width, height, err := term.GetSize(int(s.out.Fd()))
	if err != nil || width == 0 || height == 0 { // a serial line does not know its size
		width, height = 80, 24
	}
	_, _ = io.WriteString(s.out, picture(s.pods, time.Now(), width, height)) // a terminal that is gone ends the program
}

// picture is the screen's content: the table, and below it why pods wait.
func picture(pods map[string]local.Summary, now time.Time, width, height int) string {
	var lines []local.Summary
	for _, l := range pods {
		lines = append(lines, l)
	}
	slices.SortFunc(lines, func(a, b local.Summary) int {
		return strings.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name)
	})
	var text strings.Builder
	_ = table(&text, lines, now) // a Builder takes everything
	text.WriteString("\n")
	for _, l := range lines {
		if about := cmp.Or(l.Progress, l.Answer); about != "" {
			fmt.Fprintf(&text, "%s/%s: %s\n", l.Namespace, l.Name, about)
		}
	}
	var out strings.Builder
	out.WriteString(home)
	rows := strings.Split(strings.TrimSuffix(text.String(), "\n"), "\n")
	for i, row := range rows[:min(len(rows), max(height-1, 1))] {
		if i > 0 {
			out.WriteString("\r\n")
		}
		if runes := []rune(row); len(runes) > width {
			row = string(runes[:max(width-3, 0)]) + "..."
		}
		out.WriteString(row + clearLine)
	}
	return out.String() + clearBelow
}
