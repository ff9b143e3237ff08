package runtime

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"minikubelet/runtime/cri"
	"minikubelet/runtime/images"
)

// startJob is one container to start and where.
type startJob struct {
	startAction
	pod       *corev1.Pod
	observed  *cri.PodStatus
	sandbox   *runtimeapi.PodSandboxConfig
	sandboxID string
	handler   string // runtime handler of the pod's class
	podIPs    []string
	secrets   []corev1.Secret
	in        Inputs
	leave     func() // gives up the pod's turn to start, before what takes long
}

// containerError is why a container did not start; it has had its event.
type containerError struct {
	Failure
	retryAt time.Time // of an image back-off
	err     error
}

func (e *containerError) Error() string { return e.Reason + ": " + e.Message }
func (e *containerError) Unwrap() error { return e.err }

// startContainer pulls the image, creates the container, starts it and runs its postStart hook. It returns the
// container's ID as soon as there is one. Every failure has had its event when it is returned, as *containerError.
//
// Upstream: pkg/kubelet/kuberuntime/kuberuntime_container.go startContainer
func (r *Runtime) startContainer(ctx context.Context, job startJob) (id string, err error) {
	pod, container := job.pod, job.Container
	ctx, end := cri.Step(ctx, "startContainer", pod)
	defer func() { end(err) }()
	cri.OfContainer(ctx, container.Name)

	// Step 1: the image, and those of image volumes.
	imageRef, err := r.ensureImage(ctx, job, container.Image, container.ImagePullPolicy)
	if err != nil {
		return "", r.imageFailed(ctx, job, err)
	}
	imageMounts, err := r.imageMounts(ctx, job)
	if err != nil {
		return "", r.imageFailed(ctx, job, err)
	}

	// Step 2: the attempt. Without a record in the runtime, which a reboot may have emptied, the logs tell.
	if job.observed.Container(container.Name) == nil {
		job.Attempt = nextLogAttempt(filepath.Join(job.sandbox.LogDirectory, container.Name))
		r.crash.begin(pod.UID, container, job.Attempt)
	}

	// Step 3: the container.
	config, err := r.generateContainerConfig(ctx, job, imageRef, imageMounts)
	if err != nil {
		return "", r.containerFailed(ctx, job, "", ReasonCreateContainerConfig, err)
	}
	made, err := r.CRI.Runtime.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{
		PodSandboxId: job.sandboxID, Config: config, SandboxConfig: job.sandbox,
	})
	if err != nil {
		r.note(pod)
		return "", r.containerFailed(ctx, job, "", ReasonCreateContainer, err)
	}
	id = made.GetContainerId()
	r.containerEvent(pod, container, id, corev1.EventTypeNormal, eventCreated, "Container created")

	// Step 4: start it.
	if _, err := r.CRI.Runtime.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: id}); err != nil {
		r.note(pod)
		return id, r.containerFailed(ctx, job, id, ReasonRunContainer, err)
	}
	r.containerEvent(pod, container, id, corev1.EventTypeNormal, eventStarted, "Container started")
	if err := r.Allocation.SetContainerActuated(ctx, pod.UID, container.Name, container.Resources); err != nil {
		klog.FromContext(ctx).Error(err, "Recording a container's resources failed, they will be set again", "pod", klog.KObj(pod), "podUID", pod.UID)
	}
	r.linkLog(ctx, pod, container, id, filepath.Join(job.sandbox.LogDirectory, config.LogPath))

	// Step 5: the postStart hook; until it has returned the container is not counted as started.
	if container.Lifecycle == nil || container.Lifecycle.PostStart == nil {
		return id, nil
	}
	if job.leave != nil {
		job.leave()
	}
	return id, r.postStart(ctx, job, id)
}

