package blocking

import (
	"maps"
	"slices"
	"strings"
)

// waiting are packages of others whose functions may wait, for a disk, a network or another process.
var waiting = []string{
	"os", "os/exec", "io", "io/ioutil", "net", "net/http", "syscall", "golang.org/x/sys/unix", "github.com/google/renameio/v2", "google.golang.org/grpc",
	"k8s.io/cri-api/pkg/apis/runtime/v1.RuntimeServiceClient", "k8s.io/cri-api/pkg/apis/runtime/v1.ImageServiceClient", "k8s.io/client-go/kubernetes", "k8s.io/client-go/rest", "github.com/opencontainers/cgroups", "github.com/coreos/go-systemd", "github.com/godbus",
	"k8s.io/mount-utils", "k8s.io/utils/exec", "github.com/moby/sys",
}

// quick are functions of those that do not.
var quick = []string{"os.Getpid", "os.Getenv", "os.IsNotExist", "net.ParseIP", "net.JoinHostPort", "net.SplitHostPort", "(net.IP).", "(*net.IPNet).", "net.ParseCIDR", "(io/fs.", "(os.FileMode)", "io.LimitReader", "(*os.File).Name"}

// waitingCalls are functions of other packages.
var waitingCalls = []string{"time.Sleep", "(*sync.WaitGroup).Wait", "(*sync.Cond).Wait", "path/filepath.EvalSymlinks", "path/filepath.Glob", "path/filepath.Walk", "path/filepath.WalkDir"}

// waits tells whether a function of another package may wait.
func waits(name string) bool {
	if slices.Contains(waitingCalls, name) {
		return true
	}
	for _, q := range quick {
		if strings.HasPrefix(name, q) {
			return false
		}
	}
	path := strings.TrimLeft(name, "(*")
	for _, w := range waiting {
		if rest, ok := strings.CutPrefix(path, w); ok && rest != "" && strings.Contains("./)", rest[:1]) {
			return true
		}
	}
	return false
}

// Check returns what the goroutine that calls root may wait in, "FUNCTION: OPERATION", and under which of the locks that it takes
// others may wait, "LOCK held by FUNCTION: OPERATION". parts are the functions behind fields and interfaces; a call of one that is not in it
// is an operation too. With each comes how the operation is reached.
func (p *Program) Check(root string, parts map[string][]string) map[string][]string {
	found := map[string][]string{}
	if p.funcs[root] == nil {
		found["there is no function "+root] = []string{}
		return found
	}
	c := &check{p: p, parts: parts}
	locks := map[string]bool{}
	c.follow(root, nil, map[string]bool{}, "", func(op operation, what string, way []string) {
		if op.lock != "" {
			locks[op.lock] = true
			return
		}
		found[what] = way
	})
	for _, name := range slices.Sorted(maps.Keys(p.funcs)) {
		for _, op := range p.funcs[name].does {
			for lock := range op.held {
				if !locks[lock] || op.lock != "" {
					continue
				}
				c.operation(name, op, nil, map[string]bool{}, lock, func(inner operation, what string, way []string) {
					if inner.lock == "" {
						found[lock+" held by "+name+": "+what] = way
					}
				})
			}
		}
	}
	return found
}

type check struct {
	p     *Program
	parts map[string][]string
}

// follow tells each operation of a function and of those that it calls. Under a lock, what a function does after freeing that is left out.
func (c *check) follow(name string, way []string, seen map[string]bool, under string, tell func(operation, string, []string)) {
	if seen[name] {
		return
	}
	seen[name] = true
	for _, op := range c.p.funcs[name].does {
		c.operation(name, op, way, seen, under, tell)
	}
}

func (c *check) operation(name string, op operation, way []string, seen map[string]bool, under string, tell func(operation, string, []string)) {
	if under != "" && op.released[under] {
		return
	}
	way = append(slices.Clone(way), name+" "+c.p.place(op.pos))
	switch {
	case op.lock != "":
		tell(op, "", way)
	case op.waits != "":
		tell(op, name+": "+op.waits, way)
	case op.dynamic:
		behind, listed := c.parts[op.call]
		if !listed {
			tell(op, name+": calls "+op.call, way)
		}
		for _, f := range behind {
			if c.p.funcs[f] == nil {
				tell(op, name+": calls "+op.call+", and there is no "+f, way)
				continue
			}
			c.follow(f, way, seen, under, tell)
		}
	case c.p.funcs[op.call] != nil:
		c.follow(op.call, way, seen, under, tell)
	case waits(op.call):
		tell(op, name+": "+op.call, way)
	}
}
