package e2e

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"minikubelet/e2e/stack"
)

// TestPod: one pod from creation to its end, and nothing left of it.
func TestPod(t *testing.T) {
	ctx, s := node(t)
	remove(ctx, t, ready(ctx, t, newPod(t))) // what stays for good is there after the first
	before, err := s.Resources()
	if err != nil {
		t.Fatal(err)
	}

	pod := ready(ctx, t, newPod(t))
	if body := get(ctx, t, "http://"+pod.Status.PodIP+":8080/"); strings.TrimSpace(body) != pod.Name {
		t.Errorf("the pod says its host name is %q, want %q", body, pod.Name)
	}
	if pod.Status.HostIP != stack.NodeIP || pod.Status.QOSClass != corev1.PodQOSBestEffort || pod.Status.StartTime == nil {
		t.Errorf("status: hostIP %q, QoS %q, startTime %v", pod.Status.HostIP, pod.Status.QOSClass, pod.Status.StartTime)
	}
	for _, want := range []corev1.PodConditionType{corev1.PodReadyToStartContainers, corev1.PodInitialized, corev1.ContainersReady, corev1.PodReady} {
		if !slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == want && c.Status == corev1.ConditionTrue }) {
			t.Errorf("condition %s is not true: %v", want, pod.Status.Conditions)
		}
	}
	for _, reason := range []string{"Pulled", "Created", "Started"} {
		event(ctx, t, pod.Name, reason)
	}
	if log := logs(t, pod, "app", 0); !strings.Contains(log, "serving :8080") {
		t.Errorf("log: %q", log)
	}
	remove(ctx, t, pod)
	event(ctx, t, pod.Name, "Killing")

	after, err := s.Resources()
	if err != nil {
		t.Fatal(err)
	}
	if leaked := stack.Leaked(before, after); len(leaked) > 0 {
		t.Errorf("a deleted pod left behind:\n%s", strings.Join(leaked, "\n"))
	}
}

// TestVolumesAndEnv: what a container gets to see.
func TestVolumesAndEnv(t *testing.T) {
	ctx, s := node(t)
	name := podName(t)
	meta := metav1.ObjectMeta{Name: name, Namespace: corev1.NamespaceDefault}
	core := s.Client.CoreV1()
	config, err := core.ConfigMaps(meta.Namespace).Create(ctx, &corev1.ConfigMap{ObjectMeta: meta, Data: map[string]string{"greeting": "hello"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := core.Secrets(meta.Namespace).Create(ctx, &corev1.Secret{ObjectMeta: meta, StringData: map[string]string{"password": "s3cret"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	ref := corev1.LocalObjectReference{Name: name}
	pod := newPod(t)
	pod.Labels = map[string]string{"tier": "test"}
	c := &pod.Spec.Containers[0]
	c.Env = []corev1.EnvVar{
		{Name: "GREETING", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: ref, Key: "greeting"}}},
		{Name: "PASSWORD", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: ref, Key: "password"}}},
		{Name: "POD_IP", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "status.podIP"}}},
		{Name: "CPUS", ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "limits.cpu", Divisor: resource.MustParse("1m")}}},
		{Name: "BOTH", Value: "$(GREETING) $(NOBODY) $$(GREETING)"},
	}
	c.Resources.Limits = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("250m"), corev1.ResourceMemory: resource.MustParse("64Mi")}
	mode := int32(0o440)
	pod.Spec.Volumes = []corev1.Volume{
		{Name: "config", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: ref}}},
		{Name: "secret", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: name, DefaultMode: &mode}}},
		{Name: "scratch", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		{Name: "host", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: t.TempDir()}}},
		{Name: "all", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: ref, Items: []corev1.KeyToPath{{Key: "greeting", Path: "deep/greeting"}}}},
			{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{Path: "labels", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels"}}}}},
		}}}},
	}
	for _, v := range pod.Spec.Volumes {
		c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: v.Name, MountPath: "/" + v.Name})
	}
	pod = ready(ctx, t, pod)
	base := "http://" + pod.Status.PodIP + ":8080"
	file := func(path string) string {
		body, err := s.Get(ctx, base+"/file?path="+path)
		if err != nil {
			t.Errorf("read %s in the pod: %v", path, err)
		}
		return body
	}
	environment := get(ctx, t, base+"/env")
	for _, want := range []string{"GREETING=hello", "PASSWORD=s3cret", "POD_IP=" + pod.Status.PodIP, "CPUS=250", "BOTH=hello $(NOBODY) $(GREETING)", "KUBERNETES_SERVICE_HOST="} {
		if !strings.Contains(environment, want) {
			t.Errorf("environment lacks %q:\n%s", want, environment)
		}
	}
	for path, want := range map[string]string{
		"/config/greeting": "hello", "/secret/password": "s3cret", "/all/deep/greeting": "hello", "/all/labels": `tier="test"`,
		"/var/run/secrets/kubernetes.io/serviceaccount/namespace": "default",
	} {
		if got := file(path); strings.TrimSpace(got) != want {
			t.Errorf("%s holds %q, want %q", path, got, want)
		}
	}
	if token := file("/var/run/secrets/kubernetes.io/serviceaccount/token"); strings.Count(token, ".") != 2 {
		t.Errorf("the service account token is %q", token)
	}
	if hosts := file("/etc/hosts"); !strings.Contains(hosts, pod.Status.PodIP+"\t"+pod.Name) {
		t.Errorf("/etc/hosts:\n%s", hosts)
	}

	// A change arrives by watch.
	config.Data["greeting"] = "goodbye"
	if _, err := core.ConfigMaps(meta.Namespace).Update(ctx, config, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(ctx, t, "the changed ConfigMap is in the volume", func() bool { return file("/config/greeting") == "goodbye" })
}

