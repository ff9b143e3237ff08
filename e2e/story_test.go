package e2e

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"minikubelet/e2e/stack"
	"minikubelet/kubelet/timeline/story"
)

// ask runs a command of the kubelet's own program against the one that runs.
func ask(ctx context.Context, args ...string) (string, error) {
	var rest []string
	for i, arg := range args {
		if arg == "--" {
			args, rest = args[:i:i], args[i:]
			break
		}
	}
	args = append(append(args, "--root-dir="+shared.RootDir()), rest...)
	out, err := exec.CommandContext(ctx, shared.KubeletBinary, args...).CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("kubelet %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// explain asks the kubelet for a pod's story.
func explain(ctx context.Context, pod string) (s story.Story, err error) {
	out, err := ask(context.WithoutCancel(ctx), "explain", "pod", pod, "--output=json")
	if err == nil {
		err = json.Unmarshal([]byte(out), &s)
	}
	return s, err
}

// told asks the kubelet for a pod's story until its cause is the wanted one.
func told(ctx context.Context, t *testing.T, pod, cause string, says ...string) story.Story {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for {
		s, err := explain(ctx, pod)
		if err == nil && s.Cause == cause && (cause != "" || s.State == "Ready") {
			t.Log(s.Answer, s.Remedy)
			for _, part := range says {
				if !strings.Contains(s.Answer+" "+s.Remedy, part) {
					t.Errorf("%q is not in: %s %s", part, s.Answer, s.Remedy)
				}
			}
			return s
		}
		select {
		case <-ctx.Done():
			t.Fatalf("pod %s: cause %q, want %q (%v); it is %s: %s %s\n%v", pod, s.Cause, cause, err, s.State, s.Answer, s.Remedy, s.Life)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// storyCase is a pod with something wrong, and what is told of it.
type storyCase struct {
	cause string
	says  []string // parts of answer and remedy
	pod   func(*corev1.Pod)
}

func podSpec(change func(*corev1.PodSpec)) func(*corev1.Pod) {
	return func(p *corev1.Pod) { change(&p.Spec) }
}

func first(change func(*corev1.Container)) func(*corev1.Pod) {
	return func(p *corev1.Pod) { change(&p.Spec.Containers[0]) }
}

func runs(text string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.Containers[0] = shell("app", text) }
}

func volumed(v corev1.VolumeSource, subPath string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: v}}
		p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data", SubPath: subPath}}
	}
}

func fromConfigMap(name, key string, optional bool) func(*corev1.Pod) {
	return first(func(c *corev1.Container) {
		c.Env = []corev1.EnvVar{{Name: "A", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{
			LocalObjectReference: corev1.LocalObjectReference{Name: name}, Key: key, Optional: &optional}}}}
	})
}

func hostPath(path string, kind corev1.HostPathType) corev1.VolumeSource {
	return corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: path, Type: &kind}}
}

func image(name string, policy corev1.PullPolicy) func(*corev1.Pod) {
	return first(func(c *corev1.Container) { c.Image, c.ImagePullPolicy = name, policy })
}

func requests(name corev1.ResourceName, amount string) func(*corev1.Pod) {
	return first(func(c *corev1.Container) {
		c.Resources.Requests = corev1.ResourceList{name: resource.MustParse(amount)}
	})
}

func httpProbe(path string, port int32) *corev1.Probe {
	return &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: path, Port: intstr.FromInt32(port)}}, PeriodSeconds: 1, FailureThreshold: 1}
}

