package matrix

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// kills runs cells in which the kubelet is killed while a fault is met, and before.
func (r *run) kills(ctx context.Context) error {
	if r.cri == nil {
		for i := range 3 {
			start, fault := time.Now(), fmt.Sprintf("kill -9, number %d", i+1)
			if !r.wanted(fault) {
				continue
			}
			if err := r.restartKubelet(ctx, nil); err != nil {
				return err
			}
			if err := r.judge(ctx, fault, start); err != nil {
				return err
			}
		}
		return nil
	}
	waves := [][]Kind{{AnswerLost, Hanging}}
	if r.Long {
		waves = [][]Kind{{Failing}, {FailingLate}, {AnswerLost}, {Hanging}, {Cut}}
	}
	for _, kinds := range waves {
		k := killer{r: r, killed: map[string]bool{}}
		err := r.podCellsAtOnce(ctx, ", kubelet killed", kinds, k.armed)
		if err = errors.Join(err, k.err); err != nil {
			return err
		}
	}
	return r.killedBefore(ctx)
}

// killer kills the kubelet once in each step of the cells' pods, when a call of the step has met its fault.
type killer struct {
	r      *run
	mu     sync.Mutex // guards what follows
	killed map[string]bool
	err    error
}

func (k *killer) armed(step string, i *Injection) {
	go func() {
		select {
		case <-i.healed:
			return
		case <-i.First():
		}
		k.mu.Lock()
		defer k.mu.Unlock()
		if !k.killed[step] && k.err == nil {
			k.killed[step] = true
			k.err = k.r.restartKubelet(context.Background(), nil)
		}
	}()
}

// killedBefore has all of a new kubelet's first calls meet a fault.
func (r *run) killedBefore(ctx context.Context) error {
	kinds := callKinds
	if !r.Long {
		kinds = []Kind{AnswerLost}
	}
	for _, kind := range kinds {
		err := r.during(ctx, fmt.Sprintf("first calls after a kill: %s", kind), 2*requestTimeout, func() (func(), error) {
			return r.cri.faults.healAll, r.restartKubelet(ctx, func() error {
				for method := range r.cri.Methods() {
					r.cri.Inject(Fault{Kind: kind, Method: method, Times: 2, Delay: faultDelay})
				}
				return nil
			})
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// damages are what a power loss can do to a file that was not synced.
var damages = []struct {
	name  string
	short bool // it is in the short form
	do    func(path string, size int64) error
}{
	{"truncated", false, func(path string, size int64) error { return os.Truncate(path, size/2) }},
	{"empty", true, func(path string, _ int64) error { return os.Truncate(path, 0) }},
	{"garbage", true, func(path string, size int64) error {
		data := make([]byte, max(size, 16))
		_, _ = rand.Read(data)
		return os.WriteFile(path, data, 0o600)
	}},
	{"missing", false, func(path string, _ int64) error { return os.Remove(path) }},
}

// machine runs the cells of what happens to the machine.
func (r *run) machine(ctx context.Context) error {
	if r.Long {
		if err := r.reboot(ctx, "reboot", nil); err != nil {
			return err
		}
	}
	for _, damage := range damages {
		if !r.Long && !damage.short {
			continue
		}
		err := r.reboot(ctx, "power loss, all files "+damage.name, func() error {
			files, err := r.files()
			for path, size := range files {
				err = errors.Join(err, damage.do(path, size))
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	if r.Long {
		if err := r.eachFile(ctx); err != nil {
			return err
		}
	}
	return r.fullDisk(ctx)
}

// reboot takes the machine down and starts it and the kubelet again.
func (r *run) reboot(ctx context.Context, fault string, off func() error) error {
	return r.during(ctx, fault, 0, func() (func(), error) {
		r.o.excuse()
		return func() {}, r.restartKubelet(ctx, func() error { return r.s.Reboot(ctx, off) })
	})
}

// files are those that the kubelet, and a runtime in it, wrote below its root directory, with their sizes: not what is in
// volumes and images.
func (r *run) files() (map[string]int64, error) {
	files := map[string]int64{}
	err := filepath.WalkDir(r.s.RootDir(), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rest, _ := filepath.Rel(r.s.RootDir(), path)
		if d.IsDir() && isContent(rest) {
			return filepath.SkipDir
		}
		if d.Type().IsRegular() {
			info, err := d.Info()
			if err != nil {
				return err
			}
			files[path] = info.Size()
		}
		return nil
	})
	return files, err
}

// isContent tells whether a directory has what a pod or an image has in it, or an overlay of the kernel's, not what the kubelet
// writes for itself.
func isContent(path string) bool {
	parts := strings.Split(path, "/")
	if parts[0] == "pods" && len(parts) > 4 && parts[2] == "volumes" { // pods/UID/volumes/PLUGIN/NAME
		return parts[3] == "kubernetes.io~empty-dir"
	}
	last := parts[len(parts)-1]
	return strings.Contains(path, "/layers/") && last == "fs" || strings.Contains(path, "/snapshots/") && slices.Contains([]string{"fs", "diff", "upper", "work"}, last)
}

// eachFile damages one file of each sort at a time, and starts the kubelet with it.
func (r *run) eachFile(ctx context.Context) error {
	if r.counting {
		return nil
	}
	files, err := r.files()
	if err != nil {
		return err
	}
	sorts := map[string]string{}
	for path := range files {
		rest, _ := filepath.Rel(r.s.RootDir(), path)
		sorts[unique.ReplaceAllString(rest, "*")] = path
	}
	r.meter.More(len(sorts) * len(damages))
	for sort, path := range sorts {
		for _, damage := range damages {
			err := r.during(ctx, fmt.Sprintf("%s %s", sort, damage.name), 0, func() (func(), error) {
				r.o.excuse()
				return func() {}, r.restartKubelet(ctx, func() error {
					info, err := os.Stat(path)
					if os.IsNotExist(err) { // its pod has gone meanwhile
						return nil
					}
					return errors.Join(err, damage.do(path, info.Size()))
				})
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// fullDisk fills the filesystem of the kubelet's root directory for a while.
func (r *run) fullDisk(ctx context.Context) error {
	filler := filepath.Join(r.s.RootDir(), "filler")
	return r.during(ctx, "disk full", 8*time.Second, func() (func(), error) {
		f, err := os.Create(filler)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		block := make([]byte, 64<<10)
		for len(block) > 0 {
			if _, err := f.Write(block); errors.Is(err, syscall.ENOSPC) {
				block = block[:len(block)/2]
			} else if err != nil {
				return nil, err
			}
		}
		return func() { _ = os.Remove(filler) }, nil
	})
}
