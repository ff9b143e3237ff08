package story

import (
	"cmp"
	"regexp"
	"slices"
	"strings"
)

// meaning is what a message of the kubelet, the runtime or a registry tells, and what to do about it. In all but the pattern, $1 and
// so on are what the pattern's groups matched, and words in braces are facts that the caller of find knows. {message} is the
// message without the reason that it begins with, as in "FailedMount: ...", and {why:TABLE} what that one makes of it: the
// cause and the remedy are theirs too then, if one knows it.
type meaning struct{ cause, pattern, text, remedy string }

// table holds meanings with their patterns ready for use. The first that matches counts.
type table []struct {
	meaning
	*regexp.Regexp
}

func compile(meanings []meaning) table {
	compiled := make(table, len(meanings))
	for i, m := range meanings {
		compiled[i].meaning, compiled[i].Regexp = m, regexp.MustCompile("(?is)"+m.pattern)
	}
	return compiled
}

// between puts a text between two others; of no text it makes none.
func between(before, text, after string) string {
	if text == "" {
		return ""
	}
	return before + text + after
}

var (
	byName   = map[string]table{"inputs": inputs, "sandboxes": sandboxes, "images": images, "starts": starts, "inputs or starts": slices.Concat(inputs, starts)}
	delegate = regexp.MustCompile(`\{why:([a-z ]+)\}`)
)

// find returns what a message tells, nil if the table does not know it. facts are words in braces, each with what it stands for.
func (t table) find(message string, facts ...string) *answer {
	for _, m := range t {
		at := m.FindStringSubmatchIndex(message)
		if at == nil {
			continue
		}
		_, plain, _ := strings.Cut(message, ": ")
		known := strings.NewReplacer(append(facts, "{message}", firstLine(plain))...)
		fill := func(template string) string {
			return grpcCode.ReplaceAllString(known.Replace(string(m.ExpandString(nil, template, message, at))), "")
		}
		a := &answer{fill(m.cause), fill(m.text), fill(m.remedy)}
		if why := delegate.FindStringSubmatch(m.text); why != nil {
			told := cmp.Or(byName[why[1]].find(message, facts...), &answer{a.cause, firstLine(plain), ""})
			a.cause, a.text, a.remedy = told.cause, strings.Replace(a.text, why[0], told.text, 1), told.remedy
		}
		return a
	}
	return nil
}

// grpcCode is what gRPC puts before an error's words. Its codes are for programs.
var grpcCode = regexp.MustCompile(`rpc error: code = \w+ desc = `)

// firstLine keeps a sentence readable.
func firstLine(message string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(message), "\n")
	line = strings.TrimSuffix(grpcCode.ReplaceAllString(line, ""), ".")
	const most = 300
	if len(line) > most {
		line = strings.ToValidUTF8(line[:most], "") + "..."
	}
	return line
}

// beginnings are why a pod does not begin: what keeps the node from being ready, what its containers wait for, its events.
var beginnings = compile([]meaning{
	{"RuntimeAway", `^Trouble: .*container runtime (is down|not ready)`, "The pod cannot start, since {why:sandboxes} ({message}).", ""},
	{"NetworkNotReady", `^Trouble: .*network not ready`, "The pod waits for the node's network: {message}.", "Install or repair the network plugin (its configuration is usually in /etc/cni/net.d). Pods with hostNetwork do not wait."},
	{"NameInUse", `^ContainerCreating: waiting for pod (\S+), which has the same name, to end`, "The pod waits for the pod before it, which has the same name (and the UID $1), to end.",
		"It begins by itself then, at the latest when that one's grace period is over."},
	{"NotAttached", `^Attaching: (.*)`, "The pod waits for its volume $1, which is not attached to this node yet.",
		"That is the work of the attach controller and of the CSI driver's attacher: see kubectl get volumeattachments, and whether both run."},
	{"Unsupported", `^FailedValidation: [^:]*: (.*)`, "The pod asks for what this kubelet does not do: $1.", "Take the field out, or have the pod run on another node."},
	{"MountFails", `^Failed(Mount|MapVolume|AttachVolume): .*for volume "([^"]*)"`, "The pod waits for its volume $2: {why:inputs}{tries}.", ""},
	{"MountFails", `^Failed(Mount|MapVolume|AttachVolume): `, "The pod waits for its volume: {why:inputs}{tries}.", ""},
	{"SandboxFails", `^Failed(CreatePodSandBox|PodSandBoxStatus): `, "The pod's sandbox, in which its containers would run, cannot be made: {why:sandboxes}{tries}.", ""},
})

