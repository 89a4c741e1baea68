package virtio

import (
	"io"
	"syscall"
)

// vsockPhase is where a connection stands.
type vsockPhase uint8

const (
	vsockConnecting vsockPhase = iota // we dial: REQUEST to be sent, or sent
	vsockOpen
	vsockClosing   // closed here: SHUTDOWN to be sent, or sent; RST awaited
	vsockResetting // RST to be sent
	vsockDead      // out of the table
)

// vsockConnState is all that the protocol knows of a connection: plain data.
type vsockConnState struct {
	Key   vsockKey
	Phase vsockPhase

	Send vsockSendCredit
	Recv vsockRecvCredit

	LocalShut uint32 // SHUTDOWN flags of ours, sent or owed
	PeerShut  uint32 // SHUTDOWN flags of the guest's

	// What was sent, and what we owe.
	RequestSent  bool
	CreditAsked  bool // CREDIT_REQUEST sent, and no credit since
	OwesResponse bool
	OwesShut     bool
	OwesCredit   bool
}

// receive handles a packet for this connection. payload has at least
// h.length() bytes. The queue's worker calls it, and it never waits.
func (c *vsockConn) receive(h *vsockHeader, payload io.Reader) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := &c.state
	op := h.op()
	switch {
	case s.Phase == vsockDead:
		return
	case op == vsockOpRst:
		c.peerReset()
		return
	case s.Phase == vsockResetting:
		return // our RST will answer
	}
	s.Send.update(h.bufAlloc(), h.fwdCnt())
	if s.Phase == vsockConnecting {
		if op == vsockOpResponse && s.RequestSent {
			c.established()
		} else {
			c.reset(syscall.EPROTO)
		}
		return
	}
	switch op {
	case vsockOpRW:
		c.receiveData(int(h.length()), payload)
	case vsockOpShutdown:
		c.peerShutdown(h.flags() & vsockShutBoth)
	case vsockOpCreditRequest:
		s.OwesCredit = true // however often it asks, one answer
		c.schedule()
	case vsockOpCreditUpdate:
	default: // REQUEST or RESPONSE out of turn, or nothing we know (T61)
		c.reset(syscall.ECONNRESET)
	}
	if s.Send.free() > 0 {
		s.CreditAsked = false
		if len(c.out) > 0 {
			c.schedule()
		}
	}
}

// receiveData takes n bytes. Called with c.mu held, which it lets go of while
// it copies.
func (c *vsockConn) receiveData(n int, payload io.Reader) {
	s := &c.state
	if s.PeerShut&vsockShutSend != 0 || !s.Recv.accept(uint32(n)) {
		// Data after it promised that there would be none, or more than we
		// have room for: data would be lost (T62, T65).
		c.reset(syscall.ECONNRESET)
		return
	}
	if n == 0 {
		return
	}
	if s.LocalShut&vsockShutReceive != 0 { // still on its way when we said so
		s.Recv.taken(uint32(n))
		return
	}
	c.copyIn(c.in.reserve(n, &c.dev.segments), n, payload)
	c.in.commit(n, &c.dev.segments)
	c.readable.Broadcast()
}

// copyIn is called with c.mu held, and lets go of it meanwhile.
func (c *vsockConn) copyIn(to *vsockSegment, n int, payload io.Reader) {
	c.mu.Unlock()
	defer c.mu.Lock()
	for ; n > 0; to = to.next {
		b := to.b[to.w:]
		b = b[:min(n, len(b))]
		io.ReadFull(payload, b) // there are enough
		n -= len(b)
	}
}

// peerShutdown is called with c.mu held.
func (c *vsockConn) peerShutdown(flags uint32) {
	s := &c.state
	s.PeerShut |= flags
	c.readable.Broadcast()
	c.writable.Broadcast()
	if s.PeerShut == vsockShutBoth {
		// The guest waits for our RST before it uses the port again. What it
		// sent is in our buffer and stays readable.
		s.Phase = vsockResetting
		c.stopTimer()
		c.schedule()
	}
}

// peerReset ends the connection without an answer. Called with c.mu held.
func (c *vsockConn) peerReset() {
	err := syscall.ECONNRESET
	if c.state.Phase == vsockConnecting {
		err = syscall.ECONNREFUSED
	}
	c.die(err)
}

