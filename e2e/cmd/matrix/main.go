// Command matrix injects faults into a node and prints what came of each: see package minikubelet/e2e/matrix. It fails
// when one did not heal. `make matrix` and `make soak` are this command.
package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"

	"k8s.io/klog/v2"

	"minikubelet/e2e/matrix"
	"minikubelet/e2e/stack"
)

func main() {
	os.Exit(run())
}

func run() int {
	var o matrix.Options
	flag.StringVar(&o.Bin, "bin", "", "directory of the stack's programs (default $"+stack.BinEnv+")")
	flag.StringVar(&o.Runtime, "runtime", stack.Containerd, "containerd, crid or embedded")
	flag.StringVar(&o.Kubelet, "kubelet", "", "the kubelet (default $"+stack.KubeletEnv+" or bin/kubelet)")
	flag.BoolVar(&o.Long, "long", false, "all cells, instead of the short form")
	flag.BoolVar(&o.KeepDir, "keep", false, "leave the stack's logs behind")
	var soak bool
	var raceKubelet string
	flag.BoolVar(&soak, "soak", false, "all cells, 500 pods at once ten times, 1,000 pods one after the other; on all runtimes, or on the one that -runtime names")
	flag.StringVar(&raceKubelet, "race-kubelet", "", "the kubelet of the 1,000 pods (default as the others)")
	only := flag.String("only", "", "faults to inject, by a regular expression of their names")
	flag.Parse()
	if *only != "" {
		expression, err := regexp.Compile(*only)
		if err != nil {
			fmt.Fprintln(os.Stderr, "matrix: -only:", err)
			return 2
		}
		o.Only = expression
	}
	o.Progress = os.Stderr
	klog.LogToStderr(false) // client-go complains of connections that break on purpose
	klog.SetOutput(io.Discard)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	forms := []form{{o, matrix.Run}}
	if soak {
		runtimes := []string{stack.Embedded, stack.Containerd, stack.Crid}
		flag.Visit(func(f *flag.Flag) {
			if f.Name == "runtime" {
				runtimes = []string{o.Runtime}
			}
		})
		forms = soakForms(o, runtimes, raceKubelet)
	}
	code := 0
	for i, f := range forms {
		f.o.Title = "matrix, " + f.o.Runtime
		if len(forms) > 1 {
			f.o.Title = fmt.Sprintf("soak, run %d of %d, %s", i+1, len(forms), f.o.Runtime)
		}
		rows, err := f.run(ctx, f.o)
		fmt.Printf("\nruntime %s, kubelet %s\n", f.o.Runtime, cmp.Or(filepath.Base(filepath.Dir(f.o.Kubelet)), "bin"))
		if !matrix.Print(os.Stdout, rows) {
			code = 1
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "matrix:", err)
			code = 1
		}
	}
	return code
}

// form is one run on a stack of its own.
type form struct {
	o   matrix.Options
	run func(context.Context, matrix.Options) ([]matrix.Row, error)
}

// soakForms are the runs of the long form.
func soakForms(o matrix.Options, runtimes []string, raceKubelet string) (forms []form) {
	o.Long = true
	with := func(runtime, kubelet string) matrix.Options {
		o := o
		o.Runtime = runtime
		if kubelet != "" {
			o.Kubelet = kubelet
		}
		return o
	}
	for _, runtime := range runtimes {
		forms = append(forms,
			form{with(runtime, ""), matrix.Run},
			form{with(runtime, ""), matrix.Crowds{AtOnce: 500, Rounds: 10}.Run},
			form{with(runtime, raceKubelet), matrix.Crowds{Churned: 1000}.Run})
	}
	return forms
}
