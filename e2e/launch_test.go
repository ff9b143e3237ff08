package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/textproto"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"minikubelet/e2e/debugger"
)

// launchConfigurations are those of the editor, by their names.
func launchConfigurations(t *testing.T) map[string]map[string]any {
	t.Helper()
	text, err := os.ReadFile("../.vscode/launch.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Version        string
		Configurations []map[string]any
	}
	if err := json.Unmarshal(regexp.MustCompile(`(?m)^\s*//.*$`).ReplaceAll(text, nil), &file); err != nil || file.Version != "0.2.0" {
		t.Fatalf("version %q: %v", file.Version, err)
	}
	all := map[string]map[string]any{}
	for _, c := range file.Configurations {
		all[c["name"].(string)] = c
	}
	return all
}

// TestLaunchConfigurations: what the editor is told to debug has the fields that its kind needs and no others, variables that there are,
// and the address that make's targets and the documentation name.
func TestLaunchConfigurations(t *testing.T) {
	makefile, docs := read(t, "../Makefile"), read(t, "../docs/debugging.md")
	cluster, script := read(t, "cmd/cluster/main.go"), read(t, "kind/kind.sh")
	target := regexp.MustCompile(`^make ([a-z]+)`)
	configurations := launchConfigurations(t)
	for name, c := range configurations {
		kind := fmt.Sprint(c["request"], " ", c["mode"])
		want := map[string][]string{
			"attach remote": {"debugAdapter", "host", "port"}, "attach local": {"asRoot", "console", "processId"}, "launch test": {"program"},
		}[kind]
		if want == nil || c["type"] != "go" {
			t.Errorf("%s: %s of type %v", name, kind, c["type"])
		}
		want = append(want, "name", "type", "request", "mode")
		for _, key := range want {
			if c[key] == nil {
				t.Errorf("%s: no %s", name, key)
			}
		}
		for key := range c {
			if !slices.Contains(append(want, "substitutePath"), key) {
				t.Errorf("%s: %s means nothing to %s", name, key, kind)
			}
		}
		text, _ := json.Marshal(c)
		for _, variable := range regexp.MustCompile(`\$\{[^}]*\}`).FindAllString(string(text), -1) {
			if !slices.Contains([]string{"${workspaceFolder}", "${fileDirname}", "${command:pickProcess}"}, variable) {
				t.Errorf("%s: %s is no variable", name, variable)
			}
		}
		if match := target.FindStringSubmatch(name); match != nil && !strings.Contains(makefile, "\n"+match[1]+":") {
			t.Errorf("%s: there is no make %s", name, match[1])
		}
		if kind == "attach remote" {
			// The editor's default for it is an adapter of its own that delve is not tested with.
			address := fmt.Sprint(c["host"], ":", c["port"])
			for where, text := range map[string]string{"make help": makefile, "docs/debugging.md": docs, "cluster": cluster} {
				if !strings.Contains(text, address) {
					t.Errorf("%s: %s does not name %s", name, where, address)
				}
			}
			if c["debugAdapter"] != "dlv-dap" {
				t.Errorf("%s: %v", name, c["debugAdapter"])
			}
		}
	}
	remote := configurations["make kind DEBUG=1: a kind node's kubelet"]
	if remote == nil || !strings.Contains(script, fmt.Sprintf("--listen=:%v", remote["port"])) || !strings.Contains(script, fmt.Sprintf("--publish %v:%[2]v:%[2]v", remote["host"], remote["port"])) {
		t.Errorf("kind.sh does not publish %v", remote)
	}
	if len(configurations) != 4 {
		t.Errorf("%d configurations", len(configurations))
	}
}

// dap is an editor's end of the Debug Adapter Protocol.
type dap struct {
	t *testing.T
	net.Conn
	in *textproto.Reader
}

// dapMessage is a response or an event.
type dapMessage struct {
	Type, Command, Event, Message string
	Success                       bool
	Body                          struct {
		Reason      string
		ThreadID    int
		Breakpoints []struct {
			Verified bool
			Message  string
			Source   struct{ Path string }
		}
		StackFrames []struct {
			Line   int
			Source struct{ Path string }
		}
		Error struct{ Format string }
	}
}

// startDlv starts dlv in a directory and connects to where it says that it listens.
func startDlv(ctx context.Context, t *testing.T, dir string, args ...string) *dap {
	t.Helper()
	cmd := exec.CommandContext(ctx, os.Getenv(debugger.Env), args...)
	cmd.Dir = dir
	out, err := cmd.StdoutPipe()
	if err == nil {
		cmd.Stderr = t.Output()
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(out)
	address := ""
	for listening := regexp.MustCompile(`server listening at: (\S+)`); address == ""; {
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatalf("dlv %q has ended: %v", args, err)
		}
		if match := listening.FindStringSubmatch(line); match != nil {
			address = match[1]
		}
	}
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		_ = cmd.Process.Signal(os.Interrupt)
		_, _ = io.Copy(io.Discard, lines)
		_ = cmd.Wait()
	})
	d := &dap{t, conn, textproto.NewReader(bufio.NewReader(conn))}
	_ = conn.SetDeadline(time.Now().Add(4 * time.Minute)) // a test's program may have to be compiled
	d.ask("initialize", map[string]any{"adapterID": "go", "pathFormat": "path", "linesStartAt1": true, "columnsStartAt1": true})
	d.await("initialize")
	return d
}

