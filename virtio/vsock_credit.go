package virtio

const (
	// vsockWindow is the receive buffer of a connection, in bytes: what a peer
	// can make us hold for it. Connections beyond vsockWideConns get the narrow
	// one, so that all of them together are bounded.
	vsockWindow       = 256 << 10
	vsockNarrowWindow = 32 << 10

	// vsockMaxInFlight caps what we send ahead of the peer's reader, whatever
	// buffer it claims to have (T62).
	vsockMaxInFlight = 4 << 20
)

// vsockSendCredit is what the peer lets us send (virtio 1.2 §5.10.6.3). All
// counters run freely modulo 2³²; the difference never goes below zero.
type vsockSendCredit struct {
	TxCnt        uint32 // bytes sent
	PeerFwdCnt   uint32 // of these, bytes the peer has taken out of its buffer
	PeerBufAlloc uint32 // size of the peer's buffer
}

// update takes over what the peer says. Its forward count only ever moves on,
// and never past what was sent: any other value is a lie, or a packet that the
// peer's CPUs reordered, and is ignored (T62).
func (c *vsockSendCredit) update(bufAlloc, fwdCnt uint32) {
	if fwdCnt-c.PeerFwdCnt <= c.TxCnt-c.PeerFwdCnt {
		c.PeerFwdCnt = fwdCnt
	}
	c.PeerBufAlloc = bufAlloc
}

// free is the number of bytes that may be sent now. A buffer that shrank below
// what is in flight leaves nothing (T62).
func (c *vsockSendCredit) free() uint32 {
	inFlight := c.TxCnt - c.PeerFwdCnt
	limit := min(c.PeerBufAlloc, vsockMaxInFlight)
	if inFlight >= limit {
		return 0
	}
	return limit - inFlight
}

// take records n sent bytes, at most free().
func (c *vsockSendCredit) take(n uint32) { c.TxCnt += n }

// vsockRecvCredit is what we let the peer send.
type vsockRecvCredit struct {
	Window    uint32 // size of our buffer
	RxCnt     uint32 // bytes received
	FwdCnt    uint32 // of these, bytes that the reader has taken
	Announced uint32 // FwdCnt as the peer last heard of it
}

// accept records n received bytes. It reports false if the peer had no credit
// for them.
func (c *vsockRecvCredit) accept(n uint32) bool {
	if n > c.Window-(c.RxCnt-c.FwdCnt) {
		return false
	}
	c.RxCnt += n
	return true
}

// taken records that n bytes left the buffer.
func (c *vsockRecvCredit) taken(n uint32) { c.FwdCnt += n }

// due reports whether the peer should hear of the buffer's state. Not for every
// read, for each costs the guest a packet; but early enough that a writer who
// goes on never waits: when it sees less than half of the window and there is
// at least a quarter to tell. A peer without any credit is always told.
func (c *vsockRecvCredit) due() bool {
	news := c.FwdCnt - c.Announced
	sees := c.Window - (c.RxCnt - c.Announced)
	return news >= c.Window/4 && sees <= c.Window/2
}

// announce returns buf_alloc and fwd_cnt for a packet that goes out.
func (c *vsockRecvCredit) announce() (bufAlloc, fwdCnt uint32) {
	c.Announced = c.FwdCnt
	return c.Window, c.FwdCnt
}
