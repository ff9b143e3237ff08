package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/term"
	"k8s.io/apimachinery/pkg/types"

	"minikubelet/kubelet/timeline/story"
)

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
	if !ok || !term.IsTerminal(int(file.Fd())) {
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
	enterScreen = "\x1b[?1049h\x1b[?25l" // the alternate screen, without a cursor
	leaveScreen = "\x1b[?25h\x1b[?1049l"
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
	rows = rows[:min(len(rows), max(height-1, 1))]
	for i, row := range rows {
		if runes := []rune(row); len(runes) > width {
			row = string(runes[:max(width-3, 0)]) + "..."
		}
		rows[i] = row + clearLine
	}
	return home + strings.Join(rows, "\r\n") + clearBelow
}
