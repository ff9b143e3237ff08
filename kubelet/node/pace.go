package node

import (
	"time"

	"minikubelet/kubelet/settings"
)

// pace is how often the node's status is worked out, how old it may become at the apiserver, and how many images it names.
type pace struct {
	update, report time.Duration
	images         int
	changed        chan struct{} // closed when another pace is set
}

// Reconfigure takes nodeStatusUpdateFrequency, nodeStatusReportFrequency and nodeStatusMaxImages, at once.
func (n *Node) Reconfigure(s *settings.Settings) {
	before := n.pace.Swap(&pace{
		update: s.NodeStatusUpdateFrequency.Duration, report: s.NodeStatusReportFrequency.Duration,
		images: int(*s.NodeStatusMaxImages), changed: make(chan struct{}),
	})
	if before != nil {
		close(before.changed)
		wake(n.check)
	}
}
