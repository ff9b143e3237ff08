package status

import (
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// Unwritten returns the pods whose status the apiserver does not have, with the time since when; empty without an apiserver.
func (m *Manager) Unwritten() map[types.UID]time.Time {
	all := map[types.UID]time.Time{}
	if m.api == nil {
		return all
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for uid, e := range m.pods {
		if !e.changed.IsZero() && !e.gone {
			all[uid] = e.changed
		}
	}
	return all
}