// postStart runs the hook and ends the container if it fails.
func (r *Runtime) postStart(ctx context.Context, job startJob, id string) error {
	message, err := r.runHook(ctx, job.pod, job.Container, id, job.podIPs, job.Container.Lifecycle.PostStart)
	if err == nil {
		return nil
	}
	klog.FromContext(ctx).Error(err, "PostStart hook failed", "pod", klog.KObj(job.pod), "podUID", job.pod.UID, "containerName", job.Container.Name)
	if ctx.Err() != nil {
		return ctx.Err() // the pod is being ended, and this container with it
	}
	// What the hook printed may be secret and stays out of the event.
	r.containerEvent(job.pod, job.Container, id, corev1.EventTypeWarning, eventFailedPostStartHook, "PostStartHook failed")
	kill := killRequest{pod: job.pod, container: job.Container, id: id, podIPs: job.podIPs, message: "FailedPostStartHook"}
	// A cancelled sync must not leave it running.
	detached, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTimeout+gracePeriod(job.pod, job.Container, ""))
	defer cancel()
	if killErr := r.killContainer(detached, kill, nil); killErr != nil {
		err = errors.Join(err, killErr)
	}
	return &containerError{Failure: Failure{ReasonPostStartHook, message}, err: err}
}

// containerFailed sends the event and wraps the error.
func (r *Runtime) containerFailed(ctx context.Context, job startJob, id, reason string, err error) error {
	if ctx.Err() != nil {
		return ctx.Err() // interrupted, not failed
	}
	r.containerEvent(job.pod, job.Container, id, corev1.EventTypeWarning, eventFailed, "Error: %s", text(err))
	return &containerError{Failure: Failure{reason, text(err)}, err: err}
}