// storyCases are causes that a node has at any time.
func storyCases(configMap string) map[string]storyCase {
	local := func(name string) corev1.LocalObjectReference { return corev1.LocalObjectReference{Name: name} }
	unsafe := func(p *corev1.PodSpec) {
		p.SecurityContext = &corev1.PodSecurityContext{Sysctls: []corev1.Sysctl{{Name: "kernel.msgmax", Value: "65536"}}}
	}
	return map[string]storyCase{
		"configmap-volume": {"ConfigMapMissing", []string{"volume data", "ConfigMap no-such", "Create it"},
			volumed(corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: local("no-such")}}, "")},
		"configmap-env": {"ConfigMapMissing", []string{"Container app cannot be made", "no-such"}, fromConfigMap("no-such", "key", false)},
		"configmap-key": {"KeyMissing", []string{"has no key nope"}, fromConfigMap(configMap, "nope", false)},
		"optional":      {"", nil, fromConfigMap("no-such", "key", true)},
		"secret-volume": {"SecretMissing", []string{"volume data", "Secret no-such"},
			volumed(corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "no-such"}}, "")},
		"secret-key": {"KeyMissing", []string{"key nope", "the ConfigMap " + configMap}, volumed(corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
			LocalObjectReference: local(configMap), Items: []corev1.KeyToPath{{Key: "nope", Path: "x"}}}}, "")},
		"image-missing": {"ImageMissing", []string{"nothere:1", "not in its registry"}, image("nothere:1", corev1.PullIfNotPresent)},
		"image-name":    {"ImageName", []string{`"No Such Name"`}, image("No Such Name", corev1.PullIfNotPresent)},
		"image-never":   {"ImageNeverPull", []string{"IfNotPresent"}, image("nothere:2", corev1.PullNever)},
		"image-denied":  {"ImageDenied", []string{"imagePullSecrets"}, image("story/locked:1", corev1.PullIfNotPresent)},
		"crash":         {"ExitCode", []string{"exit code 7", "out of luck"}, runs("echo -n out of luck >/dev/termination-log; exit 7")},
		"signal":        {"Signal", []string{"signal 9", "killed"}, runs("exit 137")},
		"done":          {"Completed", []string{"ended with success"}, runs("exit 0")},
		"oom": {"OOMKilled", []string{"limit of 16Mi"}, func(p *corev1.Pod) {
			runs("tail /dev/zero")(p)
			p.Spec.Containers[0].Resources.Limits = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("16Mi")}
		}},
		"command":        {"CommandMissing", []string{"not in the image", "/no/such/program"}, first(func(c *corev1.Container) { c.Command = []string{"/no/such/program"} })},
		"image-limit":    {"ImageRateLimit", []string{"no more images"}, image("story/limited:1", corev1.PullIfNotPresent)},
		"image-platform": {"ImagePlatform", []string{"this machine's architecture"}, image("story/elsewhere:1", corev1.PullIfNotPresent)},
		"architecture": {"WrongArchitecture", []string{"/data/program"}, func(p *corev1.Pod) {
			volumed(corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}, "")(p)
			p.Spec.Containers[0].Command = []string{"/data/program"}
			p.Spec.Containers[0].TerminationMessagePolicy = corev1.TerminationMessageFallbackToLogsOnError
			c := shell("first", "echo no program >/data/program && chmod +x /data/program")
			c.VolumeMounts = p.Spec.Containers[0].VolumeMounts
			p.Spec.InitContainers = []corev1.Container{c}
		}},
		"permission": {"CommandDenied", []string{"may not be executed"}, first(func(c *corev1.Container) { c.Command = []string{"/etc"} })},
		"liveness": {"LivenessProbe", []string{"GET /nothing, port 81", "names port 8080"}, first(func(c *corev1.Container) {
			c.Ports = []corev1.ContainerPort{{ContainerPort: 8080}}
			c.LivenessProbe = httpProbe("/nothing", 81)
		})},
		"readiness": {"ReadinessProbe", []string{"runs but is not ready", "exit 1) fails, and says nothing"}, first(func(c *corev1.Container) {
			*c = shell("app", "sleep 1000")
			c.ReadinessProbe = &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"sh", "-c", "exit 1"}}}}
		})},
		"startup": {"StartupProbe", []string{"tcp, port 82"}, first(func(c *corev1.Container) {
			c.StartupProbe = &corev1.Probe{PeriodSeconds: 1, FailureThreshold: 100, ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(82)}}}
		})},
		"hook": {"PostStartHook", []string{"postStart hook fails", "sh -c exit 3"}, first(func(c *corev1.Container) {
			*c = shell("app", "sleep 1000")
			c.Lifecycle = &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"sh", "-c", "exit 3"}}}}
		})},
		"init-fails":   {"ExitCode", []string{"Init container first", "exit code 4"}, podSpec(func(p *corev1.PodSpec) { p.InitContainers = []corev1.Container{shell("first", "exit 4")} })},
		"init-running": {"InitRunning", []string{"init container first"}, podSpec(func(p *corev1.PodSpec) { p.InitContainers = []corev1.Container{shell("first", "sleep 1000")} })},
		"failed": {"ExitCode", []string{"The pod has failed", "exit code 5", "Never"}, func(p *corev1.Pod) {
			runs("exit 5")(p)
			p.Spec.RestartPolicy = corev1.RestartPolicyNever
		}},
		"root": {"RunsAsRoot", []string{"runAsUser"}, first(func(c *corev1.Container) { c.SecurityContext = &corev1.SecurityContext{RunAsNonRoot: new(true)} })},
		"subpath": {"SubPath", []string{"its subPath cannot be used", `volumeMount "data"`}, func(p *corev1.Pod) {
			volumed(corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}, "out")(p)
			c := shell("first", "ln -s ../../.. /data/loop && ln -s loop/nowhere /data/out")
			c.VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}
			p.Spec.InitContainers = []corev1.Container{c}
		}},
		"hostpath":      {"HostPathMissing", []string{"/no/such/dir"}, volumed(hostPath("/no/such/dir", corev1.HostPathDirectory), "")},
		"hostpath-type": {"HostPathType", []string{"/proc/version on the node is not a directory"}, volumed(hostPath("/proc/version", corev1.HostPathDirectory), "")},
		"claim":         {"ClaimMissing", []string{"PersistentVolumeClaim no-such"}, volumed(corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "no-such"}}, "")},
		"claim-unbound": {"ClaimUnbound", []string{"PersistentVolumeClaim " + configMap + " has no volume yet"}, volumed(corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: configMap}}, "")},
		"claim-deleted": {"ClaimDeleted", []string{"PersistentVolumeClaim " + configMap + "-going is being deleted"}, volumed(corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: configMap + "-going"}}, "")},
		"csi":           {"DriverMissing", []string{"the CSI driver no.such.driver is not on this node"}, volumed(corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{Driver: "no.such.driver"}}, "")},
		"nfs":           {"VolumeUnsupported", []string{"nfs"}, volumed(corev1.VolumeSource{NFS: &corev1.NFSVolumeSource{Server: "127.0.0.1", Path: "/"}}, "")},
		"cpu":           {"OutOfcpu", []string{"asks for 1000000m"}, requests(corev1.ResourceCPU, "1000")},
		"memory":        {"OutOfmemory", []string{"not enough memory left"}, requests(corev1.ResourceMemory, "1000Ti")},
		"critical": {"UnexpectedAdmissionError", []string{"not enough cpu left for the pod, even without"}, func(p *corev1.Pod) {
			requests(corev1.ResourceCPU, "1000")(p)
			p.Spec.PriorityClassName = "system-node-critical"
		}},
		"selector":    {"NodeAffinity", []string{"node's labels", "no=such-label"}, podSpec(func(p *corev1.PodSpec) { p.NodeSelector = map[string]string{"no": "such-label"} })},
		"os":          {"PodOSNotSupported", []string{"operating system (windows)"}, podSpec(func(p *corev1.PodSpec) { p.OS = &corev1.PodOS{Name: corev1.Windows} })},
		"label-os":    {"PodOSSelectorNodeLabelDoesNotMatch", []string{"operating system (windows)", "kubernetes.io/os"}, func(p *corev1.Pod) { p.Labels = map[string]string{corev1.LabelOSStable: "windows"} }},
		"selector-os": {"NodeAffinity", []string{"kubernetes.io/os=windows"}, podSpec(func(p *corev1.PodSpec) { p.NodeSelector = map[string]string{corev1.LabelOSStable: "windows"} })},
		"sysctl":      {"SysctlForbidden", []string{"kernel.msgmax", "--allowed-unsafe-sysctls"}, podSpec(unsafe)},
		"deadline":    {"DeadlineExceeded", []string{"activeDeadlineSeconds"}, podSpec(func(p *corev1.PodSpec) { p.ActiveDeadlineSeconds = new(int64(1)) })},
		"claims": {"Unsupported", []string{"spec.resourceClaims"}, podSpec(func(p *corev1.PodSpec) {
			p.ResourceClaims = []corev1.PodResourceClaim{{Name: "gpu", ResourceClaimName: new("no-such")}}
		})},
		"gate": {"ReadinessGates", []string{"example.com/gate"}, podSpec(func(p *corev1.PodSpec) {
			p.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: "example.com/gate"}}
		})},
		"fine": {"", nil, func(*corev1.Pod) {}},
	}
}

