package story

import (
	"regexp"
	"strings"
)

// meaning says what a message of the kubelet, the runtime or a registry tells, and what to do about it. In because and
// remedy, $1 and so on are what the pattern's groups matched.
type meaning struct {
	cause           string
	pattern         string
	because, remedy string
}

// table holds meanings with their patterns ready for use. The first that matches counts.
type table []struct {
	meaning
	*regexp.Regexp
}

// find returns the meaning of a message with its sentences filled in, nil if the table does not know it.
func (t table) find(message string) *meaning {
	for _, m := range t {
		at := m.FindStringSubmatchIndex(message)
		if at == nil {
			continue
		}
		fill := func(template string) string { return string(m.ExpandString(nil, template, message, at)) }
		return &meaning{cause: m.cause, because: fill(m.because), remedy: fill(m.remedy)}
	}
	return nil
}

func compile(meanings []meaning) table {
	compiled := make(table, len(meanings))
	for i, m := range meanings {
		compiled[i].meaning, compiled[i].Regexp = m, regexp.MustCompile("(?is)"+m.pattern)
	}
	return compiled
}

// inputs are what messages say of the things that volumes and environment variables are made of.
var inputs = compile([]meaning{
	{"ConfigMapMissing", `configmap "([^"]+)" not found`, `the ConfigMap $1 does not exist`,
		`Create it in the pod's namespace, or mark the reference to it as optional; the pod goes on by itself then.`},
	{"SecretMissing", `secret "([^"]+)" not found`, `the Secret $1 does not exist`,
		`Create it in the pod's namespace, or mark the reference to it as optional; the pod goes on by itself then.`},
	{"KeyMissing", `couldn't find key (\S+) in (ConfigMap|Secret) (\S+)`, `the $2 $3 has no key $1`,
		`Add the key, correct its name in the pod, or mark the reference as optional.`},
	{"KeyMissing", `(configmap|secret)?\S* ?references non-existent key: (\S+)`, `a volume asks for the key $2, which its source does not have`,
		`Add the key to the source, correct items in the pod, or mark the volume as optional.`},
	{"NoAPIServer", `there is no apiserver to ask`, `the pod refers to something in the cluster, and this kubelet runs without an apiserver`,
		`Use volumes that need none (hostPath, emptyDir, image), or start the kubelet with --kubeconfig.`},
	{"NotAuthorized", `no relationship found between node`, `the apiserver does not let this node read what the pod refers to, perhaps because it has not yet seen that the pod is bound here`,
		`It passes within seconds; if it does not, look at the node's identity and the cluster's authorization.`},
	{"ServiceAccountMissing", `serviceaccounts? "([^"]+)" not found`, `the service account $1 does not exist`, `Create it, or name another in spec.serviceAccountName.`},
	{"HostPathMissing", `hostPath type check failed: (\S+) does not exist`, `$1, which a hostPath volume names, does not exist on the node`,
		`Make it on the node, or use the type DirectoryOrCreate or FileOrCreate.`},
	{"HostPathType", `hostPath type check failed: (\S+) is not (a[^,;]*)`, `$1 on the node is not $2, as the hostPath volume's type says`,
		`Correct the volume's type or path.`},
	{"ClaimMissing", `persistentvolumeclaims? "([^"]+)" not found`, `the PersistentVolumeClaim $1 does not exist`, `Create the claim, or correct claimName.`},
	{"ClaimUnbound", `PVC is not bound|PVC has empty`, `its PersistentVolumeClaim has no volume yet`,
		`See kubectl describe pvc: a storage class or a matching PersistentVolume may be missing.`},
	{"ClaimDeleted", `PVC is being deleted`, `its PersistentVolumeClaim is being deleted`, `Use another claim, or wait until it is gone and create it again.`},
	{"DriverMissing", `driver name (\S+) not found in the list of registered CSI drivers`, `the CSI driver $1 is not on this node`,
		`See that the driver's node plugin runs here (it is usually a DaemonSet), or correct the driver's name.`},
	{"DriverMissing", `not supported by driver (\S+) \(no CSIDriver object\)`, `the cluster has no CSIDriver object for the driver $1`,
		`Install the driver, or correct its name.`},
	{"NotAttached", `is not attached for volume attachment|waiting for the volume to be attached`, `its volume is not attached to this node yet`,
		`That is the attach controller's and the CSI driver's work: see kubectl get volumeattachments.`},
	{"VolumeInUse", `ReadWriteOncePod access mode and is already in use`, `its volume may be used by one pod at a time, and another one has it`, `Wait for that pod's end, or delete it.`},
	{"VolumeUnsupported", `\((\S+)\): volumes of kind (\S+) are not supported`, `its volume $1 is of the kind $2, which this kubelet does not have`, `Use a CSI driver for it, or another node.`},
	{"SubPath", `subPath "([^"]*)": (.*)`, `the subPath $1 cannot be used: $2`, `A subPath is relative to its volume and cannot lead out of it, nor can links in it.`},
	{"NodeDiskFull", `no space left on device`, `the node's disk is full`, `Free space on the node: images that nothing uses, logs, emptyDir volumes.`},
})

