package status

// listener is called when a status has changed or a pod was dropped; nil for none.
type listener func()

func (l listener) tell() {
	if l != nil {
		l()
	}
}

// OnChange has fn called after a status has changed or a pod was dropped. fn must not block, nor call the Manager.
func (m *Manager) OnChange(fn func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.onChange = fn
}
