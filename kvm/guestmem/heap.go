package guestmem

// NewHeap returns zeroed guest RAM in Go's heap, page-aligned. The race
// detector sees it. Meant for tests; the memory is all allocated at once.
func NewHeap(ranges ...Range) (*Memory, error) {
	m, err := newMemory(ranges)
	if err != nil {
		return nil, err
	}
	for i := range m.regions {
		r := &m.regions[i]
		b := make([]byte, r.Size+PageSize)
		skip := -address(b) & (PageSize - 1)
		r.data = b[skip : uint64(skip)+r.Size : uint64(skip)+r.Size]
	}
	return m, nil
}
