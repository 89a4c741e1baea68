package virtio

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestConformance, for what a vsock does inside: see conformance_test.go.
func TestConformance_Vsock(t *testing.T) {
	for _, r := range []struct {
		section, what string
		test          func(t *testing.T)
	}{
		{"5.10.6.3.2", "no more data is sent than the peer has room for", func(t *testing.T) {
			w := newVsockWire(t)
			l, err := w.v.Listen(1024)
			require.NoError(t, err)
			request := w.guest(vsockOpRequest, 5000, 1024)
			request.bufAlloc = 10
			w.send(request)
			w.expect(vsockOpResponse)
			c, err := l.Accept()
			require.NoError(t, err)
			written := startWrite(c, make([]byte, 25))
			got := 0
			for got < 25 {
				p := w.expect(vsockOpRW)
				got += len(p.data)
				update := w.guest(vsockOpCreditUpdate, 5000, 1024)
				update.bufAlloc, update.fwdCnt = 10, uint32(got)
				require.LessOrEqual(t, len(p.data), 10)
				if more, ok := w.recv(vsockMaxPayload); ok && len(p.data) == 10 {
					require.NotEqual(t, uint16(vsockOpRW), more.op, "it may ask for room, no more")
				}
				w.send(update)
			}
			require.Equal(t, ioResult{25, nil}, within(t, written))
		}},
		{"5.10.6.3.2", "every packet of a stream has valid buf_alloc and fwd_cnt", func(t *testing.T) {
			w := newVsockWire(t)
			c := w.connected()
			p := w.guest(vsockOpRW, 5000, 1024)
			p.data = []byte("seven b")
			w.send(p)
			n, err := c.Read(make([]byte, 100))
			require.NoError(t, err)
			require.Equal(t, 7, n)
			startWrite(c, []byte("x"))
			got := w.expect(vsockOpRW)
			require.NotZero(t, got.bufAlloc)
			require.EqualValues(t, 7, got.fwdCnt)
		}},
		{"5.10.6.4.2", "a packet of unknown type is answered with RST", func(t *testing.T) {
			w := newVsockWire(t)
			w.connected()
			p := w.guest(vsockOpRW, 5000, 1024)
			p.typ = 77
			w.send(p)
			require.EqualValues(t, 77, w.expect(vsockOpRst).typ)
		}},
	} {
		t.Run(r.section+"/"+r.what, r.test)
	}
}
