package guestmem

// RangeOf returns where b lies in the guest's memory, for a b that came from
// Bytes or a Window and may have been sliced since. It reports false for any
// other bytes, and for none.
func (m *Memory) RangeOf(b []byte) (Range, bool) {
	if len(b) == 0 {
		return Range{}, false
	}
	at := address(b)
	for i := range m.regions {
		r := &m.regions[i]
		if start := address(r.data); at >= start && at-start < uintptr(len(r.data)) && len(b) <= len(r.data)-int(at-start) {
			return Range{r.Base + GPA(at-start), uint64(len(b))}, true
		}
	}
	return Range{}, false
}
