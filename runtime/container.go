package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"minikubelet/runtime/cri"
	"minikubelet/runtime/images"
	"minikubelet/runtime/plan"
	"minikubelet/runtime/spec"
)

// startJob is one container to start, in the sandbox of its round.
type startJob struct {
	plan.Start
	*syncRound
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
	ctx, end := cri.Step(ctx, "startContainer", pod, cri.Why(job.Reason), cri.OfContainer(container.Name))
	defer func() { end(err) }()

	// Step 1: the image, and those of image volumes.
	imageRef, err := r.ensureImage(ctx, job, container.Image, container.ImagePullPolicy)
	if err != nil {
		return "", r.imageFailed(ctx, job, err)
	}
	volumes, err := r.imageVolumes(ctx, job)
	if err != nil {
		return "", r.imageFailed(ctx, job, err)
	}

	// Step 2: the attempt. Without a record in the runtime, which a reboot may have emptied, the logs tell.
	if job.observed.Container(container.Name) == nil {
		job.Attempt = nextLogAttempt(filepath.Join(job.config.LogDirectory, container.Name))
		r.crash.begin(pod.UID, container, job.Attempt)
	}

	// Step 3: the container.
	config, err := r.generateContainerConfig(ctx, job, imageRef, volumes)
	if err != nil {
		return "", r.containerFailed(ctx, job, "", ReasonCreateContainerConfig, err)
	}
	made, err := r.opts.CRI.Runtime.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{
		PodSandboxId: job.actions.SandboxID, Config: config, SandboxConfig: job.config,
	})
	if err != nil {
		r.opts.Cache.Acted(pod.UID)
		return "", r.containerFailed(ctx, job, "", ReasonCreateContainer, err)
	}
	id = made.GetContainerId()
	r.containerEvent(pod, container, id, corev1.EventTypeNormal, eventCreated, "Container created")

	// Step 4: start it.
	if hook := container.Lifecycle; hook != nil && hook.PostStart != nil {
		r.starting.Store(id, true)
	}
	if _, err := r.opts.CRI.Runtime.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: id}); err != nil {
		r.opts.Cache.Acted(pod.UID)
		r.starting.Delete(id)
		return id, r.containerFailed(ctx, job, id, ReasonRunContainer, err)
	}
	r.containerEvent(pod, container, id, corev1.EventTypeNormal, eventStarted, "Container started")
	if err := r.opts.Allocation.SetContainerActuated(ctx, pod.UID, container.Name, container.Resources); err != nil {
		klog.FromContext(ctx).Error(err, "Recording a container's resources failed, they will be set again", "pod", klog.KObj(pod), "podUID", pod.UID)
	}
	r.linkLog(ctx, pod, container, id, filepath.Join(job.config.LogDirectory, config.LogPath))

	// Step 5: the postStart hook; until it has returned the container is not counted as started.
	if !r.Starting(id) {
		return id, nil
	}
	job.leave()
	return id, r.postStart(ctx, job, id)
}

// Starting tells that the container's postStart hook has not succeeded yet, or has failed. Such a container is not probed.
func (r *Runtime) Starting(containerID string) bool {
	_, starting := r.starting.Load(containerID)
	return starting
}

