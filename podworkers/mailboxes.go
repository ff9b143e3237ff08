package podworkers

import "k8s.io/apimachinery/pkg/types"

// Mailbox is what a pod's worker has before it.
type Mailbox struct {
	UID   types.UID
	Phase Phase
	Mail  bool // an update that no step has seen
	Rings bool // there is a reason for another step
}

// Mailboxes returns those of all workers, for the timeline.
func (ws *Workers) Mailboxes() []Mailbox {
	var all []Mailbox
	for _, uid := range ws.UIDs() {
		if w := ws.worker(uid); w != nil {
			w.mu.Lock()
			all = append(all, Mailbox{uid, w.phase, w.updated, len(w.wake) > 0})
			w.mu.Unlock()
		}
	}
	return all
}
