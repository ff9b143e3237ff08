package config

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	sigsjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	podinfo "minikubelet/config/pod"
)

// parseManifests reads pods and lists of pods from YAML or JSON, one document or several. Unknown and repeated
// fields are errors that name them. It does not complete or check what the pods say.
func parseManifests(data []byte) ([]*corev1.Pod, error) {
	var pods []*corev1.Pod
	reader := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(data)))
	for n := 1; ; n++ {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return pods, nil
		}
		if err != nil {
			return nil, fmt.Errorf("document %d: %w", n, err)
		}
		if len(bytes.TrimSpace(stripComments(document))) == 0 {
			continue
		}
		more, err := parseDocument(document)
		if err != nil {
			return nil, fmt.Errorf("document %d: %w", n, err)
		}
		pods = append(pods, more...)
	}
}

// stripComments leaves nothing of a document that holds nothing but comments.
func stripComments(document []byte) []byte {
	var kept []byte
	for line := range bytes.Lines(document) {
		if !bytes.HasPrefix(bytes.TrimSpace(line), []byte("#")) {
			kept = append(kept, line...)
		}
	}
	return kept
}

func parseDocument(document []byte) ([]*corev1.Pod, error) {
	data, err := yaml.YAMLToJSONStrict(document)
	if err != nil {
		return nil, err
	}
	var meta metav1.TypeMeta
	if err := json.Unmarshal(data, &meta); err != nil {
		return nil, err
	}
	if meta.APIVersion != "v1" {
		return nil, fmt.Errorf("apiVersion: want v1, got %q", meta.APIVersion)
	}
	switch meta.Kind {
	case "Pod":
		pod := &corev1.Pod{}
		if err := decodeStrict(data, pod); err != nil {
			return nil, err
		}
		return []*corev1.Pod{pod}, nil
	case "PodList", "List":
		return parseList(data)
	}
	return nil, fmt.Errorf("kind: want Pod or PodList, got %q", meta.Kind)
}

func parseList(data []byte) ([]*corev1.Pod, error) {
	var list struct {
		metav1.TypeMeta `json:",inline"`
		metav1.ListMeta `json:"metadata"`
		Items           []json.RawMessage `json:"items"`
	}
	if err := decodeStrict(data, &list); err != nil {
		return nil, err
	}
	var pods []*corev1.Pod
	for i, item := range list.Items {
		pod := &corev1.Pod{}
		if err := decodeStrict(item, pod); err != nil {
			return nil, fmt.Errorf("items[%d]: %w", i, err)
		}
		if pod.Kind != "" && pod.Kind != "Pod" {
			return nil, fmt.Errorf("items[%d].kind: want Pod, got %q", i, pod.Kind)
		}
		pods = append(pods, pod)
	}
	return pods, nil
}

func decodeStrict(data []byte, into any) error {
	problems, err := sigsjson.UnmarshalStrict(data, into)
	if err != nil {
		return err
	}
	return errors.Join(problems...)
}

// static makes a parsed manifest a static pod: its name and UID of this node and place, defaults, checks.
// from tells the place: file:NAME or url:URL.
func static(pod *corev1.Pod, source, from string, node types.NodeName) (*corev1.Pod, error) {
	if pod.Name == "" {
		return nil, errors.New("metadata.name: required")
	}
	setDefaults(pod)
	if pod.UID == "" {
		pod.UID = hashUID(pod, from, node)
	}
	pod.Name += "-" + strings.ToLower(string(node))
	if pod.Namespace == "" {
		pod.Namespace = metav1.NamespaceDefault
	}
	pod.Spec.NodeName = string(node)
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	pod.Annotations[podinfo.HashAnnotation] = string(pod.UID)
	pod.Annotations[podinfo.SourceAnnotation] = source
	// Only the removal of its file ends the pod, no NoExecute taint.
	if source == podinfo.SourceFile {
		pod.Spec.Tolerations = append(pod.Spec.Tolerations, corev1.Toleration{Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute})
	}
	pod.Status = corev1.PodStatus{Phase: corev1.PodPending}
	if errs := validate(pod); len(errs) > 0 {
		return nil, errs.ToAggregate()
	}
	return pod, nil
}