func (r *Runtime) imageFailed(ctx context.Context, job startJob, err error) error {
	var of *images.Error
	if !errors.As(err, &of) {
		return r.containerFailed(ctx, job, "", ReasonCreateContainerConfig, err)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	r.containerEvent(job.pod, job.Container, "", corev1.EventTypeWarning, eventFailed, "Error: %s", of.Reason)
	return &containerError{Failure: Failure{of.Reason, of.Message}, retryAt: of.RetryAt, err: err}
}

func (r *Runtime) ensureImage(ctx context.Context, job startJob, image string, policy corev1.PullPolicy) (string, error) {
	return r.Images.EnsureImageExists(ctx, images.Request{
		Pod: job.pod, Container: job.Container, Image: image, PullPolicy: policy,
		PullSecrets: job.secrets, Sandbox: job.sandbox, RuntimeHandler: job.handler,
		Pulling: job.leave,
	})
}

// imageMounts pulls the images of the container's image volumes and mounts them.
//
// Upstream: pkg/kubelet/kuberuntime/kuberuntime_manager.go getImageVolumes
func (r *Runtime) imageMounts(ctx context.Context, job startJob) ([]*runtimeapi.Mount, error) {
	var out []*runtimeapi.Mount
	for _, mount := range job.Container.VolumeMounts {
		source := imageVolume(job.pod, mount.Name)
		if source == nil {
			continue
		}
		if mount.SubPathExpr != "" {
			return nil, fmt.Errorf("volumeMounts[%s].subPathExpr: not supported for an image volume", mount.Name)
		}
		ref, err := r.ensureImage(ctx, job, source.Reference, source.PullPolicy)
		r.metrics.imageVolume(err)
		if err != nil {
			return nil, err
		}
		out = append(out, &runtimeapi.Mount{
			ContainerPath: mount.MountPath, Readonly: true, SelinuxRelabel: selinuxEnabled(), ImageSubPath: mount.SubPath,
			Image: &runtimeapi.ImageSpec{
				Image: ref, UserSpecifiedImage: source.Reference, RuntimeHandler: job.handler, Annotations: job.pod.Annotations,
			},
		})
	}
	return out, nil
}

func imageVolume(pod *corev1.Pod, name string) *corev1.ImageVolumeSource {
	for i := range pod.Spec.Volumes {
		if pod.Spec.Volumes[i].Name == name {
			return pod.Spec.Volumes[i].Image
		}
	}
	return nil
}

// generateContainerConfig describes the container and makes what it needs on disk: log directory, hosts file and
// termination log.
//
// Upstream: pkg/kubelet/kuberuntime/kuberuntime_container.go generateContainerConfig
func (r *Runtime) generateContainerConfig(ctx context.Context, job startJob, imageRef string, imageMounts []*runtimeapi.Mount) (*runtimeapi.ContainerConfig, error) {
	pod, container := job.pod, job.Container
	annotations, err := containerAnnotations(pod, container, job.Attempt)
	if err != nil {
		return nil, err
	}
	linux, err := r.containerLinux(ctx, job, imageRef)
	if err != nil {
		return nil, err
	}
	envs, err := job.in.Env(ctx, pod, container, job.podIPs)
	if err != nil {
		return nil, err
	}
	mounts, err := job.in.Mounts(ctx, pod, withoutImageMounts(pod, container), job.podIPs)
	if err != nil {
		return nil, err
	}
	assigned, err := job.in.Assigned(ctx, pod, container)
	if err != nil {
		return nil, err
	}
	envs = slices.Concat(assigned.GetEnvs(), envs) // of two of a name the last counts
	mounts = slices.Concat(assigned.GetMounts(), mounts, imageMounts)
	if hosts, err := r.hostsMount(pod, container, job.podIPs); err != nil {
		return nil, err
	} else if hosts != nil {
		mounts = append(mounts, hosts)
	}
	if log, err := r.terminationMount(pod, container); err != nil {
		return nil, err
	} else if log != nil {
		mounts = append(mounts, log)
	}
	users := linux.SecurityContext.NamespaceOptions.UsernsOptions
	for _, mount := range mounts { // files keep their owners: the runtime maps the IDs of mounts as well
		mount.UidMappings, mount.GidMappings = users.Uids, users.Gids
	}
	if err := os.MkdirAll(filepath.Join(job.sandbox.LogDirectory, container.Name), 0o755); err != nil {
		return nil, fmt.Errorf("create container log directory for container %s failed: %w", container.Name, err)
	}
	command, args := job.in.Command(ctx, pod, container, job.podIPs, envs)
	config := &runtimeapi.ContainerConfig{
		Metadata:    &runtimeapi.ContainerMetadata{Name: container.Name, Attempt: job.Attempt},
		Image:       &runtimeapi.ImageSpec{Image: imageRef, UserSpecifiedImage: container.Image},
		Command:     command,
		Args:        args,
		WorkingDir:  container.WorkingDir,
		Envs:        envs,
		Mounts:      mounts,
		Labels:      containerLabels(pod, container),
		Annotations: annotations,
		LogPath:     logPath(container.Name, job.Attempt),
		Stdin:       container.Stdin,
		StdinOnce:   container.StdinOnce,
		Tty:         container.TTY,
		StopSignal:  signal(container),
		Linux:       linux,
		Devices:     assigned.GetDevices(),
		CDIDevices:  assigned.GetCDIDevices(),
	}
	for name, value := range assigned.GetAnnotations() {
		if _, kubelets := annotations[name]; !kubelets {
			annotations[name] = value
		}
	}
	return config, nil
}

func (r *Runtime) containerLinux(ctx context.Context, job startJob, imageRef string) (*runtimeapi.LinuxContainerConfig, error) {
	user, err := r.userOf(ctx, job.Container.Image, imageRef)
	if err != nil {
		return nil, err
	}
	security, err := r.containerSecurity(job.pod, job.Container, user)
	if err != nil {
		return nil, err
	}
	if job.Target != "" && security.NamespaceOptions.Pid == runtimeapi.NamespaceMode_CONTAINER {
		target := job.observed.Container(job.Target)
		if target == nil {
			return nil, fmt.Errorf("unable to find target container %s", job.Target)
		}
		security.NamespaceOptions.Pid = runtimeapi.NamespaceMode_TARGET
		security.NamespaceOptions.TargetId = target.ID
	}
	return &runtimeapi.LinuxContainerConfig{Resources: r.containerResources(job.pod, job.Container), SecurityContext: security}, nil
}

// userOf returns whom an image runs as, asking the runtime once per image: its content never changes.
//
// Upstream: pkg/kubelet/kuberuntime/helpers.go getImageUser
func (r *Runtime) userOf(ctx context.Context, image, ref string) (imageUser, error) {
	if known, ok := r.imageUsers.Load(ref); ok {
		return known.(imageUser), nil
	}
	response, err := r.CRI.Images.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: ref, UserSpecifiedImage: image}})
	if err != nil {
		return imageUser{}, fmt.Errorf("look up the user of image %q: %w", image, err)
	}
	user := imageUser{uid: new(int64(0))} // an image that names none runs as root
	if of := response.GetImage(); of.GetUid() != nil {
		user.uid = &of.GetUid().Value
	} else if of.GetUsername() != "" {
		user = imageUser{name: of.GetUsername()}
	}
	if response.GetImage() != nil {
		r.imageUsers.Store(ref, user)
	}
	return user, nil
}