// endings are why a pod that is to end does not.
var endings = compile([]meaning{
	{"UnmountFails", `^FailedUnMount: .*?for volume "([^"]*)" : ([^\n]*)`, "The pod has ended, but its volume $1 cannot be unmounted: $2.", stillMounted},
	{"UnmountFails", `^FailedUnMount: `, "The pod has ended, but a volume of it cannot be unmounted: {message}.", stillMounted},
	{"KillFails", `^FailedKillPod: `, "The pod is to end, but cannot be stopped: {why:sandboxes}.", ""},
})

const stillMounted = "See what uses the volume on the node, and its driver's log if it has one; the kubelet tries again by itself, and the pod stays until then."

// delays are why a container does not start, by the reason and the message of its status.
var delays = compile([]meaning{
	{"ImagePull", `^ImagePullBackOff: `, "{what} waits for its image {image}: {why:images}; the kubelet waits longer after each try.", ""},
	{"ImagePull", `^(ErrImagePull|RegistryUnavailable|ImageInspectError|SignatureValidationFailed): `, "{what} waits for its image {image}: {why:images}.", ""},
	{"ImageNeverPull", `^ErrImageNeverPull: `, "{what} may not have its image {image} pulled (imagePullPolicy: Never), and the node does not have it.", "Bring the image to the node, or let it be pulled: imagePullPolicy: IfNotPresent."},
	{"ImageName", `^InvalidImageName: `, `{what} has the image name "{image}", which is not one.`, "A name is [host[:port]/]path[:tag], its path in lower case."},
	{"$1", `^(CreateContainerConfigError|CreateContainerError): `, "{what} cannot be made: {why:inputs or starts}.", ""},
	{"RunContainerError", `^RunContainerError: `, "{what} cannot be started: {why:starts}{program}.", ""},
	{"PostStartHook", `^PostStartHookError: `, "{what} is ended each time it has started, because its postStart hook fails{hook}.", "Correct the hook: it runs beside the container's program, perhaps before that is ready."},
})

const itsLog = "Look at its log: kubelet logs -p, or kubectl logs -p."

// ends are how a container ended, by the reason, exit code and message of its status.
var ends = compile([]meaning{
	{"OOMKilled", `^OOMKilled `, "used more memory than its limit{limit} allows and was killed (OOMKilled)", "Raise resources.limits.memory, or have the program use less."},
	{"RunContainerError", `^(\w*StartError|ContainerCannotRun) `, "could not be started: {why:starts}{program}", ""},
	{"Lost", `^ContainerStatusUnknown `, "was gone from the runtime, so that its end is not known", "See whether it was removed by hand (crictl rm), or the node or its runtime lost what they had."},
	{"RestartingAllContainers", `^RestartingAllContainers `, "was removed, since another's end restarts all containers of the pod (RestartAllContainers)", "Look at the log of the one whose restartPolicyRules say so."},
	{"Completed", `^\w* 0: `, "ended with success (exit code 0)", "A container that is to go on running must not end; one that is to end needs the restart policy OnFailure or Never."},
	{"ExitCode", `^\w* 126: `, "ended with exit code 126: its shell could not execute a command{words}", itsLog},
	{"ExitCode", `^\w* 127: `, "ended with exit code 127: its shell did not find a command{words}", itsLog},
	{"Signal", `^\w* (129|1[345]\d): `, "was ended by signal {signal} (exit code $1){words}", "Look at its log, and at who sent the signal: the node, a probe, or the program itself."},
	{"ExitCode", `^\w* 255: .*exec format error`, "could not be started: {why:starts}{program}", ""},
	{"ExitCode", `^\w* 255: `, "ended with exit code 255{words}", itsLog + " If that says \"exec format error\", its program is for another machine, or a script without #!."},
	{"ExitCode", `^\w* (-?\d+): `, "ended with exit code $1{words}", itsLog},
})