// TestMissingObject: a pod waits for what it mounts, says so, and starts once it is there.
func TestMissingObject(t *testing.T) {
	ctx, s := node(t)
	pod := newPod(t)
	ref := corev1.LocalObjectReference{Name: pod.Name}
	pod.Spec.Volumes = []corev1.Volume{{Name: "config", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: ref}}}}
	pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "config", MountPath: "/config"}}
	create(ctx, t, pod)
	if message := event(ctx, t, pod.Name, "FailedMount"); !strings.Contains(message, "not found") || !strings.Contains(message, pod.Name) {
		t.Errorf("FailedMount says %q", message)
	}
	if _, err := s.Client.CoreV1().ConfigMaps(pod.Namespace).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: pod.Name}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.WaitPodReady(ctx, pod.Namespace, pod.Name); err != nil {
		t.Fatal(err)
	}
}

// TestInitContainers: in order, each to its end; a sidecar starts among them and ends last.
func TestInitContainers(t *testing.T) {
	ctx, _ := node(t)
	pod := newPod(t)
	always := corev1.ContainerRestartPolicyAlways
	sidecar := shell("sidecar", "trap 'echo sidecar-end >>/out/order; exit 0' TERM; echo sidecar >>/out/order; sleep 1000 & wait")
	sidecar.RestartPolicy = &always
	pod.Spec.InitContainers = []corev1.Container{shell("first", "echo first >>/out/order"), sidecar, shell("second", "echo second >>/out/order")}
	pod.Spec.Containers = []corev1.Container{shell("main", "trap 'echo main-end >>/out/order; exit 0' TERM; cat /out/order; echo main >>/out/order; sleep 1000 & wait")}
	dir := t.TempDir()
	pod.Spec.Volumes = []corev1.Volume{{Name: "out", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: dir}}}}
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			containers[i].VolumeMounts = []corev1.VolumeMount{{Name: "out", MountPath: "/out"}}
		}
	}
	pod = ready(ctx, t, pod)
	eventually(ctx, t, "main has written", func() bool { return strings.Contains(read(t, dir+"/order"), "main") })
	remove(ctx, t, pod)
	order := strings.Fields(read(t, dir+"/order"))
	first, last := slices.Index(order, "first"), slices.Index(order, "sidecar-end")
	for i, want := range []string{"first", "sidecar", "second", "main", "main-end", "sidecar-end"} {
		if slices.Index(order, want) < 0 {
			t.Fatalf("%s is missing in %v", want, order)
		}
		if i > 0 && slices.Index(order, want) < first || slices.Index(order, want) > last {
			t.Errorf("containers ran in the order %v", order)
		}
	}
	if slices.Index(order, "second") > slices.Index(order, "main") {
		t.Errorf("main started before the init containers had ended: %v", order)
	}
}