// explained makes the pods of all cases at once and compares what is told of each.
func explained(ctx context.Context, t *testing.T, prefix string, cases map[string]storyCase) {
	t.Helper()
	for name, tc := range cases {
		pod := newPod(t)
		pod.Name = prefix + "-" + name
		tc.pod(pod)
		create(ctx, t, pod)
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) { told(ctx, t, prefix+"-"+name, tc.cause, tc.says...) })
	}
}

// TestExplain: every cause that keeps a pod from running is told in a sentence, by the running kubelet.
func TestExplain(t *testing.T) {
	ctx, s := node(t)
	prefix := podName(t)
	s.Registry.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
		switch {
		case strings.Contains(r.URL.Path, "/story/locked/"):
			w.Header().Set("WWW-Authenticate", `Basic realm="locked"`)
			w.WriteHeader(http.StatusUnauthorized)
		case strings.Contains(r.URL.Path, "/story/limited/"):
			w.WriteHeader(http.StatusTooManyRequests)
			fmt.Fprint(w, `{"errors": [{"code": "TOOMANYREQUESTS", "message": "You have reached your pull rate limit."}]}`)
		case strings.Contains(r.URL.Path, "/story/elsewhere/manifests/"):
			index := `{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [{"mediaType": "application/vnd.oci.image.manifest.v1+json",
				"digest": "sha256:` + strings.Repeat("0", 64) + `", "size": 2, "platform": {"architecture": "s390x", "os": "linux"}}]}`
			w.Header().Set("Content-Type", "application/vnd.oci.image.index.v1+json")
			w.Header().Set("Docker-Content-Digest", fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(index))))
			w.Header().Set("Content-Length", fmt.Sprint(len(index)))
			if r.Method == http.MethodGet {
				fmt.Fprint(w, index)
			}
		default:
			return false
		}
		return true
	})
	defer s.Registry.Intercept(nil)
	configMap := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: prefix, Namespace: corev1.NamespaceDefault}, Data: map[string]string{"here": "yes"}}
	if _, err := s.Client.CoreV1().ConfigMaps(configMap.Namespace).Create(ctx, configMap, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	claims := s.Client.CoreV1().PersistentVolumeClaims(corev1.NamespaceDefault)
	for name, finalizers := range map[string][]string{prefix: nil, prefix + "-going": {"example.com/keep"}} {
		claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: name, Finalizers: finalizers}, Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: new(""),
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Mi")}},
		}}
		if _, err := claims.Create(ctx, claim, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = claims.Delete(context.WithoutCancel(ctx), name, metav1.DeleteOptions{})
			_, _ = claims.Patch(context.WithoutCancel(ctx), name, types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
		})
	}
	if err := claims.Delete(ctx, prefix+"-going", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	// A controller may have added its own finalizer before that, which keeps a claim for pods that use it.
	if _, err := claims.Patch(ctx, prefix+"-going", types.MergePatchType, []byte(`{"metadata":{"finalizers":["example.com/keep"]}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	explained(ctx, t, prefix, storyCases(prefix))
	out, err := ask(ctx, "explain", "pod", prefix+"-configmap-volume")
	if err != nil || !strings.Contains(out, "Why: The pod waits for its volume data") || !strings.Contains(out, "Its life so far:") {
		t.Errorf("the story in words: %v\n%s", err, out)
	}
}

// TestExplainAdmission: what depends on other pods or on the node's state.
func TestExplainAdmission(t *testing.T) {
	ctx, s := node(t)
	port := func(p *corev1.Pod) {
		p.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 8080, HostPort: 18099}}
	}
	holder := newPod(t)
	port(holder)
	ready(ctx, t, holder)
	second := newPod(t)
	port(second)
	create(ctx, t, second)
	told(ctx, t, second.Name, "NodePorts")

	slow := newPod(t)
	slow.Spec.TerminationGracePeriodSeconds = new(int64(60))
	slow.Spec.Containers[0] = shell("app", "trap '' TERM; while true; do sleep 1; done")
	slow = ready(ctx, t, slow)
	kept := newPod(t)
	kept.Finalizers = []string{"example.com/keep"}
	kept = ready(ctx, t, kept)
	for _, pod := range []*corev1.Pod{slow, kept} {
		if err := s.Client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	told(ctx, t, slow.Name, "GracePeriod", "container app may use its grace period")
	told(ctx, t, kept.Name, "Finalizers", "example.com/keep")
	if _, err := s.Client.CoreV1().Pods(kept.Namespace).Patch(ctx, kept.Name, types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
}

// TestExplainTaint: a taint keeps a pod from the node. The controller that would delete it at the same moment is stopped meanwhile.
func TestExplainTaint(t *testing.T) {
	ctx, s := node(t)
	stopComponent(ctx, t, stack.ControllerManager)
	taint := func(patch string) {
		t.Helper()
		if _, err := s.Client.CoreV1().Nodes().Patch(context.WithoutCancel(ctx), s.NodeName, types.MergePatchType, []byte(`{"spec":{"taints":[`+patch+`]}}`), metav1.PatchOptions{}); err != nil {
			t.Error(err)
		}
	}
	taint(`{"key":"example.com/away","effect":"NoExecute"}`)
	defer taint("")
	var away *corev1.Pod
	eventually(ctx, t, "the kubelet knows of the taint", func() bool {
		away = create(ctx, t, newPod(t))
		return until(ctx, t, away, "taken or refused", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed || p.Status.StartTime != nil }).Status.Reason == "TaintToleration"
	})
	told(ctx, t, away.Name, "TaintToleration")
	taint("")
	startComponent(ctx, t, stack.ControllerManager)
}

// TestExplainRuntimeClass: a class that went away after the apiserver let the pod in, and one whose handler is not there.
func TestExplainRuntimeClass(t *testing.T) {
	ctx, s := node(t)
	classes := s.Client.NodeV1().RuntimeClasses()
	for _, handler := range []string{"runc", "no-such-handler"} {
		pod := newPod(t)
		class := &nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: pod.Name}, Handler: handler}
		if _, err := classes.Create(ctx, class, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = classes.Delete(context.WithoutCancel(ctx), class.Name, metav1.DeleteOptions{}) })
		pod.Spec.RuntimeClassName, pod.Spec.NodeName = &class.Name, ""
		eventually(ctx, t, "the apiserver knows the class", func() bool {
			_, err := s.Client.CoreV1().Pods(pod.Namespace).Create(ctx, pod, metav1.CreateOptions{DryRun: []string{"All"}})
			return err == nil
		})
		made := create(ctx, t, pod)
		cause := "HandlerMissing"
		if handler == "runc" {
			cause = "RuntimeClassMissing"
			if err := classes.Delete(ctx, class.Name, metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		bind(ctx, t, made)
		told(ctx, t, pod.Name, cause)
	}
}

// TestExplainServiceAccount: an account that went away after the apiserver let the pod in.
func TestExplainServiceAccount(t *testing.T) {
	ctx, s := node(t)
	pod := newPod(t)
	accounts := s.Client.CoreV1().ServiceAccounts(pod.Namespace)
	if _, err := accounts.Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: pod.Name}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	pod.Spec.ServiceAccountName, pod.Spec.NodeName = pod.Name, ""
	made := create(ctx, t, pod)
	if err := accounts.Delete(ctx, pod.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	bind(ctx, t, made)
	told(ctx, t, pod.Name, "ServiceAccountMissing")
}

// bind has the node get a pod that was made without one.
func bind(ctx context.Context, t *testing.T, pod *corev1.Pod) {
	t.Helper()
	if err := shared.Client.CoreV1().Pods(pod.Namespace).Bind(ctx, &corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{Name: pod.Name, UID: pod.UID}, Target: corev1.ObjectReference{Kind: "Node", Name: shared.NodeName},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// TestExplainRuntimeAway: a pod that comes while no runtime answers.
func TestExplainRuntimeAway(t *testing.T) {
	ctx, s := node(t)
	if !s.RuntimeIsProgram() {
		t.Skip("the embedded runtime ends with the kubelet")
	}
	name := stack.Containerd
	if os.Getenv("E2E_RUNTIME") != "" {
		name = os.Getenv("E2E_RUNTIME")
	}
	stopComponent(ctx, t, name)
	pod := create(ctx, t, newPod(t))
	told(ctx, t, pod.Name, "RuntimeAway")
	startComponent(ctx, t, name)
	until(ctx, t, pod, "Ready", stack.PodReady)
	told(ctx, t, pod.Name, "")
}