// verdicts are why a node refuses a pod, or ends one on its own account, by the reason and the message of its status.
var verdicts = compile([]meaning{
	{"OutOfpods", `^OutOfpods: (?:.*used: (\d+), capacity: (\d+))?`, "the node has as many pods as it takes: $1 of $2", "End other pods, or raise maxPods. The pod has to be created anew."},
	{"OutOfcpu", `^OutOfcpu: .*requested: (\d+), used: (\d+), capacity: (\d+)`, "the node has not enough cpu left: the pod asks for ${1}m, and others have ${2}m of ${3}m", moreRoom},
	{"OutOf$1", `^OutOf(memory|ephemeral-storage|hugepages-\S+): .*requested: (\d+), used: (\d+), capacity: (\d+)`, "the node has not enough $1 left: the pod asks for $2 bytes, and others have $3 bytes of $4 bytes", moreRoom},
	{"OutOf$1", `^OutOf(\S+): .*requested: (\d+), used: (\d+), capacity: (\d+)`, "the node has not enough $1 left: the pod asks for $2, and others have $3 of $4", moreRoom},
	{"OutOf$1", `^OutOf(\S+): `, "the node has not enough $1 left", moreRoom},
	{"Evicted", `^Evicted: .*had condition: \[([^\]]+)\]`, "the node is short of resources ($1)", "Wait until the condition has passed; the pod has to be created anew. Critical pods come in all the same."},
	{"Evicted", `^Evicted: .*low on resource: ([^.\s]+)\.`, "the node was low on $1 (eviction): {message}", "Give pods that matter a request of $1 that covers what they use, or a higher priority; free $1 on the node."},
	{"EvictedOwnLimit", `^Evicted: .*exceed`, "it used more local storage than its limit (eviction): {message}", "Raise the limit (ephemeral-storage, or the emptyDir's sizeLimit), or have it write less."},
	{"NodePorts", `^NodePorts: `, "a host port that the pod asks for ({ports}) is another pod's already", "Use another hostPort, or none and a Service."},
	{"NodeAffinity", `^NodeAffinity: `, "the pod's node selector or required node affinity{selector} does not match the node's labels", "Label the node, or correct the selector; the pod has to be created anew."},
	{"TaintToleration", `^TaintToleration: `, "the node has a taint with effect NoExecute that the pod does not tolerate", "Add a toleration, or remove the taint from the node: kubectl describe node shows it."},
	{"PodOSNotSupported", `^PodOSNotSupported: `, "the pod's field spec.os names another operating system ({os}) than the node has", "Correct spec.os.name, or have it run on a node of that system."},
	{"PodOSSelectorNodeLabelDoesNotMatch", `^PodOSSelectorNodeLabelDoesNotMatch: `, "the pod's label kubernetes.io/os names another operating system ({os}) than the node has", "Correct that label, or have the pod run on a node of that system."},
	{"SysctlForbidden", `^SysctlForbidden: (?:forbidden sysctl: )?(.*)`, "the pod sets a sysctl that this node does not allow: $1", "Allow it with --allowed-unsafe-sysctls if it is namespaced, or take it out of the pod."},
	{"AppArmor", `^AppArmor: `, "the pod asks for an AppArmor profile, which the node cannot give: {message}", "Take the profile out, or use a node that has AppArmor."},
	{"NodeShutdown", `^NodeShutdown: `, "the node is shutting down", "The pod has to be created anew, here after the node has come back, or elsewhere."},
	{"Terminated", `^Terminated: `, "the node was about to shut down, and gave its pods time to end before that", "Its controller creates it anew elsewhere; without one, create it again."},
	{"Preempting", `^Preempting: `, "a pod of higher priority needed its room", "Its controller creates it anew elsewhere; give it a higher priority class if it must stay."},
	{"DeadlineExceeded", `^DeadlineExceeded: `, "it ran longer than its activeDeadlineSeconds ({deadline}) allow", "Raise activeDeadlineSeconds, or make its work shorter."},
	{"UnexpectedAdmissionError", `^UnexpectedAdmissionError: .*no set of running pods found to reclaim resources: \[\(res: ([^,]+),`, "the node has not enough $1 left for the pod, even without the pods of lower priority", moreRoom},
	{"UnexpectedAdmissionError", `^UnexpectedAdmissionError: `, "something that the pod needs could not be given to it: {message}", "See the kubelet's log, and the device plugin's if it asks for devices."},
	{"VolumeAttachmentLimitExceeded", `^VolumeAttachmentLimitExceeded: `, "the node takes no more volumes of that kind: {message}", "Its controller creates it anew, now where there is room; without one, create it again."},
	{"Stopped", `^Stopped: `, "it was stopped on this node by hand (kubelet stop)", "It starts again when its manifest changes or the kubelet is started."},
})

