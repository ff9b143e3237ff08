package env

import (
	"errors"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func TestExpand(t *testing.T) {
	vars := Mapping(map[string]string{"A": "1", "EMPTY": "", "B": "$(A)"})
	for in, want := range map[string]string{
		"":                  "",
		"plain":             "plain",
		"$(A)":              "1",
		"x$(A)y$(A)":        "x1y1",
		"$(EMPTY)":          "",
		"$(NONE)":           "$(NONE)",
		"$$(A)":             "$(A)",
		"$$$(A)":            "$1",
		"$A":                "$A",
		"$(A":               "$(A",
		"end$":              "end$",
		"$$":                "$",
		"$(B)":              "$(A)", // what comes in is not expanded again
		"$()":               "$()",
		"a $(A) $(NONE) $x": "a 1 $(NONE) $x",
	} {
		if got := Expand(in, vars); got != want {
			t.Errorf("Expand(%q) = %q, want %q", in, got, want)
		}
	}
}

func notFound(name string) error {
	return apierrors.NewNotFound(schema.GroupResource{Resource: "things"}, name)
}

func inputs() Inputs {
	return Inputs{
		Pod: &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: "pod", Namespace: "ns", UID: "u", Labels: map[string]string{"l": "v"}, Annotations: map[string]string{"a": "w"}},
			Spec:       corev1.PodSpec{NodeName: "node", ServiceAccountName: "sa"},
		},
		Container: &corev1.Container{Name: "c", Resources: corev1.ResourceRequirements{
			Limits:   corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("100Mi")},
			Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("150m")},
		}},
		PodIPs: []string{"10.0.0.1", "fd00::1"}, HostIPs: []string{"192.168.0.1"},
		Allocatable: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("4")},
		Secret: func(name string) (*corev1.Secret, error) {
			if name != "s" {
				return nil, notFound(name)
			}
			return &corev1.Secret{Data: map[string][]byte{"k": []byte("secret")}}, nil
		},
		ConfigMap: func(name string) (*corev1.ConfigMap, error) {
			switch name {
			case "c":
				return &corev1.ConfigMap{Data: map[string]string{"k": "config", "other": "o"}}, nil
			case "broken":
				return nil, errors.New("the apiserver is away")
			}
			return nil, notFound(name)
		},
	}
}

func field(path string) *corev1.EnvVarSource {
	return &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}
}

func amount(of, divisor string) *corev1.EnvVarSource {
	ref := &corev1.ResourceFieldSelector{Resource: of}
	if divisor != "" {
		ref.Divisor = resource.MustParse(divisor)
	}
	return &corev1.EnvVarSource{ResourceFieldRef: ref}
}

func configKey(name, key string, optional bool) *corev1.EnvVarSource {
	return &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: name}, Key: key, Optional: &optional}}
}

func secretKey(name, key string, optional bool) *corev1.EnvVarSource {
	return &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: name}, Key: key, Optional: &optional}}
}

// TestNoHostAddress: while the node has no address, a variable of it is an error and not empty.
func TestNoHostAddress(t *testing.T) {
	for _, path := range []string{"status.hostIP", "status.hostIPs"} {
		if got, err := FieldRef(&corev1.Pod{}, path, nil, nil); err == nil || !strings.Contains(err.Error(), "host IP unknown") {
			t.Errorf("%s: %q, %v", path, got, err)
		}
	}
}

func TestSources(t *testing.T) {
	const absent = "\x00"
	tests := []struct {
		name   string
		source *corev1.EnvVarSource
		want   string // absent: the variable is left out
		err    string
	}{
		{"name", field("metadata.name"), "pod", ""},
		{"namespace", field("metadata.namespace"), "ns", ""},
		{"uid", field("metadata.uid"), "u", ""},
		{"one label", field("metadata.labels['l']"), "v", ""},
		{"one annotation", field("metadata.annotations['a']"), "w", ""},
		{"labels", field("metadata.labels"), `l="v"`, ""},
		{"node", field("spec.nodeName"), "node", ""},
		{"service account", field("spec.serviceAccountName"), "sa", ""},
		{"host address", field("status.hostIP"), "192.168.0.1", ""},
		{"pod address", field("status.podIP"), "10.0.0.1", ""},
		{"pod addresses", field("status.podIPs"), "10.0.0.1,fd00::1", ""},
		{"unknown field", field("status.phase"), "", "unsupported fieldPath"},
		{"subscript", field("spec.nodeName['x']"), "", "does not support subscript"},
		{"limit", amount("limits.memory", "1Mi"), "100", ""},
		{"limit in bytes", amount("limits.memory", ""), "104857600", ""},
		{"limit that is not set", amount("limits.cpu", ""), "4", ""},
		{"request, rounded up", amount("requests.cpu", ""), "1", ""},
		{"request in millicores", amount("requests.cpu", "1m"), "150", ""},
		{"unknown resource", amount("limits.gold", ""), "", "unsupported container resource"},
		{"config key", configKey("c", "k", false), "config", ""},
		{"missing key", configKey("c", "none", false), "", "couldn't find key none"},
		{"missing key, optional", configKey("c", "none", true), absent, ""},
		{"missing object", configKey("none", "k", false), "", "not found"},
		{"missing object, optional", configKey("none", "k", true), absent, ""},
		{"unreadable object, optional", configKey("broken", "k", true), "", "away"},
		{"secret key", secretKey("s", "k", false), "secret", ""},
		{"missing secret", secretKey("none", "k", false), "", "not found"},
		{"missing secret, optional", secretKey("none", "k", true), absent, ""},
		{"file", &corev1.EnvVarSource{FileKeyRef: &corev1.FileKeySelector{}}, "", "files in volumes cannot be read here"},
		{"nothing", &corev1.EnvVarSource{}, "", "no source"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := inputs()
			in.Container.Env = []corev1.EnvVar{{Name: "V", ValueFrom: tt.source}}
			got, err := Container(in)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("the error is %v, want one with %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if tt.want == absent {
				if len(got) != 0 {
					t.Errorf("the variable is %v, want it left out", got)
				}
				return
			}
			if len(got) != 1 || string(got[0].Value) != tt.want {
				t.Errorf("the variable is %v, want %q", got, tt.want)
			}
		})
	}
}

