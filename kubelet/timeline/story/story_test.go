package story

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// input is a pod of one container that has not begun.
func input(changes ...func(*Input)) Input {
	in := Input{Now: now, Pod: &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", CreationTimestamp: metav1.NewTime(now.Add(-time.Minute))},
		Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyAlways,
			Containers:    []corev1.Container{{Name: "app", Image: "shop/web:1", Command: []string{"/web"}}},
		},
	}}
	waits(containerCreating, "")(&in)
	for _, change := range changes {
		change(&in)
	}
	return in
}

func waits(reason, message string) func(*Input) {
	return func(in *Input) {
		in.Pod.Status.Phase = corev1.PodPending
		in.Pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "app", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}}}
	}
}

func event(reason, message string) func(*Input) { return about("", reason, message) }

func about(container, reason, message string) func(*Input) {
	return func(in *Input) {
		at := now.Add(time.Duration(len(in.Events)-30) * time.Second)
		in.Events = append(in.Events, Event{First: at, Last: at, Count: 1, Reason: reason, Message: message, Container: container})
	}
}

func verdict(reason, message string) func(*Input) {
	return func(in *Input) {
		in.Pod.Status = corev1.PodStatus{Phase: corev1.PodFailed, Reason: reason, Message: message}
	}
}

func rejected(reason, message string) func(*Input) {
	return verdict(reason, "Pod was rejected: "+message)
}

func crashed(reason string, code int32, message string) func(*Input) {
	return func(in *Input) {
		waits("CrashLoopBackOff", "back-off 40s restarting failed container=app pod=web")(in)
		in.Pod.Status.Phase = corev1.PodRunning
		c := &in.Pod.Status.ContainerStatuses[0]
		c.RestartCount = 3
		c.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{Reason: reason, ExitCode: code, Message: message, FinishedAt: metav1.NewTime(now.Add(-20 * time.Second))}
	}
}

func runs(ready bool) func(*Input) {
	return func(in *Input) {
		in.Pod.Status.Phase = corev1.PodRunning
		in.Pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "app", Ready: ready, Started: &ready,
			State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(now.Add(-9 * time.Second))}}}}
		if ready {
			in.Pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		}
	}
}

func deleted(in *Input) {
	in.Pod.DeletionTimestamp, in.Pod.DeletionGracePeriodSeconds = &metav1.Time{Time: now.Add(20 * time.Second)}, new(int64(30))
}

func probe(kind string) func(*Input) {
	return func(in *Input) {
		c := &in.Pod.Spec.Containers[0]
		c.Ports = []corev1.ContainerPort{{ContainerPort: 8080}}
		p := &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/ok", Port: intstr.FromInt32(81)}}}
		*map[string]**corev1.Probe{"Liveness": &c.LivenessProbe, "Readiness": &c.ReadinessProbe, "Startup": &c.StartupProbe}[kind] = p
	}
}

// sidecar gives the pod one that is ready.
func sidecar(in *Input) {
	in.Pod.Spec.InitContainers = []corev1.Container{{Name: "proxy", RestartPolicy: new(corev1.ContainerRestartPolicyAlways)}}
	in.Pod.Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: "proxy", Ready: true, RestartCount: 1, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}
}

func limit(in *Input) {
	in.Pod.Spec.Containers[0].Resources.Limits = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("16Mi")}
}

const setUp = `MountVolume.SetUp failed for volume "data" : `