// TestPhases: how pods end under each restart policy.
func TestPhases(t *testing.T) {
	ctx, _ := node(t)
	tests := []struct {
		name, script string
		policy       corev1.RestartPolicy
		phase        corev1.PodPhase
		code         int32
		message      string
	}{
		{"never, exit 0", "echo fine >/dev/termination-log", corev1.RestartPolicyNever, corev1.PodSucceeded, 0, "fine"},
		{"never, exit 3", "exit 3", corev1.RestartPolicyNever, corev1.PodFailed, 3, ""},
		{"on failure, exit 0", "exit 0", corev1.RestartPolicyOnFailure, corev1.PodSucceeded, 0, ""},
	}
	for _, tt := range tests {
		t.Run(strings.NewReplacer(" ", "-", ",", "").Replace(tt.name), func(t *testing.T) {
			pod := newPod(t)
			pod.Spec.RestartPolicy = tt.policy
			pod.Spec.Containers = []corev1.Container{shell("main", tt.script)}
			create(ctx, t, pod)
			pod = phase(ctx, t, pod, tt.phase)
			end := pod.Status.ContainerStatuses[0].State.Terminated
			if end == nil || end.ExitCode != tt.code || strings.TrimSpace(end.Message) != tt.message {
				t.Errorf("the container ended as %+v, want code %d and message %q", end, tt.code, tt.message)
			}
			until(ctx, t, pod, "without a sandbox, as its conditions say", func(p *corev1.Pod) bool {
				return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
					return c.Type == corev1.PodReadyToStartContainers && c.Reason == "PodSandboxNotReady" && c.Message == "pod sandbox is not ready"
				})
			})
			remove(ctx, t, pod)
		})
	}
}

// TestCrashLoop: a container that fails is started again, later each time.
func TestCrashLoop(t *testing.T) {
	ctx, _ := node(t)
	pod := newPod(t)
	pod.Spec.Containers = []corev1.Container{shell("main", "echo out of luck; exit 7")}
	pod.Spec.Containers[0].TerminationMessagePolicy = corev1.TerminationMessageFallbackToLogsOnError
	create(ctx, t, pod)
	pod = waitingFor(ctx, t, pod, "CrashLoopBackOff")
	last := pod.Status.ContainerStatuses[0].LastTerminationState.Terminated
	if last == nil || last.ExitCode != 7 || !strings.Contains(last.Message, "out of luck") {
		t.Errorf("last state: %+v", last)
	}
	pod = until(ctx, t, pod, "restarted twice", func(p *corev1.Pod) bool { return restarts(p) >= 2 })
	event(ctx, t, pod.Name, "BackOff")
}

// TestImages: what users see of images that cannot be had.
func TestImages(t *testing.T) {
	ctx, _ := node(t)
	missing := newPod(t)
	missing.Spec.Containers[0].Image = "nothere:1"
	create(ctx, t, missing)
	never := newPod(t)
	never.Spec.Containers[0].Image, never.Spec.Containers[0].ImagePullPolicy = "nothere:2", corev1.PullNever
	create(ctx, t, never)
	invalid := newPod(t)
	invalid.Spec.Containers[0].Image = "No Such Name"
	create(ctx, t, invalid)
	waitingFor(ctx, t, missing, "ImagePullBackOff")
	waitingFor(ctx, t, never, "ErrImageNeverPull")
	waitingFor(ctx, t, invalid, "InvalidImageName")
	event(ctx, t, missing.Name, "BackOff")
}

// TestPrivateImage: a pull secret opens a registry that asks for a password.
func TestPrivateImage(t *testing.T) {
	ctx, s := node(t)
	image, err := stack.BuildImage(nil, v1Config())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Registry.Push(ctx, "private/app:1", image); err != nil {
		t.Fatal(err)
	}
	s.Registry.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/private/") {
			return false
		}
		if user, password, ok := r.BasicAuth(); ok && user == "me" && password == "open sesame" {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="private"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
	defer s.Registry.Intercept(nil)

	host, _, _ := strings.Cut(stack.PauseImage, "/")
	pod := newPod(t)
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: pod.Name}, Type: corev1.SecretTypeDockerConfigJson,
		StringData: map[string]string{corev1.DockerConfigJsonKey: `{"auths":{"` + host + `":{"username":"me","password":"open sesame"}}}`},
	}
	if _, err := s.Client.CoreV1().Secrets(pod.Namespace).Create(ctx, secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	pod.Spec.Containers[0].Image = host + "/private/app:1"
	locked := pod.DeepCopy()
	locked.Name = podName(t)
	create(ctx, t, locked)
	waitingFor(ctx, t, locked, "ErrImagePull")
	pod.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: pod.Name}}
	create(ctx, t, pod)
	event(ctx, t, pod.Name, "Pulled")
}

