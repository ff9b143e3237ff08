package podworkers

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr/funcr"
	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"minikubelet/status"
)

var rejected = &Kill{Override: &status.Override{Phase: corev1.PodFailed, Reason: "OutOfcpu"}}

// TestPredecessorVanishes: a static pod whose predecessor is only the runtime's starts also if that goes, by itself or
// because the loop has it ended, right after it was found.
func TestPredecessorVanishes(t *testing.T) {
	for name, vanish := range map[string]func(b *bench){
		"removed from the runtime": func(b *bench) {
			for _, id := range b.fake.SandboxIDs() {
				_, _ = b.fake.Direct().Runtime.RemovePodSandbox(context.Background(), &runtimeapi.RemovePodSandboxRequest{PodSandboxId: id})
			}
			b.opts.Cache.Delete("old")
		},
		"ended by the loop": func(b *bench) {
			b.EndOrphan(b.ctx, "old")
			time.Sleep(time.Second)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				first := newBench(t)
				first.update(Update{Pod: testPod("old", static)})
				first.stop()
				b := newBenchOver(t, first.fake, first.dir)
				logger := funcr.New(func(_, line string) {
					if strings.Contains(line, "An earlier pod of this name still runs") {
						vanish(b)
					}
				}, funcr.Options{})
				b.UpdatePod(klog.NewContext(b.ctx, logger), Update{Pod: testPod("new", static)})
				b.wait(5 * time.Second)
				b.wantGone("old")
				b.want("new", "box a:run")
			})
		})
	}
}

// TestComesBackToEnd: a pod that comes back with its UID while it ends, and must not run then, gets its status all the same.
func TestComesBackToEnd(t *testing.T) {
	for name, end := range map[string]func(b *bench){
		"rejected": func(b *bench) { b.UpdatePod(b.ctx, Update{Pod: testPod("u", nil), Kill: rejected}) },
		"killed after it came back": func(b *bench) {
			b.UpdatePod(b.ctx, Update{Pod: testPod("u", nil)})
			b.Kill("u", *rejected)
		},
		"changed after it was rejected": func(b *bench) {
			b.UpdatePod(b.ctx, Update{Pod: testPod("u", nil), Kill: rejected})
			b.UpdatePod(b.ctx, Update{Pod: testPod("u", nil)})
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				b.update(Update{Pod: testPod("u", nil)})
				b.Removed("u")
				end(b)
				b.settle()
				b.wantPhase("u", Finished)
				b.want("u", "")
				if s := b.statusOf("u"); s.Phase != corev1.PodFailed || s.Reason != "OutOfcpu" {
					t.Errorf("the status is %v %s", s.Phase, s.Reason)
				}
			})
		})
	}
}