// TestTell: the messages are those of a kubelet, containerd, runc and registries.
func TestTell(t *testing.T) {
	for _, tc := range []struct {
		cause, says string
		in          Input
	}{
		{"", "", input(runs(true))},
		{"Starting", "its start is under way", input()},
		{"Starting", "the node is not ready: booting", input(func(in *Input) { in.Trouble = "booting" })},
		{"ConfigMapMissing", "its volume data: the ConfigMap a does not exist", input(event("FailedMount", setUp+`configmap "a" not found`))},
		{"SecretMissing", "the Secret a does not exist", input(event("FailedMount", setUp+`secret "a" not found`))},
		{"KeyMissing", "has no key k", input(waits("CreateContainerConfigError", "couldn't find key k in Secret default/a"))},
		{"KeyMissing", "asks for the key k, which the Secret a does not have", input(func(in *Input) {
			in.Pod.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "a"}}}}
		}, event("FailedMount", setUp+`references non-existent secret key: k`))},
		{"KeyMissing", "asks for the key k", input(event("FailedMount", setUp+`[configmap references non-existent config key: k, configmap "a" is away]`))},
		{"NotAuthorized", `whose user is system:node:n, read secrets "a"`, input(event("FailedMount", setUp+`read secret default/a: secrets "a" is forbidden: User "system:node:n" cannot list resource "secrets" in API group "" in the namespace "default": no relationship found between node 'n' and this object`))},
		{"ServiceAccountMissing", "service account a", input(event("FailedMount", setUp+`failed to fetch token: serviceaccounts "a" not found`))},
		{"HostPathMissing", "/data, which a hostPath volume names", input(event("FailedMount", setUp+`hostPath type check failed, /data is not a directory, unable to determine its type: path "/data" does not exist`))},
		{"HostPathType", "/data on the node is not a socket file", input(event("FailedMount", setUp+`hostPath type check failed: /data is not a socket file, it's a Directory`))},
		{"ClaimMissing", "PersistentVolumeClaim a", input(event("FailedMount", `error processing PVC default/a: failed to fetch PVC from API server: persistentvolumeclaims "a" not found`))},
		{"ClaimUnbound", "Claim a has no volume yet", input(event("FailedMount", `error processing PVC default/a: PVC is not bound`))},
		{"DriverMissing", "CSI driver d is not on this node", input(event("FailedMount", setUp+`driver name d not found in the list of registered CSI drivers`))},
		{"NotAttached", "volume data, which is not attached to this node yet", input(func(in *Input) { in.Attaching = []string{"data"} }, event("FailedMount", setUp+`configmap "a" not found`))},
		{"NotAttached", "nothing has asked for that", input(func(in *Input) { in.Attaching = []string{"data"} }, event("FailedMount", setUp+`timed out waiting for the volume to be attached: volume h has GET error for volume attachment csi-1: volumeattachments.storage.k8s.io "csi-1" is forbidden: User "system:node:n" cannot get resource "volumeattachments" in API group "storage.k8s.io" at the cluster scope: no relationship found between node 'n' and this object`))},
		{"NotAttached", "yet: volume h is not attached for volume attachment csi-1 (tried 2 times).", input(event("FailedMount", setUp+`timed out waiting for the volume to be attached: volume h is not attached for volume attachment csi-1`), func(in *Input) { in.Events[0].Count = 2 })},
		{"VolumeInUse", "ReadWriteOncePod", input(event("FailedMount", setUp+`volume uses the ReadWriteOncePod access mode and is already in use by another pod`))},
		{"VolumeUnsupported", "data is of the kind nfs", input(event("FailedMount", `spec.volumes[0] (data): volumes of kind nfs are not supported by this kubelet (left out by decision: drivers are programs that speak CSI)`))},
		{"MountFails", "something new", input(event("FailedMount", setUp+"something new"))},
		{"Starting", "", input(event("FailedMount", setUp+`configmap "a" not found`), about("app", "Pulled", "present"))},
		{"RuntimeClassMissing", "RuntimeClass kata does not exist", input(event("FailedCreatePodSandBox", `Failed to create pod sandbox: failed to get RuntimeClass "kata": RuntimeClass not found`))},
		{"HandlerMissing", "no handler kata", input(event("FailedCreatePodSandBox", `Failed to create pod sandbox: rpc error: no runtime for "kata" is configured`))},
		{"AddressesExhausted", "all of 10.0.0.1-10.0.0.6 are taken", input(event("FailedCreatePodSandBox", `plugin type="bridge" failed (add): failed to allocate for range 0: no IP addresses available in range set: 10.0.0.1-10.0.0.6`))},
		{"NetworkPlugin", "network plugin flannel", input(event("FailedCreatePodSandBox", `plugin type="flannel" failed (add): open /run/flannel/subnet.env: no such file`))},
		{"NetworkNotReady", "waits for the node's network", input(func(in *Input) {
			in.Trouble = "container runtime network not ready: NetworkReady=false: cni config uninitialized"
		})},
		{"RuntimeAway", "container runtime does not answer", input(func(in *Input) {
			in.Trouble = "container runtime is down: rpc error: code = Unavailable desc = connection error: connection refused"
		})},
		{"NetworkPlugin", "plugin flannel is not on the node, where it is looked for in /opt/cni/bin.", input(event("FailedCreatePodSandBox", `failed to setup network for sandbox "1": failed to find plugin "flannel" in path [/opt/cni/bin]`))},
		{"RuntimeHangs", "did not answer in time", input(event("FailedCreatePodSandBox", "Failed to create pod sandbox: rpc error: code = DeadlineExceeded desc = context deadline exceeded"))},
		{"NameInUse", "pod before it, which has the same name (and the UID 123)", input(waits(containerCreating, "waiting for pod 123, which has the same name, to end"))},
		{"Unsupported", "spec.resourceClaims: no", input(event("FailedValidation", "Error validating pod web: spec.resourceClaims: no"))},
		{"ImageMissing", "shop/web:1: it is not in its registry", input(waits("ErrImagePull", "manifest unknown"))},
		{"ImageDenied", "other credentials", input(waits("ImagePullBackOff", `Back-off pulling image "shop/web:1": ErrImagePull: pull access denied, repository does not exist or may require authorization`))},
		{"ImageRateLimit", "no more images", input(waits("ErrImagePull", "toomanyrequests: You have reached your pull rate limit"))},
		{"ImagePlatform", "architecture", input(waits("ErrImagePull", "no match for platform in manifest: not found"))},
		{"RegistryTLS", "not accepted: certificate signed by unknown authority.", input(waits("ErrImagePull", "tls: failed to verify certificate: x509: certificate signed by unknown authority"))},
		{"RegistryTLS", "speaks plain HTTP", input(waits("ErrImagePull", `Head "https://reg:5000/v2/": http: server gave HTTP response to HTTPS client`))},
		{"RegistryAway", "name of its registry, nowhere, cannot be resolved", input(waits("ErrImagePull", "dial tcp: lookup nowhere: no such host"))},
		{"RegistryAway", "name of its registry, nowhere, cannot be resolved", input(waits("ErrImagePull", "dial tcp: lookup nowhere on 127.0.0.53:53: no such host"))},
		{"RegistryAway", "reached at 10.0.0.9:5000: connection refused.", input(waits("ErrImagePull", `Get "https://10.0.0.9:5000/v2/": dial tcp 10.0.0.9:5000: connect: connection refused`))},
		{"NodeDiskFull", "the node's disk is full;", input(waits("ImagePullBackOff", "Back-off pulling image: ErrImagePull: pull shop/web:1 from mirror: write large: no space left on device\npull from registry.example: dial tcp: lookup registry.example: i/o timeout"))},
		{"NodeDiskFull", "at least where /var/lib/kubelet/x is", input(event("FailedMount", setUp+`write /var/lib/kubelet/x: no space left on device`))},
		{"ImageNeverPull", "imagePullPolicy: Never", input(waits("ErrImageNeverPull", "no"))},
		{"ImageName", "shop/web:1", input(waits("InvalidImageName", "no"))},
		{"ImageSignature", "does not accept its signature: no policy", input(waits("SignatureValidationFailed", "image pull failed for shop/web:1 because the signature validation failed: no policy"))},
		{"ImageSignature", "no policy; the kubelet waits longer", input(waits("ImagePullBackOff", `Back-off pulling image "shop/web:1": SignatureValidationFailed: image pull failed for shop/web:1 because the signature validation failed: no policy`))},
		{"RunsAsRoot", "runAsNonRoot", input(waits("CreateContainerConfigError", "container has runAsNonRoot and image will run as root"))},
		{"SubPath", "its subPath cannot be used (unable to provision SubPath `../x`: must not contain '..').", input(waits("CreateContainerConfigError", "unable to provision SubPath `../x`: must not contain '..'"))},
		{"SubPath", "its subPath cannot be used (failed to create subPath directory for volumeMount \"data\" of container \"app\").", input(waits("CreateContainerConfigError", `failed to create subPath directory for volumeMount "data" of container "app"`))},
		{"ProfileMissing", "seccomp profile /seccomp/x.json is not on the node", input(waits("CreateContainerError", "read seccomp profile: open /seccomp/x.json: no such file or directory"))},
		{"ProfileMissing", "seccomp profile /seccomp/x.json is not on the node", input(waits("CreateContainerError", `cannot load seccomp profile "/seccomp/x.json": open /seccomp/x.json: no such file or directory`))},
		{"ProfileMissing", "cannot be used: invalid character", input(waits("CreateContainerError", "decoding seccomp profile: invalid character 'x'"))},
		{"MountMismatch", "mounted on /etc/passwd", input(waits("RunContainerError", `runc create failed: error mounting "/pods/data" to rootfs at "/etc/passwd": create mountpoint: not a directory`))},
		{"MemoryTooLow", "its memory limit of 16Mi is too low", input(limit, waits("RunContainerError", "error setting cgroup config for procHooks process: unable to set memory limit to 16777216 (current usage: 33554432)"))},
		{"MemoryTooLow", "memory limits of its containers", input(event("FailedCreatePodSandBox", "container init was OOM-killed (memory limit too low?)"))},
		{"PodOSSelectorNodeLabelDoesNotMatch", "(windows)", input(func(in *Input) { in.Pod.Labels = map[string]string{corev1.LabelOSStable: "windows"} }, rejected("PodOSSelectorNodeLabelDoesNotMatch", "no"))},
		{"CommandMissing", "(/web)", input(waits("RunContainerError", `exec: "/web": stat /web: no such file or directory`))},
		{"RunContainerError", "stat /pods/data: no such file or directory", input(waits("RunContainerError", `runc create failed: error mounting "/pods/data" to rootfs at "/data": stat /pods/data: no such file or directory`))},
		{"RunContainerError", "permission denied", input(waits("RunContainerError", `runc create failed: error mounting "/pods/data" to rootfs at "/data": permission denied`))},
		{"CommandMissing", "(/web)", input(waits("RunContainerError", `exec /web: no such file or directory`))},
		{"CommandMissing", "(/web)", input(waits("RunContainerError", "executable file `/web` not found: No such file or directory"))},
		{"CommandDenied", "may not be executed", input(crashed("StartError", 128, `exec: "/web": permission denied`))},
		{"WrongArchitecture", "another architecture", input(crashed("StartError", 128, `exec /web: exec format error`))},
		{"ExitCode", `exit code 3; its last words: "no luck", and does so again and again (restarted 3 times); the kubelet waits 40s`, input(crashed("Error", 3, "no luck"))},
		{"WrongArchitecture", "another architecture", input(crashed("Error", 255, "exec /web: exec format error"))},
		{"ExitCode", `If that says "exec format error"`, input(crashed("Error", 255, ""))},
		{"Lost", "was gone from the runtime", input(crashed("ContainerStatusUnknown", 137, "The container could not be located when the pod was deleted.  The container used to be Running"))},
		{"RestartingAllContainers", "was removed, since", input(crashed("RestartingAllContainers", 137, "The container is removed because RestartAllContainers in place"))},
		{"Signal", "signal 11, segmentation fault", input(crashed("Error", 139, ""))},
		{"Completed", "ended with success", input(crashed("Completed", 0, ""))},
		{"OOMKilled", "limit of 16Mi", input(limit, crashed("OOMKilled", 137, ""))},
		{"LivenessProbe", "names port 8080", input(probe("Liveness"), crashed("Error", 137, ""), about("app", "Unhealthy", "Liveness probe failed: refused"), about("app", "Killing", "Container app failed liveness probe, will be restarted"))},
		{"StartupProbe", "was killed because its startup probe", input(probe("Startup"), crashed("Error", 137, ""), about("app", "Killing", "Container app failed startup probe, will be restarted"))},
		{"ReadinessProbe", "fails, and says nothing.", input(probe("Readiness"), runs(false), about("app", "Unhealthy", "Readiness probe failed: "))},
		{"ReadinessProbe", "fails: refused", input(probe("Readiness"), runs(false), about("app", "Unhealthy", "Readiness probe failed: refused"))},
		{"StartupProbe", "has not succeeded yet", input(probe("Startup"), runs(false))},
		{"PostStartHook", "postStart hook fails", input(waits("PostStartHookError", "FailedPostStartHook"))},
		{"ReadinessGates", "example.com/gate", input(runs(true), func(in *Input) {
			in.Pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse, Reason: "ReadinessGatesNotReady", Message: "example.com/gate"}}
		})},
		{"LivenessProbe", "Container app runs now; it was started again (once)", input(probe("Liveness"), runs(true), func(in *Input) {
			c := &in.Pod.Status.ContainerStatuses[0]
			c.RestartCount, c.LastTerminationState.Terminated = 1, &corev1.ContainerStateTerminated{ExitCode: 137, FinishedAt: metav1.NewTime(now)}
		}, about("app", "Killing", "Container app failed liveness probe, will be restarted"))},
		{"OutOfmemory", "asks for 1024 MiB, and others have 0 bytes of 512 MiB.", input(rejected("OutOfmemory", "Node didn't have enough resource: memory, requested: 1073741824, used: 0, capacity: 536870912"))},
		{"OutOfcpu", "asks for 1000m, and others have 1500m of 2000m", input(rejected("OutOfcpu", "Node didn't have enough resource: cpu, requested: 1000, used: 1500, capacity: 2000"))},
		{"OutOfpods", "110 of 110", input(rejected("OutOfpods", "Node didn't have enough resource: pods, requested: 1, used: 110, capacity: 110"))},
		{"NodePorts", "host port", input(rejected("NodePorts", "no"))},
		{"NodeAffinity", "labels", input(rejected("NodeAffinity", "no"))},
		{"TaintToleration", "taint", input(rejected("TaintToleration", "no"))},
		{"PodOSNotSupported", "operating system", input(rejected("PodOSNotSupported", "no"))},
		{"SysctlForbidden", `"kernel.msgmax" not allowlisted`, input(rejected("SysctlForbidden", `forbidden sysctl: "kernel.msgmax" not allowlisted`))},
		{"AppArmor", "AppArmor", input(rejected("AppArmor", "Cannot enforce AppArmor: not enabled"))},
		{"UnexpectedAdmissionError", "not enough cpu left", input(rejected("UnexpectedAdmissionError", "Unexpected error while attempting to recover from admission failure: preemption: error finding a set of pods to preempt: no set of running pods found to reclaim resources: [(res: cpu, q: 998000), ]"))},
		{"UnexpectedAdmissionError", "no gpu", input(rejected("UnexpectedAdmissionError", "no gpu"))},
		{"NodeShutdown", "shutting down", input(rejected("NodeShutdown", "no"))},
		{"Terminated", "shut down", input(verdict("Terminated", "Pod was terminated in response to imminent node shutdown."))},
		{"Evicted", "low on memory", input(verdict("Evicted", "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. "))},
		{"Evicted", "(DiskPressure)", input(rejected("Evicted", "The node had condition: [DiskPressure]. "))},
		{"EvictedOwnLimit", "sizeLimit", input(verdict("Evicted", `Usage of EmptyDir volume "data" exceeds the limit "1Mi". `))},
		{"Preempting", "higher priority", input(verdict("Preempting", "Preempted in order to admit critical pod"))},
		{"DeadlineExceeded", "activeDeadlineSeconds", input(verdict("DeadlineExceeded", "no"))},
		{"Stopped", "kubelet stop", input(verdict("Stopped", "no"))},
		{"SomethingNew", "(SomethingNew): words", input(verdict("SomethingNew", "words"))},
		{"Completed", "has done its work", input(func(in *Input) { in.Pod.Status = corev1.PodStatus{Phase: corev1.PodSucceeded} })},
		{"ExitCode", "its restart policy is Never", input(func(in *Input) {
			in.Pod.Spec.RestartPolicy = corev1.RestartPolicyNever
			in.Pod.Status.Phase = corev1.PodFailed
			in.Pod.Status.ContainerStatuses[0].State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 5}}
		})},
		{"ExitCode", "its container app ended with exit code 5, and its restart policy is Never", input(sidecar, func(in *Input) {
			in.Pod.Spec.Containers[0].RestartPolicy = new(corev1.ContainerRestartPolicyNever)
			in.Pod.Status.Phase = corev1.PodFailed
			in.Pod.Status.InitContainerStatuses[0].State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 143}}
			in.Pod.Status.ContainerStatuses[0].State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 5}}
		})},
		{"ExitCode", "Init container first has ended; it was started again (once): before that it ended with exit code 4", input(runs(true), func(in *Input) {
			in.Pod.Spec.InitContainers = []corev1.Container{{Name: "first"}}
			in.Pod.Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: "first", RestartCount: 1,
				State:                corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}},
				LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 4}}}}
		})},
		{"InitRunning", "init container first, which has run for 9s", input(runs(false), func(in *Input) {
			in.Pod.Spec.InitContainers = []corev1.Container{{Name: "first"}}
			in.Pod.Status.InitContainerStatuses = in.Pod.Status.ContainerStatuses
			in.Pod.Status.InitContainerStatuses[0].Name = "first"
			waits(podInitializing, "")(in)
		})},
		{"OOMKilled", "Init container first does not run: it used more memory than its limit allows and was killed (OOMKilled); the kubelet waits before it starts it again", input(func(in *Input) {
			in.Pod.Spec.InitContainers = []corev1.Container{{Name: "first"}}
			in.Pod.Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: "first",
				State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "OOMKilled", FinishedAt: metav1.NewTime(now.Add(-time.Minute))}}}}
			about("first", "BackOff", "Back-off restarting failed container first in pod web")(in)
		})},
		{"GracePeriod", "container app may use its grace period, which ends in 20s", input(runs(true), deleted)},
		{"Finalizers", "example.com/keep", input(deleted, func(in *Input) { in.Pod.Finalizers = []string{"example.com/keep"} })},
		{"UnmountFails", "a volume of it cannot be unmounted: busy", input(deleted, event("FailedUnMount", "busy"))},
		{"UnmountFails", "its volume data cannot be unmounted: busy.", input(deleted, event("FailedUnMount", `UnmountVolume.TearDown failed for volume "data" : rpc error: code = Internal desc = busy`))},
		{"CleaningUp", "being removed", input(deleted)},
		{"Working", "pulling image shop/web:1 for container app, 20 MiB of 40 MiB, for 30s so far", input(about("app", "Pulling", "Pulling"), func(in *Input) {
			in.Pulls = []Pull{{"registry.example/shop/web:1", 20 << 20, 40 << 20}}
		})},
		{"Working", "RunPodSandbox, for 12s so far, because no pod sandbox exists", input(func(in *Input) {
			in.Steps = []Step{{Name: "RunPodSandbox", Why: "no pod sandbox exists", Start: now.Add(-12 * time.Second)}}
		})},
	} {
		s := Tell(tc.in)
		if s.Cause != tc.cause || !strings.Contains(s.Answer+" "+s.Remedy, tc.says) {
			t.Errorf("cause %q: %s %s\nwant %q and %q", s.Cause, s.Answer, s.Remedy, tc.cause, tc.says)
		}
		if strings.HasSuffix(s.Answer, "..") && !strings.Contains(s.Answer, "..'") || strings.Contains(s.Answer+s.Remedy, "%!") || strings.Contains(s.Answer, "$") {
			t.Errorf("not a sentence: %s", s.Answer)
		}
	}
}