func (d *dap) ask(command string, arguments any) {
	d.t.Helper()
	body, err := json.Marshal(map[string]any{"seq": 1, "type": "request", "command": command, "arguments": arguments})
	if err == nil {
		_, err = fmt.Fprintf(d, "Content-Length: %d\r\n\r\n%s", len(body), body)
	}
	if err != nil {
		d.t.Fatal(err)
	}
}

// await reads until the response to a command, or an event, of that name.
func (d *dap) await(name string) (m dapMessage) {
	d.t.Helper()
	for {
		header, err := d.in.ReadMIMEHeader()
		if err != nil {
			d.t.Fatalf("before %s: %v", name, err)
		}
		length, _ := strconv.Atoi(header.Get("Content-Length"))
		body := make([]byte, length)
		if _, err := io.ReadFull(d.in.R, body); err != nil {
			d.t.Fatal(err)
		}
		m = dapMessage{}
		if err := json.Unmarshal(body, &m); err != nil {
			d.t.Fatalf("%v: %s", err, body)
		}
		if m.Type == "response" && !m.Success {
			d.t.Fatalf("%s: %s: %s", m.Command, m.Message, m.Body.Error.Format)
		}
		if m.Command == name || m.Event == name {
			return m
		}
	}
}

// debugs asks for a session as an editor does, and sees that it stops at a line of a file that the editor has open.
func (d *dap) debugs(configuration map[string]any, file string, line int) {
	d.t.Helper()
	d.ask(configuration["request"].(string), configuration)
	d.await("initialized")
	d.ask("setBreakpoints", map[string]any{"source": map[string]any{"path": file}, "breakpoints": []any{map[string]any{"line": line}}})
	if set := d.await("setBreakpoints").Body.Breakpoints; len(set) != 1 || !set[0].Verified || set[0].Source.Path != file {
		d.t.Fatalf("breakpoints: %+v", set)
	}
	d.ask("configurationDone", nil)
	stopped := d.await("stopped").Body
	d.ask("stackTrace", map[string]any{"threadId": stopped.ThreadID})
	if frames := d.await("stackTrace").Body.StackFrames; stopped.Reason != "breakpoint" || len(frames) == 0 || frames[0].Line != line || frames[0].Source.Path != file {
		d.t.Errorf("stopped for %s at %+v", stopped.Reason, frames)
	}
	d.ask("disconnect", map[string]any{"terminateDebuggee": true})
	d.await("disconnect")
}

// TestLaunch: delve takes each of the editor's configurations as it is, but for what the editor puts in the place of variables, and stops
// where a breakpoint was set in the editor; also in a program that was built in another directory.
func TestLaunch(t *testing.T) {
	dlv := os.Getenv(debugger.Env)
	if dlv == "" {
		t.Skipf("end-to-end: %s is not set; make e2e sets it", debugger.Env)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	built, opened := t.TempDir(), t.TempDir()
	for _, dir := range []string{built, opened} {
		write(t, filepath.Join(dir, "go.mod"), "module example\n\ngo 1.24\n")
		write(t, filepath.Join(dir, "main.go"), "package main\n\nimport \"time\"\n\nfunc main() {\n\tfor {\n\t\ttime.Sleep(time.Millisecond)\n\t}\n}\n")
		write(t, filepath.Join(dir, "main_test.go"), "package main\n\nimport \"testing\"\n\nfunc Test(t *testing.T) {\n\tt.Log(\"here\")\n}\n")
	}
	program := filepath.Join(built, "example")
	build := exec.CommandContext(ctx, "go", "build", "-gcflags=all=-N -l", "-o", program, ".")
	build.Dir = built
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for name, c := range launchConfigurations(t) {
		t.Run(name, func(t *testing.T) {
			c := maps.Clone(c)
			switch fmt.Sprint(c["request"], " ", c["mode"]) {
			case "attach remote":
				open := built
				if c["substitutePath"] != nil {
					open = opened
					pair := maps.Clone(c["substitutePath"].([]any)[0].(map[string]any))
					pair["from"] = strings.Replace(pair["from"].(string), "${workspaceFolder}", opened, 1)
					pair["to"] = strings.Replace(pair["to"].(string), "${workspaceFolder}", built, 1)
					c["substitutePath"] = []any{pair}
				}
				d := startDlv(ctx, t, built, "exec", "--headless", "--accept-multiclient", "--api-version=2", "--listen=127.0.0.1:0", program)
				d.debugs(c, filepath.Join(open, "main.go"), 7)
			case "attach local":
				running := exec.CommandContext(ctx, program)
				if err := running.Start(); err != nil {
					t.Fatal(err)
				}
				defer func() { _ = running.Process.Kill(); _ = running.Wait() }()
				c["processId"] = running.Process.Pid
				startDlv(ctx, t, built, "dap", "--listen=127.0.0.1:0").debugs(c, filepath.Join(built, "main.go"), 7)
			default:
				c["program"] = strings.Replace(c["program"].(string), "${fileDirname}", built, 1)
				startDlv(ctx, t, built, "dap", "--listen=127.0.0.1:0").debugs(c, filepath.Join(built, "main_test.go"), 6)
			}
		})
	}
}
