package runtime

import (
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/config/pod/podtest"
	"minikubelet/e2e/crifake"
	"minikubelet/runtime/cri"
)

// TestAssigned: what device plugins give a container is in its configuration, after what the pod and the kubelet say.
func TestAssigned(t *testing.T) {
	b := newBench(t, nil)
	pod := podtest.Pod("c:a", "")
	_, err := b.sync(t, pod, inputs{assigned: &runtimeapi.ContainerConfig{
		Envs:        []*runtimeapi.KeyValue{{Key: "POD_IPS", Value: []byte("theirs")}, {Key: "GPU", Value: []byte("a")}},
		Mounts:      []*runtimeapi.Mount{{HostPath: "/opt/gpu", ContainerPath: "/gpu"}},
		Devices:     []*runtimeapi.Device{{HostPath: "/dev/gpu0", ContainerPath: "/dev/gpu", Permissions: "rw"}},
		CDIDevices:  []*runtimeapi.CDIDevice{{Name: "example.com/gpu=a"}},
		Annotations: map[string]string{"gpu": "a", cri.AnnotationRestartCount: "theirs"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	config := crifake.Requests[*runtimeapi.CreateContainerRequest](b.fake)[0].GetConfig()
	envs := config.GetEnvs()
	if len(envs) != 3 || envs[1].GetKey() != "GPU" || envs[2].GetKey() != "POD_IPS" || string(envs[2].GetValue()) == "theirs" {
		t.Errorf("variables: %v", envs)
	}
	if config.GetMounts()[0].GetHostPath() != "/opt/gpu" || config.GetDevices()[0].GetHostPath() != "/dev/gpu0" || config.GetCDIDevices()[0].GetName() != "example.com/gpu=a" {
		t.Errorf("mounts %v, devices %v, CDI devices %v", config.GetMounts(), config.GetDevices(), config.GetCDIDevices())
	}
	if a := config.GetAnnotations(); a["gpu"] != "a" || a[cri.AnnotationRestartCount] == "theirs" {
		t.Errorf("annotations %v", a)
	}
}