const moreRoom = "Lower resources.requests, end other pods, or use a larger node. The pod has to be created anew."

// diskFull comes before all else in its tables: where one registry's answer is kept on a full disk, another may be asked in vain.
var diskFull = []meaning{
	{"NodeDiskFull", `(/\S+): no space left on device`, `the node's disk is full, at least where $1 is`, freeSpace},
	{"NodeDiskFull", `no space left on device`, `the node's disk is full`, freeSpace},
}

const freeSpace = "Free space on the node: images that nothing uses, logs, emptyDir volumes."

// inputs are what messages say of the things that volumes and environment variables are made of.
var inputs = compile(append(diskFull, []meaning{
	{"ConfigMapMissing", `configmap "([^"]+)" not found`, `the ConfigMap $1 does not exist`, `Create it in the pod's namespace, or mark the reference to it as optional; the pod goes on by itself then.`},
	{"SecretMissing", `secret "([^"]+)" not found`, `the Secret $1 does not exist`, `Create it in the pod's namespace, or mark the reference to it as optional; the pod goes on by itself then.`},
	{"KeyMissing", `couldn't find key (\S+) in (ConfigMap|Secret) (\S+)`, `the $2 $3 has no key $1`, `Add the key, correct its name in the pod, or mark the reference as optional.`},
	{"KeyMissing", `references non-existent (?:config|secret) key: ([^\s,\]]+)`, `it asks for the key $1, which {source} does not have`, `Add the key, correct items in the pod, or mark the volume as optional.`},
	{"NotAttached", `waiting for the volume to be attached: .*(?:volumeattachments\.\S+ "[^"]*" (?:not found|is forbidden))`, `it is to be attached to this node, and nothing has asked for that`,
		`That is the work of the attach controller, in kube-controller-manager: see whether it runs.`},
	{"NotAttached", `waiting for the volume to be attached: ([^\n]*)`, `it is not attached to this node yet: $1`,
		`That is the work of the CSI driver's attacher: see kubectl describe volumeattachments, and the attacher's log.`},
	{"NotAuthorized", `(\S+) "([^"]*)" is forbidden: User "([^"]*)" cannot`, `the apiserver does not let this node, whose user is $3, read $1 "$2"`,
		`A node may read what its pods refer to if its user is system:node:NAME, in the group system:nodes, and the apiserver's authorization modes include Node: see the kubelet's kubeconfig and the apiserver's flags.`},
	{"ServiceAccountMissing", `serviceaccounts? "([^"]+)" not found`, `the service account $1 does not exist`, `Create it, or name another in spec.serviceAccountName.`},
	{"HostPathMissing", `hostPath type check failed, .*path "([^"]*)" does not exist`, `$1, which a hostPath volume names, does not exist on the node`, `Make it on the node, or use the type DirectoryOrCreate or FileOrCreate.`},
	{"HostPathType", `hostPath type check failed[:,] (\S+) is not (a[^,;]*)`, `$1 on the node is not $2, as the hostPath volume's type says`, `Correct the volume's type or path.`},
	{"ClaimMissing", `persistentvolumeclaims? "([^"]+)" not found`, `the PersistentVolumeClaim $1 does not exist`, `Create the claim, or correct claimName.`},
	{"ClaimUnbound", `PVC \S+/(\S+): PVC (?:is not bound|has empty)`, `its PersistentVolumeClaim $1 has no volume yet`, `See kubectl describe pvc: a storage class or a matching PersistentVolume may be missing.`},
	{"ClaimDeleted", `PVC \S+/(\S+): PVC is being deleted`, `its PersistentVolumeClaim $1 is being deleted`, `Use another claim, or wait until it is gone and create it again.`},
	{"DriverMissing", `driver name (\S+) not found in the list of registered CSI drivers`, `the CSI driver $1 is not on this node`, `See that the driver's node plugin runs here (it is usually a DaemonSet), or correct the driver's name.`},
	{"DriverMissing", `not supported by driver (\S+) \(no CSIDriver object\)`, `the cluster has no CSIDriver object for the driver $1`, `Install the driver, or correct its name.`},
	{"VolumeInUse", `ReadWriteOncePod access mode and is already in use`, `it may be used by one pod at a time (ReadWriteOncePod), and another pod on this node has it`, `Wait for that pod's end, or delete it; this one goes on by itself then.`},
	{"VolumeUnsupported", `\((\S+)\): volumes of kind (\S+) are not supported`, `$1 is of the kind $2, which this kubelet does not have`, `Use a CSI driver for it, or another node.`},
	{"SubPath", `\bsubPath\b`, `its subPath cannot be used ({message})`, `A subPath is relative to its volume and cannot lead out of it, nor can links in it; the kubelet's log has the details.`},
}...))

