package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"minikubelet/e2e/stack"
)

// labCommand is one command of a lab, with what should come back.
type labCommand struct {
	line int
	text string
	want []string
}

// labCommands reads the blocks of a lab that are marked as console.
func labCommands(text string) []labCommand {
	var all []labCommand
	inside := false
	for i, line := range strings.Split(text, "\n") {
		switch {
		case strings.HasPrefix(line, "```"):
			inside = line == "```console"
		case !inside:
		case strings.HasPrefix(line, "$ "):
			all = append(all, labCommand{line: i + 1, text: line[2:]})
		case line == ">" || strings.HasPrefix(line, "> "):
			all[len(all)-1].text += "\n" + strings.TrimPrefix(line[1:], " ")
		default:
			all[len(all)-1].want = append(all[len(all)-1].want, line)
		}
	}
	return all
}

// matches compares output with what a lab shows, where ... is anything, and spaces are not counted.
func (c labCommand) matches(output string) bool {
	var pattern strings.Builder
	for _, line := range c.want {
		if line == "..." {
			pattern.WriteString(`(?:.*\n)*?`)
			continue
		}
		words := strings.ReplaceAll(regexp.QuoteMeta(strings.Join(strings.Fields(line), " ")), regexp.QuoteMeta("..."), ".*")
		pattern.WriteString(words + "\n")
	}
	var got strings.Builder
	for line := range strings.Lines(output) {
		got.WriteString(strings.Join(strings.Fields(line), " ") + "\n")
	}
	return regexp.MustCompile("^" + pattern.String() + "$").MatchString(got.String())
}

// looks tells whether a command may be tried again until the kubelet is as far: it changes nothing.
func (c labCommand) looks() bool {
	return strings.HasPrefix(c.text, "kubelet ") || strings.HasPrefix(c.text, "grep ") || strings.HasPrefix(c.text, "[ ")
}

// labShell is the shell that a lab is typed into.
type labShell struct {
	in  io.Writer
	out *bufio.Reader
}

// mark ends the output of a command.
const mark = "-- the command has ended --"

func newLabShell(ctx context.Context, t *testing.T, dir string) *labShell {
	t.Helper()
	cmd := exec.CommandContext(ctx, "bash")
	cmd.Dir = dir
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	return &labShell{in, bufio.NewReader(out)}
}

func (s *labShell) run(t *testing.T, command string) string {
	t.Helper()
	if _, err := fmt.Fprintf(s.in, "%s\necho; echo '%s'\n", command, mark); err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for {
		line, err := s.out.ReadString('\n')
		if err != nil {
			t.Fatalf("%s: %v\n%s", command, err, text.String())
		}
		if strings.TrimSpace(line) == mark {
			return strings.TrimSuffix(text.String(), "\n")
		}
		text.WriteString(line)
	}
}

// TestWorkshop types every lab as it stands in docs/workshop, and compares what comes back.
func TestWorkshop(t *testing.T) {
	ctx := onStack(t)
	labs, err := filepath.Glob("../docs/workshop/[0-9]-*.md")
	if err != nil || len(labs) != 8 {
		t.Fatalf("%d labs, %v", len(labs), err)
	}
	// What make run does once all is built.
	program, env := filepath.Join(t.TempDir(), "cluster"), filepath.Join(t.TempDir(), "node.sh")
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", program, "./cmd/cluster").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var said lockedText
	node := exec.CommandContext(ctx, program, "-standalone", "-env", env, "-bin", os.Getenv(stack.BinEnv))
	node.Dir, node.Stdout, node.Stderr = "..", &said, &said
	node.Cancel = func() error { return node.Process.Signal(os.Interrupt) }
	node.WaitDelay = 30 * time.Second
	if err := node.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = node.Process.Signal(os.Interrupt)
		if err := node.Wait(); err != nil || t.Failed() {
			t.Errorf("make run: %v\n%s", err, said.String())
		}
	}()
	eventually(ctx, t, "make run has its pods Ready", func() bool { return strings.Count(said.String(), " Ready at ") >= 3 })
	for _, lab := range labs {
		t.Run(filepath.Base(lab), func(t *testing.T) {
			shell := newLabShell(ctx, t, "..")
			for _, c := range labCommands(read(t, lab)) {
				c.text = strings.ReplaceAll(c.text, ". bin/node.sh", ". "+env)
				output := shell.run(t, c.text)
				for deadline := time.Now().Add(40 * time.Second); c.looks() && !c.matches(output) && time.Now().Before(deadline); output = shell.run(t, c.text) {
					time.Sleep(100 * time.Millisecond)
				}
				if !c.matches(output) {
					t.Fatalf("%s:%d: %s\ngives:\n%s\nwant:\n%s", lab, c.line, c.text, output, strings.Join(c.want, "\n"))
				}
			}
		})
	}
}
