package status

// OnChange makes fn be called after a status has changed or a pod was dropped. fn must not block, nor call the Manager.
func (m *Manager) OnChange(fn func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.onChange = fn
}
