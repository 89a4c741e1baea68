package virtio

// ConnCount reports how many connections are in the table, and how many count
// against the cap.
func (v *Vsock) ConnCount() (table, live int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.conns), v.live
}
