package podworkers

// Phase is where a pod stands between its first update and its removal.
//
//	            killed, ended                stopped               cleaned
//	Syncing ───────────────────► Terminating ───────► Terminated ─────────► Finished
//	   │  ▲                        │  ▲                 │  ▲                  │
//	   └──┘ synced                 └──┘ killed          └──┘ killed           └─► killed:
//	                                                                      Finished again,
//	                                                                 the API object may go
//
// There is no way back: a pod that began to end never starts a container
// again. A pod with the same name that comes later has a UID, and so a worker,
// of its own.
//
// Upstream: pkg/kubelet/pod_workers.go PodWorkerState, told there by four
// timestamps and seven booleans.
type Phase int

const (
	// Syncing is a pod that should run: syncPod drives the runtime towards its spec.
	Syncing Phase = iota
	// Terminating is a pod whose containers are being stopped.
	Terminating
	// Terminated is a pod of which nothing runs; its volumes and cgroups are being removed.
	Terminated
	// Finished is a pod that left nothing on the node but logs of stopped containers.
	Finished
)

var phaseNames = [...]string{"Syncing", "Terminating", "Terminated", "Finished"}

// String is the phase's name as logs show it.
func (p Phase) String() string {
	if p < 0 || int(p) >= len(phaseNames) {
		return "invalid"
	}
	return phaseNames[p]
}

// signal is what happened to a pod.
type signal int

const (
	synced  signal = iota // syncPod returned and the pod should go on running
	ended                 // every container ended and none will be restarted
	killed                // deleted, removed from its source, rejected, evicted or over its deadline
	stopped               // no container and no sandbox of it runs any more
	cleaned               // volumes and cgroups are gone
)

// transitions is the whole truth about phases: what is not listed changes nothing.
var transitions = map[Phase]map[signal]Phase{
	Syncing:     {synced: Syncing, ended: Terminating, killed: Terminating},
	Terminating: {killed: Terminating, stopped: Terminated},
	Terminated:  {killed: Terminated, cleaned: Finished},
	Finished:    {killed: Finished},
}

// next returns the phase that follows p on s, and whether s means anything in p.
func (p Phase) next(s signal) (Phase, bool) {
	n, ok := transitions[p][s]
	if !ok {
		return p, false
	}
	return n, true
}