// sandboxes are what messages say of a sandbox that cannot be made.
var sandboxes = compile(append(diskFull, []meaning{
	{"RuntimeClassMissing", `failed to get RuntimeClass "([^"]+)": RuntimeClass not found`, `the RuntimeClass $1 does not exist`, `Create it, or correct runtimeClassName in the pod; the pod goes on by itself then.`},
	{"HandlerMissing", `(?:unknown|no) (?:handler|runtime)(?: for)? "([^"]+)"|runtime handler "?([^" ]+)"? not`, `the container runtime has no handler $1$2, which the RuntimeClass names`,
		`Configure the handler in the runtime, or correct the RuntimeClass.`},
	{"AddressesExhausted", `no IP addresses available in range set: ([^\s,;]+)`, `the node has no address left for pods: all of $1 are taken`,
		`Delete pods that need not run, or give the node a larger range (its podCIDR, or ipam in the configuration of the network, usually in /etc/cni/net.d).`},
	{"NetworkPlugin", `failed to find plugin "([^"]+)" in path \[?([^\]\n]*)`, `the network plugin $1 is not on the node, where it is looked for in $2`,
		`Install it there, or correct the configuration of the network, usually in /etc/cni/net.d; the kubelet goes on by itself then.`},
	{"NetworkPlugin", `plugin type="?([^" ]+)"? failed[^:]*: ([^\n]*)`, `the network plugin $1 cannot connect it: $2`, `Look at the configuration of the network, usually in /etc/cni/net.d, and at the plugin's own logs.`},
	{"NetworkPlugin", `(cni .*not initialized|network is not ready.*)`, `the node's network is not ready: $1`, `Install or repair the cluster's network plugin.`},
	{"RuntimeAway", `connection refused|error while dialing|no such file or directory.*\.sock|Unavailable`, `the container runtime does not answer`, `Start it, and see its log; the kubelet goes on by itself then.`},
	{"RuntimeHangs", `DeadlineExceeded|deadline exceeded`, `the container runtime did not answer in time`, `See the runtime's log and the node's load. The kubelet asks again by itself; runtimeRequestTimeout is how long it waits for an answer.`},
	{"MemoryTooLow", tooLittle, `the memory limits of its containers are too low even to start it`, aFewMiB},
}...))

const aFewMiB = "Raise resources.limits.memory: a container needs a few MiB to start."