// TestContainers: a sidecar is one of the pod's containers, as kubectl counts them. What has ended for good is not told to end no more.
func TestContainers(t *testing.T) {
	if s := Tell(input(runs(true), sidecar)).Summary; s.Ready != 2 || s.Of != 2 || s.Restarts != 1 {
		t.Errorf("%d of %d are ready, with %d restarts", s.Ready, s.Of, s.Restarts)
	}
	done := Tell(input(runs(false), func(in *Input) {
		in.Pod.Spec.RestartPolicy = corev1.RestartPolicyOnFailure
		in.Pod.Status.ContainerStatuses[0].State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "Completed"}}
	}))
	if done.Answer != "Container app does not run: it ended with success (exit code 0)." || done.Remedy != "" {
		t.Errorf("%s %s", done.Answer, done.Remedy)
	}
}

// TestLife: what happened is told in the order of time, and written with the answer first.
func TestLife(t *testing.T) {
	in := input(runs(true), about("app", "Pulled", "Container image is present"), about("app", "Created", "Container created"), about("app", "Started", "Container started"))
	in.Events[0].Count, in.Events[0].Last = 22, now.Add(-5*time.Second)
	in.Pod.Status.PodIP, in.Pod.Status.Conditions[0].LastTransitionTime = "10.0.0.2", metav1.NewTime(now)
	s := Tell(in)
	var lines []string
	for _, l := range s.Life {
		lines = append(lines, l.Text)
	}
	want := []string{"The pod was created.", "Container image is present.", "Container app was made.", "Container app was started.",
		"Container image is present. By then 22 times.", "The pod is Ready, at 10.0.0.2."}
	if !slices.Equal(lines, want) {
		t.Errorf("life:\n%s\nwant:\n%s", strings.Join(lines, "\n"), strings.Join(want, "\n"))
	}
	var out strings.Builder
	if err := Tell(input(waits("ErrImagePull", "manifest unknown"))).Write(&out); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(out.String(), "default/web: Pending (app: ErrImagePull)\n\nWhy: Container app waits for its image") {
		t.Errorf("written:\n%s", out.String())
	}
	if data, err := json.Marshal(s); err != nil || !strings.Contains(string(data), `"pod":"default/web"`) {
		t.Errorf("as JSON: %s, %v", data, err)
	}
}