// withoutImageMounts leaves out the volume mounts that this package makes itself.
func withoutImageMounts(pod *corev1.Pod, container *corev1.Container) *corev1.Container {
	var rest []corev1.VolumeMount
	for _, mount := range container.VolumeMounts {
		if imageVolume(pod, mount.Name) == nil {
			rest = append(rest, mount)
		}
	}
	if len(rest) == len(container.VolumeMounts) {
		return container
	}
	out := container.DeepCopy()
	out.VolumeMounts = rest
	return out
}

// terminationMount makes the file the container may leave its last words in. Each instance gets one of its own.
func (r *Runtime) terminationMount(pod *corev1.Pod, container *corev1.Container) (*runtimeapi.Mount, error) {
	if container.TerminationMessagePath == "" {
		return nil, nil
	}
	file := filepath.Join(r.podDir(pod), "containers", container.Name, fmt.Sprintf("%08x", rand.Uint32()))
	if err := writeShared(file, nil, 0o666); err != nil {
		return nil, fmt.Errorf("create termination log: %w", err)
	}
	path := container.TerminationMessagePath
	if !filepath.IsAbs(path) {
		path = "/" + path
	}
	return &runtimeapi.Mount{HostPath: file, ContainerPath: path, SelinuxRelabel: selinuxEnabled()}, nil
}

// linkLog makes the link log collectors follow. Without a log file, as with a runtime that logs elsewhere, there is
// nothing to link; a link that cannot be made is no reason to fail the container.
func (r *Runtime) linkLog(ctx context.Context, pod *corev1.Pod, container *corev1.Container, id, log string) {
	if _, err := os.Stat(log); err != nil {
		return
	}
	link := logLink(r.ContainerLogsDir, pod.Namespace, pod.Name, container.Name, id)
	err := os.Symlink(log, link)
	if errors.Is(err, os.ErrNotExist) {
		if err = os.MkdirAll(r.ContainerLogsDir, 0o755); err == nil {
			err = os.Symlink(log, link)
		}
	}
	if err != nil && !errors.Is(err, os.ErrExist) {
		klog.FromContext(ctx).Error(err, "Link container log", "pod", klog.KObj(pod), "podUID", pod.UID, "link", link)
	}
}

// nextLogAttempt is one more than the highest attempt that left a log, plain or rotated, in the directory.
//
// Upstream: pkg/kubelet/kuberuntime/kuberuntime_container.go calcRestartCountByLogDir
func nextLogAttempt(dir string) uint32 {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0 // none yet; anything worse shows when the log is opened
	}
	var next uint32
	for _, entry := range entries {
		number, _, ok := strings.Cut(entry.Name(), ".log")
		if n, err := strconv.ParseUint(number, 10, 31); ok && err == nil && !entry.IsDir() {
			next = max(next, uint32(n)+1)
		}
	}
	return next
}
