package env

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/ptr"
)

// Inputs are all that a container's environment follows from.
type Inputs struct {
	Pod             *corev1.Pod
	Container       *corev1.Container
	PodIPs, HostIPs []string
	Allocatable     corev1.ResourceList
	Services        []*corev1.Service
	// Secret and ConfigMap return an object of the pod's namespace.
	Secret    func(name string) (*corev1.Secret, error)
	ConfigMap func(name string) (*corev1.ConfigMap, error)
	// File returns a file in one of the pod's volumes, not more than FileLimit of it; nil where there are no volumes.
	File func(volume, path string) ([]byte, error)
}

// Container returns the environment of a container: services first, then envFrom, then env, each over the ones
// before. Errors name the variable or the source.
//
// Upstream: pkg/kubelet/kubelet_pods.go makeEnvironmentVariables.
func Container(in Inputs) ([]*runtimeapi.KeyValue, error) {
	services := serviceVars(in.Services, in.Pod.Namespace, ptr.Deref(in.Pod.Spec.EnableServiceLinks, true))
	vars, order := map[string]string{}, []string{}
	set := func(name, value string) {
		if _, have := vars[name]; !have {
			order = append(order, name)
		}
		vars[name] = value
	}
	for i := range in.Container.EnvFrom {
		values, err := in.from(&in.Container.EnvFrom[i])
		if err != nil {
			return nil, err
		}
		for _, name := range slices.Sorted(maps.Keys(values)) {
			set(name, values[name])
		}
	}
	known := func(name string) (string, bool) {
		if value, ok := vars[name]; ok {
			return value, true
		}
		value, ok := services[name]
		return value, ok
	}
	for i := range in.Container.Env {
		e := &in.Container.Env[i]
		value, skip, err := in.value(e, known)
		if err != nil {
			return nil, err
		}
		if !skip {
			set(e.Name, value)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(services)) {
		if _, have := vars[name]; !have {
			set(name, services[name])
		}
	}
	list := make([]*runtimeapi.KeyValue, 0, len(order))
	for _, name := range order {
		list = append(list, &runtimeapi.KeyValue{Key: name, Value: []byte(vars[name])})
	}
	return list, nil
}

// value returns a variable's value; skip leaves an optional one out.
func (in Inputs) value(e *corev1.EnvVar, known func(string) (string, bool)) (value string, skip bool, err error) {
	from := e.ValueFrom
	switch {
	case from == nil:
		return Expand(e.Value, known), false, nil
	case from.FieldRef != nil:
		value, err = FieldRef(in.Pod, from.FieldRef.FieldPath, in.PodIPs, in.HostIPs)
	case from.ResourceFieldRef != nil:
		value, err = ResourceFieldRef(from.ResourceFieldRef, in.Pod, in.Container, in.Allocatable)
	case from.ConfigMapKeyRef != nil:
		return in.key("ConfigMap", from.ConfigMapKeyRef.Name, from.ConfigMapKeyRef.Key, from.ConfigMapKeyRef.Optional)
	case from.SecretKeyRef != nil:
		return in.key("Secret", from.SecretKeyRef.Name, from.SecretKeyRef.Key, from.SecretKeyRef.Optional)
	case from.FileKeyRef != nil:
		value, skip, err = in.fileKey(from.FileKeyRef)
	default:
		err = errors.New("valueFrom names no source")
	}
	return value, skip, err
}

// data returns what a ConfigMap or Secret holds, nil if it is optional and missing. One that cannot be read is an error.
func (in Inputs) data(kind, name string, optional *bool) (data map[string]string, err error) {
	if kind == "ConfigMap" {
		object, err := in.ConfigMap(name)
		if err == nil {
			return object.Data, nil
		}
		return nil, unlessOptional(optional, err)
	}
	object, err := in.Secret(name)
	if err != nil {
		return nil, unlessOptional(optional, err)
	}
	data = make(map[string]string, len(object.Data))
	for key, value := range object.Data {
		data[key] = string(value)
	}
	return data, nil
}

// unlessOptional lets an optional object be missing, but not unreadable.
func unlessOptional(optional *bool, err error) error {
	if ptr.Deref(optional, false) && apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// key returns one value of a ConfigMap or Secret; skip leaves an optional one out.
func (in Inputs) key(kind, name, key string, optional *bool) (value string, skip bool, err error) {
	data, err := in.data(kind, name, optional)
	if err != nil {
		return "", false, err
	}
	value, ok := data[key]
	if !ok && !ptr.Deref(optional, false) {
		return "", false, fmt.Errorf("couldn't find key %v in %s %v/%v", key, kind, in.Pod.Namespace, name)
	}
	return value, !ok, nil
}

// from returns all variables of an envFrom source, with its prefix.
func (in Inputs) from(source *corev1.EnvFromSource) (map[string]string, error) {
	var kind, name string
	var optional *bool
	switch {
	case source.ConfigMapRef != nil:
		kind, name, optional = "ConfigMap", source.ConfigMapRef.Name, source.ConfigMapRef.Optional
	case source.SecretRef != nil:
		kind, name, optional = "Secret", source.SecretRef.Name, source.SecretRef.Optional
	default:
		return nil, nil
	}
	data, err := in.data(kind, name, optional)
	if err != nil {
		return nil, err
	}
	values := map[string]string{}
	for key, value := range data {
		values[source.Prefix+key] = value
	}
	return values, nil
}
