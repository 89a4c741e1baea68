package guestmem

// Window is a run of guest memory whose bounds were checked once, when it was
// made. It suits what is read and written often and by several parties, such
// as rings.
//
// Offsets are the caller's responsibility: like an index into a slice, an
// offset that is out of bounds or not a multiple of the access's width panics.
// They must therefore never come from the guest; the guest's choice is the
// window's address, and Memory.Window checks that.
type Window struct {
	data []byte
}

// Window returns a view of the n bytes at a. They must lie inside one region.
// Whoever wants atomic access to fields of the window checks a's alignment.
func (m *Memory) Window(a GPA, n uint64) (Window, error) {
	b, err := m.slice("window", a, n)
	return Window{b}, err
}

// Len is the window's size in bytes.
func (w Window) Len() uint64 { return uint64(len(w.data)) }

// Bytes is the window's memory.
func (w Window) Bytes() []byte { return w.data }

// LoadUint16 atomically loads two bytes.
func (w Window) LoadUint16(off uint64) uint16 {
	return load16(w.data[off : off+2 : off+2])
}

// StoreUint16 atomically stores two bytes. It is a full memory barrier.
func (w Window) StoreUint16(off uint64, v uint16) {
	store16(w.data[off:off+2:off+2], v)
}

// LoadUint32 atomically loads four bytes.
func (w Window) LoadUint32(off uint64) uint32 {
	return load32(w.data[off : off+4 : off+4])
}

// StoreUint32 atomically stores four bytes. It is a full memory barrier.
func (w Window) StoreUint32(off uint64, v uint32) {
	store32(w.data[off:off+4:off+4], v)
}

// LoadUint64 atomically loads eight bytes.
func (w Window) LoadUint64(off uint64) uint64 {
	return load64(w.data[off : off+8 : off+8])
}

// StoreUint64 atomically stores eight bytes. It is a full memory barrier.
func (w Window) StoreUint64(off uint64, v uint64) {
	store64(w.data[off:off+8:off+8], v)
}

// word returns the n bytes at a, which must be a multiple of n.
func (m *Memory) word(op string, a GPA, n uint64) ([]byte, error) {
	if uint64(a)%n != 0 {
		return nil, &Error{op, Range{a, n}, ErrUnaligned}
	}
	return m.slice(op, a, n)
}

// LoadUint16 atomically loads the two bytes at a.
func (m *Memory) LoadUint16(a GPA) (uint16, error) {
	b, err := m.word("load", a, 2)
	if err != nil {
		return 0, err
	}
	return load16(b), nil
}

// StoreUint16 atomically stores two bytes at a. It is a full memory barrier.
func (m *Memory) StoreUint16(a GPA, v uint16) error {
	b, err := m.word("store", a, 2)
	if err != nil {
		return err
	}
	store16(b, v)
	return nil
}

// LoadUint32 atomically loads the four bytes at a.
func (m *Memory) LoadUint32(a GPA) (uint32, error) {
	b, err := m.word("load", a, 4)
	if err != nil {
		return 0, err
	}
	return load32(b), nil
}

// StoreUint32 atomically stores four bytes at a. It is a full memory barrier.
func (m *Memory) StoreUint32(a GPA, v uint32) error {
	b, err := m.word("store", a, 4)
	if err != nil {
		return err
	}
	store32(b, v)
	return nil
}

// LoadUint64 atomically loads the eight bytes at a.
func (m *Memory) LoadUint64(a GPA) (uint64, error) {
	b, err := m.word("load", a, 8)
	if err != nil {
		return 0, err
	}
	return load64(b), nil
}

// StoreUint64 atomically stores eight bytes at a. It is a full memory barrier.
func (m *Memory) StoreUint64(a GPA, v uint64) error {
	b, err := m.word("store", a, 8)
	if err != nil {
		return err
	}
	store64(b, v)
	return nil
}
