package kubelet

import (
	"context"
	"os"
	"strconv"

	"k8s.io/klog/v2"
)

// applyOOMScoreAdj tells the kernel how ready it should be to kill the kubelet when memory runs out. Without the
// capability to lower the score the kubelet runs with the one it has.
//
// Upstream: pkg/util/oom/oom_linux.go applyOOMScoreAdj.
func applyOOMScoreAdj(ctx context.Context, score int32) {
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte(strconv.Itoa(int(score))), 0o644); err != nil {
		klog.FromContext(ctx).Info("Setting the kubelet's OOM score failed, it keeps the one it has", "oomScoreAdj", score, "err", err)
	}
}
