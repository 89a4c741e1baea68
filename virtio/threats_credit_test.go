package virtio

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// Linux computed a sender's credit with a subtraction that could underflow, and
// took the size of the window from the peer alone. Whatever the peer says, in
// whatever order: nothing beyond its buffer and our cap is ever in flight, and a
// peer that tells the truth again is believed.
func TestAdvisory_CVE_2026_23069(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 8))
	for range 2000 {
		start := rnd.Uint32()
		c := vsockSendCredit{TxCnt: start, PeerFwdCnt: start}
		sent := uint64(0) // without wrapping
		for range 100 {
			alloc := [...]uint32{0, 1, 4096, 64 << 10, 1 << 31, 1<<32 - 1, rnd.Uint32()}[rnd.IntN(7)]
			fwd := [...]uint32{c.PeerFwdCnt, c.PeerFwdCnt - 1, c.TxCnt, c.TxCnt + 1, 0, rnd.Uint32()}[rnd.IntN(6)]
			forward := c.PeerFwdCnt
			c.update(alloc, fwd)
			require.LessOrEqual(t, c.PeerFwdCnt-forward, c.TxCnt-forward, "went back, or past what was sent")
			free := c.free()
			inFlight := c.TxCnt - c.PeerFwdCnt
			require.LessOrEqual(t, uint64(inFlight)+uint64(free), max(uint64(inFlight), min(uint64(alloc), vsockMaxInFlight)))
			n := min(free, rnd.Uint32N(128<<10))
			c.take(n)
			sent += uint64(n)
			require.Equal(t, start+uint32(sent), c.TxCnt)
			require.LessOrEqual(t, c.TxCnt-c.PeerFwdCnt, uint32(vsockMaxInFlight))
		}
		c.update(64<<10, c.TxCnt)
		require.EqualValues(t, 64<<10, c.free())
	}
}