// established is called with c.mu held.
func (c *vsockConn) established() {
	c.state.Phase = vsockOpen
	c.stopTimer()
	close(c.opened)
}

// reset breaks the connection off: RST will be sent, and calls fail with err.
// Called with c.mu held.
func (c *vsockConn) reset(err error) {
	if c.state.Phase >= vsockResetting {
		return
	}
	c.fail(err)
	c.state.Phase = vsockResetting
	c.schedule()
}

// die ends the connection here and now. Called with c.mu held.
func (c *vsockConn) die(err error) {
	if c.state.Phase == vsockDead {
		return
	}
	c.fail(err)
	c.state.Phase = vsockDead
	c.dev.remove(c)
}

// fail lets calls fail with err, or with an error that was there before. Called
// with c.mu held.
func (c *vsockConn) fail(err error) {
	if c.err == nil {
		c.err = err
	}
	c.stopTimer()
	if c.state.Phase == vsockConnecting {
		c.dialErr = err
		close(c.opened)
	}
	c.readable.Broadcast()
	c.writable.Broadcast()
}

// due is the packet to send now: its op, or vsockOpInvalid if there is none.
// Called with c.mu held.
func (c *vsockConn) due() uint16 {
	s := &c.state
	switch {
	case s.Phase == vsockDead:
	case s.Phase == vsockResetting:
		return vsockOpRst
	case s.Phase == vsockConnecting:
		if !s.RequestSent {
			return vsockOpRequest
		}
	case s.OwesResponse:
		return vsockOpResponse
	case c.sendable() > 0:
		return vsockOpRW
	case s.OwesShut:
		return vsockOpShutdown
	case s.OwesCredit:
		return vsockOpCreditUpdate
	case len(c.out) > 0 && s.Send.free() == 0 && !s.CreditAsked:
		return vsockOpCreditRequest
	}
	return vsockOpInvalid
}

// pending reports whether there is something to send.
func (c *vsockConn) pending() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.due() != vsockOpInvalid
}

// next fills h with the packet to send now and returns its payload, at most
// room bytes. That is a piece of the slice that was given to Write: the caller
// copies it and then calls sent. It reports false if there is nothing to send.
// Only the rx worker calls it.
func (c *vsockConn) next(h *vsockHeader, room int) (payload []byte, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := &c.state
	var flags uint32
	op := c.due()
	switch op {
	case vsockOpInvalid:
		return nil, false
	case vsockOpRst:
		s.Phase = vsockDead
		c.dev.remove(c)
	case vsockOpRequest:
		s.RequestSent = true
		c.startTimer(c.dev.openTimeout, syscall.ETIMEDOUT)
	case vsockOpResponse:
		s.OwesResponse = false
	case vsockOpRW:
		payload = c.out[:min(c.sendable(), room)]
		s.Send.take(uint32(len(payload)))
		c.outBusy = true
	case vsockOpShutdown:
		flags, s.OwesShut = s.LocalShut, false
	case vsockOpCreditRequest:
		s.CreditAsked = true
	}
	s.OwesCredit = false // every packet carries it
	h.setAddresses(vsockHostCID, c.dev.cid, s.Key.local, s.Key.peer)
	h.setKind(vsockTypeStream, op, flags, uint32(len(payload)))
	h.setCredit(s.Recv.announce())
	return payload, true
}

// sendable is how much of c.out may be sent in one packet: nothing once either
// side has said that it is over, though the Write may not have noticed. Called
// with c.mu held.
func (c *vsockConn) sendable() int {
	s := &c.state
	if s.Phase != vsockOpen || s.LocalShut&vsockShutSend != 0 || s.PeerShut&vsockShutReceive != 0 {
		return 0
	}
	return min(len(c.out), vsockMaxPayload, int(s.Send.free()))
}

// sent tells that the payload of the last packet, of n bytes, was copied.
func (c *vsockConn) sent(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.outBusy = false
	c.out = c.out[n:]
	if len(c.out) == 0 || c.outLeaving {
		c.writable.Broadcast()
	}
}
