package env

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
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
	// Invalid is told of keys of a source that cannot be variables; may be nil.
	Invalid func(source string, keys []string)
}

// Container returns the environment of a container: services first, then envFrom, then env, each over the ones
// before. Errors name the variable or the source.
//
// Upstream: pkg/kubelet/kubelet_pods.go makeEnvironmentVariables.
func Container(in Inputs) ([]*runtimeapi.KeyValue, error) {
	services := serviceVars(in.Services, in.Pod.Namespace, in.Pod.Spec.EnableServiceLinks == nil || *in.Pod.Spec.EnableServiceLinks)
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
		return in.configMapKey(from.ConfigMapKeyRef)
	case from.SecretKeyRef != nil:
		return in.secretKey(from.SecretKeyRef)
	case from.FileKeyRef != nil:
		value, skip, err = in.fileKey(from.FileKeyRef)
	default:
		err = errors.New("valueFrom names no source")
	}
	if err != nil {
		return "", false, fmt.Errorf("env %s: %w", e.Name, err)
	}
	return value, skip, nil
}

func (in Inputs) configMapKey(ref *corev1.ConfigMapKeySelector) (value string, skip bool, err error) {
	optional := ref.Optional != nil && *ref.Optional
	object, err := in.ConfigMap(ref.Name)
	if err != nil {
		return "", optional && apierrors.IsNotFound(err), unlessOptional(optional, err)
	}
	value, ok := object.Data[ref.Key]
	if !ok && !optional {
		return "", false, fmt.Errorf("couldn't find key %v in ConfigMap %v/%v", ref.Key, in.Pod.Namespace, ref.Name)
	}
	return value, !ok, nil
}

func (in Inputs) secretKey(ref *corev1.SecretKeySelector) (value string, skip bool, err error) {
	optional := ref.Optional != nil && *ref.Optional
	object, err := in.Secret(ref.Name)
	if err != nil {
		return "", optional && apierrors.IsNotFound(err), unlessOptional(optional, err)
	}
	data, ok := object.Data[ref.Key]
	if !ok && !optional {
		return "", false, fmt.Errorf("couldn't find key %v in Secret %v/%v", ref.Key, in.Pod.Namespace, ref.Name)
	}
	return string(data), !ok, nil
}

// unlessOptional lets an optional object be missing, but not unreadable.
func unlessOptional(optional bool, err error) error {
	if optional && apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// from returns all variables of an envFrom source, with its prefix. Keys that cannot be variables are left out.
func (in Inputs) from(source *corev1.EnvFromSource) (map[string]string, error) {
	values := map[string]string{}
	var what string
	switch {
	case source.ConfigMapRef != nil:
		what = fmt.Sprintf("ConfigMap %s/%s", in.Pod.Namespace, source.ConfigMapRef.Name)
		object, err := in.ConfigMap(source.ConfigMapRef.Name)
		if err != nil {
			return nil, unlessOptional(source.ConfigMapRef.Optional != nil && *source.ConfigMapRef.Optional, err)
		}
		for key, value := range object.Data {
			values[source.Prefix+key] = value
		}
	case source.SecretRef != nil:
		what = fmt.Sprintf("Secret %s/%s", in.Pod.Namespace, source.SecretRef.Name)
		object, err := in.Secret(source.SecretRef.Name)
		if err != nil {
			return nil, unlessOptional(source.SecretRef.Optional != nil && *source.SecretRef.Optional, err)
		}
		for key, value := range object.Data {
			values[source.Prefix+key] = string(value)
		}
	}
	var invalid []string
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if len(validation.IsRelaxedEnvVarName(name)) > 0 {
			invalid = append(invalid, name)
			delete(values, name)
		}
	}
	if len(invalid) > 0 && in.Invalid != nil {
		in.Invalid(what, invalid)
	}
	return values, nil
}
