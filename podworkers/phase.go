package podworkers

// Phase is where a pod stands between its first update and its removal.
//
//	         ended, killed             stopped             cleaned           forgotten
//	Syncing ───────────────► Terminating ─────► Terminated ───────► Finished ─────────► Gone
//
// There is no way back: a pod that began to end never starts a container again. A later pod of the same name has
// another UID, and so a worker of its own.
//
// Upstream: pkg/kubelet/pod_workers.go PodWorkerState, told there by four timestamps and seven booleans.
type Phase int

const (
	// Syncing is a pod that should run: syncPod drives the runtime towards its spec.
	Syncing Phase = iota
	// Terminating is a pod whose containers are being stopped.
	Terminating
	// Terminated is a pod of which nothing runs; its volumes and cgroups are being removed.
	Terminated
	// Finished is a pod that left nothing on the node but its stopped containers and their logs. They stay until the pod
	// is deleted.
	Finished
	// Gone is a pod that neither the node nor a source has any more; its worker ends.
	Gone
)

var phaseNames = [...]string{"Syncing", "Terminating", "Terminated", "Finished", "Gone"}

// String is the phase's name as logs show it.
func (p Phase) String() string {
	if p < 0 || int(p) >= len(phaseNames) {
		return "invalid"
	}
	return phaseNames[p]
}

// signal is what a step found out, or achieved. It names what happened, and so why the phase changes.
type signal string

const (
	none      signal = ""          // the pod stays in its phase
	ended     signal = "ended"     // every container ended and none will be restarted
	killed    signal = "killed"    // deleted, removed from its source, rejected, evicted or over its deadline
	stopped   signal = "stopped"   // no container and no sandbox of it runs any more
	cleaned   signal = "cleaned"   // volumes and cgroups are gone
	forgotten signal = "forgotten" // no source has it, and nothing of it is left
)

// transitions has the phase that follows each phase on each signal. A signal that is not listed changes nothing.
var transitions = map[Phase]map[signal]Phase{
	Syncing:     {ended: Terminating, killed: Terminating},
	Terminating: {stopped: Terminated},
	Terminated:  {cleaned: Finished},
	Finished:    {forgotten: Gone},
}

// next returns the phase that follows p on s.
func (p Phase) next(s signal) Phase {
	if to, ok := transitions[p][s]; ok {
		return to
	}
	return p
}