// TestPodLevelLimit: a container without a limit has the pod's, and the node's where the pod has none.
func TestPodLevelLimit(t *testing.T) {
	in := inputs()
	in.Pod.Spec.Resources = &corev1.ResourceRequirements{Limits: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2")}}
	in.Container.Resources.Limits = nil
	in.Allocatable[corev1.ResourceMemory] = resource.MustParse("1Gi")
	for name, want := range map[string]string{"limits.cpu": "2", "limits.memory": "1073741824", "requests.cpu": "1"} {
		if got, err := ResourceFieldRef(&corev1.ResourceFieldSelector{Resource: name}, in.Pod, in.Container, in.Allocatable); err != nil || got != want {
			t.Errorf("%s is %s, %v; want %s", name, got, err, want)
		}
	}
}

// TestServiceOfSameName: a service that is called as the apiserver's takes all of its variables.
func TestServiceOfSameName(t *testing.T) {
	in := inputs()
	in.Services = []*corev1.Service{service("ns", "kubernetes", "10.96.0.2", 80), service("default", "kubernetes", "10.96.0.1", 443)}
	list, err := Container(in)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		if strings.Contains(string(e.Value), "10.96.0.1") || strings.Contains(e.Key, "443") {
			t.Errorf("%s=%s is of the apiserver's service", e.Key, e.Value)
		}
	}
}

func TestOrder(t *testing.T) {
	in := inputs()
	in.Services = []*corev1.Service{
		service("default", "kubernetes", "10.96.0.1", 443), service("ns", "web-app", "10.96.0.2", 80),
		service("other", "hidden", "10.96.0.3", 80), service("ns", "headless", corev1.ClusterIPNone, 80),
	}
	in.Container.EnvFrom = []corev1.EnvFromSource{
		{Prefix: "P_", ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "c"}}},
		{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "s"}}},
	}
	in.Container.Env = []corev1.EnvVar{
		{Name: "FIRST", Value: "1"}, {Name: "SECOND", Value: "$(FIRST)$(P_k)$(LATER)$(WEB_APP_SERVICE_HOST)"}, {Name: "LATER", Value: "2"}, {Name: "k", Value: "env wins"},
	}
	list, err := Container(in)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, e := range list {
		if _, twice := got[e.Key]; twice {
			t.Errorf("%s is there twice", e.Key)
		}
		got[e.Key] = string(e.Value)
	}
	for name, want := range map[string]string{
		"SECOND": "1config$(LATER)10.96.0.2", "k": "env wins", "P_other": "o",
		"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_PORT": "tcp://10.96.0.1:443",
		"WEB_APP_SERVICE_PORT": "80", "WEB_APP_PORT_80_TCP_ADDR": "10.96.0.2", "WEB_APP_SERVICE_PORT_MAIN": "80",
	} {
		if got[name] != want {
			t.Errorf("%s is %q, want %q", name, got[name], want)
		}
	}
	for _, name := range []string{"HIDDEN_SERVICE_HOST", "HEADLESS_SERVICE_HOST"} {
		if _, there := got[name]; there {
			t.Errorf("%s is there", name)
		}
	}
	no := false
	in.Pod.Spec.EnableServiceLinks = &no
	list, err = Container(in)
	if err != nil {
		t.Fatal(err)
	}
	has := func(name string) bool {
		for _, e := range list {
			if e.Key == name {
				return true
			}
		}
		return false
	}
	if has("WEB_APP_SERVICE_HOST") || !has("KUBERNETES_SERVICE_HOST") {
		t.Error("without service links the apiserver's own service, and no other, is told of")
	}
}

func service(namespace, name, ip string, port int32) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec:       corev1.ServiceSpec{ClusterIP: ip, Ports: []corev1.ServicePort{{Name: "main", Port: port}}},
	}
}

func FuzzExpand(f *testing.F) {
	f.Add("$(A)$$$(")
	f.Fuzz(func(t *testing.T, s string) {
		if got := Expand(s, Mapping(nil)); !strings.Contains(s, "$") && got != s {
			t.Errorf("Expand(%q) = %q", s, got)
		}
	})
}