// TestGracefulEnd: preStop first, then TERM, then KILL when the grace period is over.
func TestGracefulEnd(t *testing.T) {
	ctx, _ := node(t)
	dir := t.TempDir()
	pod := newPod(t)
	pod.Spec.Volumes = []corev1.Volume{{Name: "out", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: dir}}}}
	c := shell("main", "trap 'echo term >>/out/order' TERM; while true; do sleep 0.1; done")
	c.VolumeMounts = []corev1.VolumeMount{{Name: "out", MountPath: "/out"}}
	c.Lifecycle = &corev1.Lifecycle{
		PostStart: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"sh", "-c", "echo poststart >>/out/order"}}},
		PreStop:   &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"sh", "-c", "echo prestop >>/out/order"}}},
	}
	pod.Spec.Containers = []corev1.Container{c}
	pod = ready(ctx, t, pod)
	remove(ctx, t, pod)
	if got := strings.Fields(read(t, dir+"/order")); !slices.Equal(got, []string{"poststart", "prestop", "term"}) {
		t.Errorf("hooks and signals came as %v", got)
	}
}

// TestRejected: a pod that the node cannot take fails at once, with upstream's reason.
func TestRejected(t *testing.T) {
	ctx, _ := node(t)
	holder := newPod(t)
	holder.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 8080, HostPort: 18080}}
	ready(ctx, t, holder)

	port := newPod(t)
	port.Spec.Containers[0].Ports = holder.Spec.Containers[0].Ports
	affinity := newPod(t)
	affinity.Spec.NodeSelector = map[string]string{"no": "such-label"}
	cpu := newPod(t)
	cpu.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1000")}
	for reason, pod := range map[string]*corev1.Pod{"NodePorts": port, "NodeAffinity": affinity, "OutOfcpu": cpu} {
		create(ctx, t, pod)
		pod = phase(ctx, t, pod, corev1.PodFailed)
		if pod.Status.Reason != reason || !strings.HasPrefix(pod.Status.Message, "Pod was rejected: ") {
			t.Errorf("rejected with reason %q and message %q, want reason %s", pod.Status.Reason, pod.Status.Message, reason)
		}
		if got := pod.Status; got.HostIP != "" || got.Resources != nil || len(got.Conditions) != 0 {
			t.Errorf("more is told than that it was rejected: %+v", got)
		}
		event(ctx, t, pod.Name, reason)
		remove(ctx, t, pod)
	}
}

// TestRuntimeClass: a pod of an unknown class waits, and starts when the class comes.
func TestRuntimeClass(t *testing.T) {
	ctx, s := node(t)
	pod := newPod(t)
	class := &nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: pod.Name}, Handler: "runc"}
	classes := s.Client.NodeV1().RuntimeClasses()
	if _, err := classes.Create(ctx, class, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	pod.Spec.RuntimeClassName = &class.Name
	eventually(ctx, t, "the apiserver knows the class", func() bool {
		_, err := s.Client.CoreV1().Pods(pod.Namespace).Create(ctx, pod, metav1.CreateOptions{DryRun: []string{"All"}})
		return err == nil
	})
	ready(ctx, t, pod)
	remove(ctx, t, pod)
	if err := classes.Delete(ctx, class.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}

// TestProbes: readiness gates the pod's, a failed liveness probe restarts the container.
func TestProbes(t *testing.T) {
	ctx, s := node(t)
	pod := newPod(t)
	get := corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: intstr.FromInt32(8080)}}
	pod.Spec.Containers[0].ReadinessProbe = &corev1.Probe{ProbeHandler: get, PeriodSeconds: 1, FailureThreshold: 1}
	pod.Spec.Containers[0].LivenessProbe = &corev1.Probe{ProbeHandler: get, PeriodSeconds: 1, FailureThreshold: 3}
	pod = ready(ctx, t, pod)
	post(ctx, t, s, "http://"+pod.Status.PodIP+":8080/health?ok=false")
	until(ctx, t, pod, "not ready", func(p *corev1.Pod) bool { return !stack.PodReady(p) })
	event(ctx, t, pod.Name, "Unhealthy")
	until(ctx, t, pod, "restarted and ready", func(p *corev1.Pod) bool {
		return restarts(p) == 1 && stack.PodReady(p)
	})
}

// TestUnsupported: a pod that uses what is not built yet waits, and its event says why.
func TestUnsupported(t *testing.T) {
	ctx, _ := node(t)
	pod := newPod(t)
	pod.Spec.Volumes = []corev1.Volume{{Name: "disk", VolumeSource: corev1.VolumeSource{NFS: &corev1.NFSVolumeSource{Server: "127.0.0.1", Path: "/"}}}}
	pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "disk", MountPath: "/disk"}}
	create(ctx, t, pod)
	if message := event(ctx, t, pod.Name, "FailedMount"); !strings.Contains(message, "disk") || !strings.Contains(message, "nfs") {
		t.Errorf("the event does not name the volume and its kind: %q", message)
	}
}