// postStart runs the hook and ends the container if it fails.
func (r *Runtime) postStart(ctx context.Context, job startJob, id string) error {
	hook, end := cri.Step(ctx, "postStart", job.pod, cri.Why("the container has started"))
	message, err := r.runHook(hook, job.pod, job.Container, id, job.observed.IPs, job.Container.Lifecycle.PostStart)
	end(err)
	if err == nil || ctx.Err() != nil {
		r.starting.Delete(id)
	}
	if err == nil {
		return nil
	}
	klog.FromContext(ctx).Error(err, "PostStart hook failed", "pod", klog.KObj(job.pod), "podUID", job.pod.UID, "containerName", job.Container.Name)
	if ctx.Err() != nil {
		return ctx.Err() // the pod is being ended, and this container with it
	}
	// What the hook printed may be secret and stays out of the event.
	r.containerEvent(job.pod, job.Container, id, corev1.EventTypeWarning, eventFailedPostStartHook, "PostStartHook failed")
	kill := killRequest{pod: job.pod, container: job.Container, id: id, podIPs: job.observed.IPs, message: "FailedPostStartHook"}
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
	failed, ok := errors.AsType[*images.Error](err)
	if !ok {
		return r.containerFailed(ctx, job, "", ReasonCreateContainerConfig, err)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	r.containerEvent(job.pod, job.Container, "", corev1.EventTypeWarning, eventFailed, "Error: %s", failed.Reason)
	return &containerError{Failure: Failure{failed.Reason, failed.Message}, retryAt: failed.RetryAt, err: err}
}

func (r *Runtime) ensureImage(ctx context.Context, job startJob, image string, policy corev1.PullPolicy) (string, error) {
	return r.opts.Images.EnsureImageExists(ctx, images.Request{
		Pod: job.pod, Container: job.Container, Image: image, PullPolicy: policy,
		PullSecrets: job.secrets, Sandbox: job.config, Pulling: job.leave,
	})
}

// generateContainerConfig looks up what the container's description needs, and makes what the container needs on disk: log
// directory, hosts file and termination log.
func (r *Runtime) generateContainerConfig(ctx context.Context, job startJob, imageRef string, volumes map[string]*runtimeapi.ImageSpec) (*runtimeapi.ContainerConfig, error) {
	pod, container := job.pod, job.Container
	user, err := r.userOf(ctx, container.Image, imageRef)
	if err != nil {
		return nil, err
	}
	in := spec.Container{Attempt: job.Attempt, ImageRef: imageRef, ImageUser: user, TargetName: job.Target}
	if target := job.observed.Container(job.Target); target != nil {
		in.TargetID = target.ID
	}
	in.Users = job.config.Linux.SecurityContext.NamespaceOptions.UsernsOptions
	if in.Env, err = job.in.Env(ctx, pod, container, job.observed.IPs); err != nil {
		return nil, err
	}
	if in.Assigned, err = job.in.Assigned(ctx, pod, container); err != nil { // part: devices of containers, kubelet/devices
		return nil, err
	}
	in.Env = slices.Concat(in.Assigned.GetEnvs(), in.Env) // of two of a name the last counts
	in.Command, in.Args = job.in.Command(container, in.Env)
	if in.Mounts, err = r.mounts(ctx, job, volumes); err != nil {
		return nil, err
	}
	in.Mounts = slices.Concat(in.Assigned.GetMounts(), in.Mounts)
	for _, mount := range in.Mounts { // files keep their owners: the runtime maps the IDs of mounts as well
		mount.UidMappings, mount.GidMappings = in.Users.Uids, in.Users.Gids
		mount.SelinuxRelabel = mount.SelinuxRelabel && r.opts.Node.Kernel.SELinux
	}
	config, err := r.opts.Node.ContainerConfig(pod, container, in)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(job.config.LogDirectory, container.Name), 0o755); err != nil {
		return nil, fmt.Errorf("create container log directory for container %s failed: %w", container.Name, err)
	}
	return config, nil
}

// mounts are those of the container's volumes, then those of the hosts file and the termination log.
func (r *Runtime) mounts(ctx context.Context, job startJob, volumes map[string]*runtimeapi.ImageSpec) ([]*runtimeapi.Mount, error) {
	mounts, err := job.in.Mounts(ctx, job.pod, job.Container, job.observed.IPs)
	if err != nil {
		return nil, err
	}
	for _, mount := range mounts {
		mount.Image = volumes[mount.GetImage().GetUserSpecifiedImage()] // nil for what is no image
	}
	for _, mount := range []func(startJob) (*runtimeapi.Mount, error){r.hostsMount, r.terminationMount} {
		one, err := mount(job)
		if err != nil {
			return nil, err
		}
		if one != nil {
			mounts = append(mounts, one)
		}
	}
	return mounts, nil
}

// userOf returns whom an image runs as, asking the runtime once per image: its content never changes.
func (r *Runtime) userOf(ctx context.Context, image, ref string) (spec.ImageUser, error) {
	if known, ok := r.imageUsers.Load(ref); ok {
		return known.(spec.ImageUser), nil
	}
	response, err := r.opts.CRI.Images.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: ref, UserSpecifiedImage: image}})
	if err != nil {
		return spec.ImageUser{}, fmt.Errorf("look up the user of image %q: %w", image, err)
	}
	user := spec.ImageUser{UID: new(int64(0))} // an image that names none runs as root
	found := response.GetImage()
	if found.GetUid() != nil {
		user.UID = &found.GetUid().Value
	} else if found.GetUsername() != "" {
		user = spec.ImageUser{Name: found.GetUsername()}
	}
	if found != nil {
		r.imageUsers.Store(ref, user)
	}
	return user, nil
}
