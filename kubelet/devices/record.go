package devices

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/google/renameio/v2"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

// grant is what a container has of one resource.
type grant struct {
	IDs []string `json:"devices"`
	// NUMA are the nodes of the machine that a device is at, if its plugin told.
	NUMA map[string][]int64 `json:"numa,omitempty"`
	// Response is what the plugin says that the container needs; nil while the plugin is being asked.
	Response *pluginapi.ContainerAllocateResponse `json:"response"`
}

// grants are those of a pod, by container and resource.
type grants map[string]map[string]*grant

type podGrants map[types.UID]grants

func (p podGrants) set(uid types.UID, container, name string, g *grant) {
	if p[uid] == nil {
		p[uid] = grants{}
	}
	if p[uid][container] == nil {
		p[uid][container] = map[string]*grant{}
	}
	p[uid][container][name] = g
}

// encode leaves out what plugins are still asked for.
func (g grants) encode() (json.RawMessage, error) {
	done := grants{}
	for container, resources := range g {
		for name, of := range resources {
			if of.Response != nil {
				podGrants{"": done}.set("", container, name, of)
			}
		}
	}
	return json.Marshal(done)
}

func parseGrants(data json.RawMessage) (grants, error) {
	var g grants
	if err := json.Unmarshal(data, &g); err != nil {
		return nil, fmt.Errorf("read what devices a pod has: %w", err)
	}
	for _, container := range g {
		for name, of := range container {
			if of == nil || of.Response == nil {
				return nil, fmt.Errorf("read what devices a pod has: nothing is said of %s", name)
			}
		}
	}
	return g, nil
}

// namesFile is where the resources of plugins are recorded: the node's status still has them when the kubelet starts again,
// and does not tell whose they are.
func (m *Manager) namesFile() string { return filepath.Join(m.opts.Dir, "resources.json") }

// readNames reads the file, and tells whether there is one. One that cannot be understood is set aside.
func readNames(path string) (names []string, known bool, err error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return nil, true, fmt.Errorf("read the resources of device plugins: %w", err)
	}
	if err := json.Unmarshal(data, &names); err != nil {
		return nil, true, errors.Join(fmt.Errorf("read the resources of device plugins: %s: %w", path, err), os.Rename(path, path+".broken"))
	}
	return names, true, nil
}

// saveNames writes the file. Without it the worst that can happen is that a resource whose plugin does not come back keeps
// its capacity, so an error is no reason to refuse a plugin.
func (m *Manager) saveNames() {
	m.saving.Lock()
	defer m.saving.Unlock()
	m.mu.Lock()
	names := slices.DeleteFunc(slices.Sorted(maps.Keys(m.resources)), func(name string) bool { return m.resources[name].expired() })
	m.mu.Unlock()
	data, err := json.Marshal(names)
	if err == nil && m.saved != nil && string(data) == string(m.saved) {
		return
	}
	if err == nil {
		err = os.MkdirAll(m.opts.Dir, 0o750)
	}
	if err == nil {
		err = renameio.WriteFile(m.namesFile(), data, 0o600)
	}
	if err != nil {
		klog.Background().Error(err, "Recording the resources of device plugins failed")
		return
	}
	m.saved = data
}