// TestLifeOrder: a start comes before what the status says of the same second, whose times have no fractions.
func TestLifeOrder(t *testing.T) {
	in := input(func(in *Input) {
		at := now.Add(500 * time.Millisecond)
		in.Events = []Event{{First: at, Last: at, Count: 1, Reason: "Started", Container: "app"}}
		in.Pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now)}}
	})
	life := Tell(in).Life
	if last := life[len(life)-1].Text; last != "The pod is Ready." {
		t.Errorf("the last line is %q of %v", last, life)
	}
}

// TestHarmless: what a probe printed for a terminal does not reach one, and a line stays one.
func TestHarmless(t *testing.T) {
	pulling := Tell(input(func(in *Input) {
		in.Steps = []Step{{Name: "syncPod", Why: "an\nupdate", Start: in.Now.Add(-time.Minute)}}
	}))
	if want := `syncPod, for 1m0s so far, because an\nupdate`; pulling.Progress != want {
		t.Errorf("now: %q, want %q", pulling.Progress, want)
	}
	told := Tell(input(func(in *Input) { in.Pod.Status.ContainerStatuses = nil }, about("app", "Unhealthy", "Readiness probe failed: \x1b[31mé\a")))
	var text strings.Builder
	if err := told.Write(&text); err != nil {
		t.Fatal(err)
	}
	if got := text.String(); strings.ContainsAny(got, "\x1b\a") || !strings.Contains(got, `\x1b[31mé\a`) {
		t.Errorf("the story is %q", got)
	}
}