// tooLittle is said of the first process in a sandbox or in a container, which the runtime starts.
const tooLittle = `container init was OOM-killed|memory limit too low|unable to set memory limit`

// images are what registries and runtimes say of an image that cannot be had.
var images = compile(append(diskFull, []meaning{
	{"ImageSignature", `signature validation failed(?:: )?([^\n]*)`, `the runtime does not accept its signature: $1`, `Sign the image, or correct the runtime's policy (containers-policy.json for CRI-O).`},
	{"ImageRateLimit", `toomanyrequests|429 too many`, `its registry gives no more images to this address for a while`, `Log in to the registry with a pull secret, use a mirror, or wait.`},
	{"ImagePlatform", `no match for platform|no image for platform|does not provide .*platform`, `it does not exist for this machine's architecture`, `Use an image for it, or another node.`},
	{"ImageDenied", `unauthorized|denied|\b401\b|\b403\b|authorization failed|authentication required|no basic auth`, `its registry does not give it without other credentials`,
		`Name a pull secret for that registry in imagePullSecrets, and see that it exists in the pod's namespace and is right.`},
	{"ImageMissing", `not found|manifest.?unknown|name.?unknown|\b404\b|does not exist`, `it is not in its registry under this name and tag`, `Correct the image's name or tag, or push it.`},
	{"RegistryTLS", `HTTP response to HTTPS`, `its registry speaks plain HTTP, and the runtime wants HTTPS`, `Give the registry a certificate, or allow plain HTTP for it in the runtime's configuration of registries.`},
	{"RegistryTLS", `x509: ([^\n]*)`, `the certificate of its registry is not accepted: $1`, `Make the authority that signed it known to the runtime, or correct the certificate.`},
	{"RegistryAway", `lookup (\S+?):? (?:on [^:]*:\d+)?[^\n]*`, `the name of its registry, $1, cannot be resolved`, `See that the name is right, and the node's DNS (/etc/resolv.conf); the pull is tried again by itself.`},
	{"RegistryAway", `dial tcp (\S+?): (?:connect: )?([^\n"]*)`, `its registry cannot be reached at $1: $2`, reachable},
	{"RegistryAway", `no such host|connection refused|timeout|network is unreachable|registry is unavailable`, `its registry cannot be reached`, reachable},
}...))

const reachable = "See that the registry's name and port are right, that it runs, and that the node reaches it; the pull is tried again by itself."

// starts are what messages say of a container that cannot be made or started.
var starts = compile([]meaning{
	{"RunsAsRoot", `runAsNonRoot|breaks non-root policy`, `it must not run as root (runAsNonRoot), and would`, `Set runAsUser to a number other than 0, or use an image that names such a user.`},
	{"ProfileMissing", `(seccomp|apparmor) profile:? (?:open )?"?([^":\s]+)"?.*(?:not found|no such file)`, `its $1 profile $2 is not on the node`, `Put the profile there, or correct its name in securityContext.`},
	{"ProfileMissing", `(seccomp|apparmor) profile:? ([^\n]*)`, `its $1 profile cannot be used: $2`, `Correct the profile, or name another in securityContext.`},
	{"CommandDenied", `exec[^\n]*permission denied|exec: "[^"]*": is a directory`, `its command may not be executed`, `Make the file executable in the image (chmod +x), or correct command.`},
	{"WrongArchitecture", `exec format error`, `its program is for another architecture, or is a script without #!`, `Use an image for this machine.`},
	{"MountMismatch", `to rootfs at "([^"]*)".*not a directory`, `a directory is to be mounted on $1, which is a file in its image, or the other way round`, `Correct mountPath; a single file of a volume is named by subPath.`},
	{"CommandMissing", `executable file [^\n]*not found|exec:? "?([^": ]+)"?: [^\n]*(?:no such file|stat )`, `its command is not in the image`,
		`Correct command in the pod: it is looked for in the image's PATH, and needs its interpreter there too.`},
	{"MemoryTooLow", tooLittle, `its memory limit{limit} is too low even to start it`, aFewMiB},
})
