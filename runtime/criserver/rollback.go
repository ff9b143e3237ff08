package criserver

import (
	"context"
	"slices"

	"k8s.io/klog/v2"
)

// rollback takes back the steps of what failed, the last one first.
type rollback struct{ steps []undo }

type undo struct {
	what string
	fn   func(context.Context) error
}

// add says how to take back a step that is about to be done: it may be done half by then.
func (r *rollback) add(what string, fn func(context.Context) error) {
	r.steps = append(r.steps, undo{what, fn})
}

// run takes all steps back, whatever became of the caller.
func (r *rollback) run(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	for _, step := range slices.Backward(r.steps) {
		if err := step.fn(ctx); err != nil {
			klog.FromContext(ctx).Error(err, "Could not take back", "step", step.what)
		}
	}
}