// sandboxes are what messages say of a sandbox that cannot be made.
var sandboxes = compile([]meaning{
	{"RuntimeClassMissing", `failed to get RuntimeClass "([^"]+)": RuntimeClass not found`, `the RuntimeClass $1 does not exist`,
		`Create it, or correct runtimeClassName in the pod; the pod goes on by itself then.`},
	{"HandlerMissing", `(?:unknown|no) (?:handler|runtime)(?: for)? "([^"]+)"|runtime handler "?([^" ]+)"? not`, `the container runtime has no handler $1$2, which the RuntimeClass names`,
		`Configure the handler in the runtime, or correct the RuntimeClass.`},
	{"AddressesExhausted", `no IP addresses available`, `the node has no address left for pods`, `Delete pods, or give the node a larger range.`},
	{"NetworkPlugin", `plugin type="?([^" ]+)"? failed[^:]*: (.*)`, `the network plugin $1 cannot connect it: $2`,
		`Look at the plugin's configuration, usually in /etc/cni/net.d, and at its own logs.`},
	{"NetworkPlugin", `(cni .*not initialized|network is not ready.*)`, `the node's network is not ready: $1`, `Install or repair the cluster's network plugin.`},
	{"RuntimeAway", `connection refused|error while dialing|no such file or directory.*\.sock|Unavailable`, `the container runtime does not answer`,
		`Start it, and see its log; the kubelet goes on by itself then.`},
	{"RuntimeHangs", `DeadlineExceeded|deadline exceeded`, `the container runtime did not answer in time`, `See the runtime's log and the node's load.`},
	{"NodeDiskFull", `no space left on device`, `the node's disk is full`, `Free space on the node.`},
})

// images are what registries and runtimes say of an image that cannot be had.
var images = compile([]meaning{
	{"ImageRateLimit", `toomanyrequests|429 too many`, `its registry gives no more images to this address for a while`, `Log in to the registry with a pull secret, use a mirror, or wait.`},
	{"ImagePlatform", `no match for platform|no image for platform|does not provide .*platform`, `it does not exist for this machine's architecture`, `Use an image for it, or another node.`},
	{"ImageDenied", `unauthorized|denied|\b401\b|\b403\b|authorization failed|authentication required|no basic auth`, `its registry does not give it without other credentials`,
		`Name a pull secret for that registry in imagePullSecrets, and see that it exists in the pod's namespace and is right.`},
	{"ImageMissing", `not found|manifest.?unknown|name.?unknown|\b404\b|does not exist`, `it is not in its registry under this name and tag`, `Correct the image's name or tag, or push it.`},
	{"RegistryTLS", `x509|certificate|HTTP response to HTTPS`, `the registry's certificate is not accepted`, `Make its authority known to the runtime, or configure the registry there.`},
	{"RegistryAway", `no such host|connection refused|dial tcp|timeout|network is unreachable|registry is unavailable`, `its registry cannot be reached`,
		`See that the name is right and that the node reaches it; the pull is tried again by itself.`},
	{"NodeDiskFull", `no space left on device`, `the node's disk is full`, `Free space on the node.`},
})

// starts are what messages say of a container that cannot be made or started.
var starts = compile([]meaning{
	{"RunsAsRoot", `runAsNonRoot|breaks non-root policy`, `it must not run as root (runAsNonRoot), and would`, `Set runAsUser to a number other than 0, or use an image that names such a user.`},
	{"CommandDenied", `permission denied|exec: "[^"]*": is a directory`, `its command may not be executed`, `Make the file executable in the image (chmod +x), or correct command.`},
	{"WrongArchitecture", `exec format error`, `its program is for another architecture, or is a script without #!`, `Use an image for this machine.`},
	{"MountMismatch", `not a directory.*mount|mount.*not a directory`, `a file is to be mounted on a directory, or the other way round`, `Correct mountPath or subPath.`},
	{"CommandMissing", `executable file not found|exec: "?([^": ]+)"?.*(?:no such file|stat)|no such file or directory`, `its command is not in the image`,
		`Correct command in the pod: it is looked for in the image's PATH, and needs its interpreter there too.`},
	{"MemoryTooLow", `memory limit too low|OOM-killed`, `its memory limit is too low even to start it`, `Raise resources.limits.memory.`},
	{"ProfileMissing", `(seccomp|apparmor)[^:]*profile`, `its $1 profile cannot be used`, `Put the profile on the node, or correct its name.`},
})

// explain says what a message means by the given tables, and else what it says itself.
func explain(message, fallback string, tables ...table) *meaning {
	for _, t := range tables {
		if m := t.find(message); m != nil {
			return m
		}
	}
	return &meaning{cause: fallback, because: firstLine(message)}
}

// firstLine keeps a sentence readable.
func firstLine(message string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(message), "\n")
	line = strings.TrimSuffix(line, ".")
	const most = 300
	if len(line) > most {
		line = strings.ToValidUTF8(line[:most], "") + "..."
	}
	return line
}
