package qcow2

import (
	"math/rand/v2"
	"slices"
)

// memFile is storage in memory that records what is done to it, so that a test
// can lose a part of that.
type memFile struct {
	data   []byte
	record bool
	log    []memOp
	fail   func(kind byte) error // decides before each operation
}

// memOp is one operation: 'w'rite, 'f'lush, 'g'row or 'p'unch.
type memOp struct {
	kind   byte
	off, n int64
	data   []byte
}

func (m *memFile) preadv(bufs [][]byte, off int64) (int, error) {
	if err := m.failing('r'); err != nil {
		return 0, err
	}
	n := 0
	for _, p := range bufs {
		if off+int64(n+len(p)) > int64(len(m.data)) {
			panic("read beyond the file")
		}
		n += copy(p, m.data[off+int64(n):])
	}
	return n, nil
}

func (m *memFile) pwritev(bufs [][]byte, off int64) (int, error) {
	data := slices.Concat(bufs...)
	if err := m.failing('w'); err != nil {
		half := len(data) / 2 &^ 511 // of it comes through
		m.do(memOp{'w', off, 0, data[:half]})
		return half, err
	}
	m.do(memOp{'w', off, 0, data})
	return len(data), nil
}

func (m *memFile) flush() error {
	if err := m.failing('f'); err != nil {
		return err
	}
	m.do(memOp{kind: 'f'})
	return nil
}

func (m *memFile) grow(size int64) error {
	if err := m.failing('g'); err != nil {
		return err
	}
	m.do(memOp{kind: 'g', off: size})
	return nil
}

func (m *memFile) punch(off, n int64) {
	if off < 0 || n <= 0 || off+n > int64(len(m.data)) {
		panic("punch beyond the file")
	}
	if m.failing('p') == nil {
		m.do(memOp{kind: 'p', off: off, n: n})
	}
}

func (m *memFile) failing(kind byte) error {
	if m.fail == nil {
		return nil
	}
	return m.fail(kind)
}

func (m *memFile) do(op memOp) {
	if m.record {
		m.log = append(m.log, op)
	}
	m.apply(op)
}

func (m *memFile) apply(op memOp) {
	switch op.kind {
	case 'w':
		m.extend(op.off + int64(len(op.data)))
		copy(m.data[op.off:], op.data)
	case 'g':
		m.extend(op.off)
	case 'p':
		if n := int64(len(m.data)); op.off < n { // else what grew it was lost
			clear(m.data[op.off:min(op.off+op.n, n)])
		}
	}
}

func (m *memFile) extend(size int64) {
	if n := size - int64(len(m.data)); n > 0 {
		m.data = append(m.data, make([]byte, n)...)
	}
}

// crashed returns base after the first k operations of log, of which those after
// the last flush may be lost: each sector of them is kept with probability p.
func crashed(base []byte, log []memOp, k int, p float64, r *rand.Rand) []byte {
	m := &memFile{data: slices.Clone(base)}
	flushed := 0
	for i := range k {
		if log[i].kind == 'f' {
			flushed = i
		}
	}
	for i, op := range log[:k] {
		switch {
		case i < flushed:
			m.apply(op)
		case op.kind == 'w':
			for at := 0; at < len(op.data); {
				n := min(512-int(op.off+int64(at))&511, len(op.data)-at)
				if r.Float64() < p {
					m.apply(memOp{'w', op.off + int64(at), 0, op.data[at : at+n]})
				}
				at += n
			}
		case r.Float64() < p:
			m.apply(op)
		}
	}
	return m.data
}
