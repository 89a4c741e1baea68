package virtio

import "encoding/binary"

// vsockSender is the rx worker: the one who writes to the guest. It has no
// state that outlives a packet.
type vsockSender struct {
	dev   *Vsock
	act   Activation
	rx    *Queue
	event *Queue // nil if the driver has none

	chain  Chain
	loaded bool // chain was popped and not pushed
	pushed int  // chains since the last flush
	header vsockHeader
}

// run gives everyone with something to send their turn: resets first, then
// connections round robin, up to a quantum each.
func (s *vsockSender) run() error {
	for {
		if err := s.sendEvent(); err != nil {
			return err
		}
		if err := s.sendResets(); err != nil {
			return err
		}
		c := s.dev.dequeue()
		if c == nil {
			if err := s.idle(); err != nil {
				return err
			}
			continue
		}
		if err := s.serve(c); err != nil {
			return err
		}
	}
}

// idle waits until there is something to send.
func (s *vsockSender) idle() error {
	s.flush()
	select {
	case <-s.dev.wake:
		return nil
	case <-s.rx.Done():
		return ErrStopped
	}
}

// serve sends what c has, up to a quantum.
func (s *vsockSender) serve(c *vsockConn) error {
	for sent := 0; sent < vsockQuantum; {
		if !c.pending() {
			return nil
		}
		if err := s.load(); err != nil {
			return err
		}
		payload, ok := c.next(&s.header, s.chain.WritableLen()-vsockHeaderLen)
		if !ok {
			return nil // not any more; the chain serves the next
		}
		s.chain.Write(s.header[:])
		s.chain.Write(payload)
		if len(payload) > 0 {
			c.sent(len(payload))
		}
		s.push()
		sent += vsockHeaderLen + len(payload)
	}
	c.mu.Lock()
	c.schedule() // at the end of the line
	c.mu.Unlock()
	s.flush()
	return nil
}

// sendResets answers packets that belong to no connection: some of them, for a
// guest may ask for more than its share (T63).
func (s *vsockSender) sendResets() error {
	for range vsockBatch {
		r, ok := s.dev.dequeueReset()
		if !ok {
			return nil
		}
		if err := s.load(); err != nil {
			return err
		}
		h := &s.header
		h.setAddresses(vsockHostCID, s.dev.cid, r.key.local, r.key.peer)
		h.setKind(r.typ, vsockOpRst, 0, 0)
		h.setCredit(0, 0)
		s.chain.Write(h[:])
		s.push()
	}
	return nil
}

// load makes s.chain a chain that takes a header at least, and waits for one if
// the guest has not provided any.
func (s *vsockSender) load() error {
	for {
		for !s.loaded {
			ok, err := s.rx.Pop(&s.chain)
			if err != nil {
				return err
			}
			if !ok {
				break
			}
			if s.chain.WritableLen() > vsockHeaderLen {
				s.loaded = true
				return nil
			}
			s.dev.drop() // no use to anyone: give it back empty
			s.push()
		}
		if s.loaded {
			return nil
		}
		s.flush()
		if s.rx.EnableNotifications() {
			continue
		}
		if err := s.rx.Wait(); err != nil {
			return err
		}
		s.rx.DisableNotifications()
	}
}

// push gives the chain to the guest.
func (s *vsockSender) push() {
	s.rx.Push(s.chain.Head(), s.chain.Written())
	s.loaded = false
	if s.pushed++; s.pushed >= vsockBatch {
		s.flush()
	}
}

// flush tells the guest of what was pushed.
func (s *vsockSender) flush() {
	if s.pushed == 0 {
		return
	}
	s.rx.Notify()
	if s.act.Activity != nil {
		s.act.Activity(s.rx.Index(), s.pushed)
	}
	s.pushed = 0
}

// sendEvent sends the event that is due, if the driver has a buffer for it;
// else it stays due.
func (s *vsockSender) sendEvent() error {
	if s.event == nil || !s.dev.takeEvent() {
		return nil
	}
	var c Chain
	ok, err := s.event.Pop(&c)
	if err != nil {
		return err
	}
	if !ok {
		s.dev.putEvent()
		return nil
	}
	c.Write(binary.LittleEndian.AppendUint32(nil, vsockEventTransportReset))
	s.event.Push(c.Head(), c.Written())
	s.event.Notify()
	return nil
}

// takeEvent reports whether an event is due, and takes it.
func (v *Vsock) takeEvent() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	due := v.eventPending
	v.eventPending = false
	return due
}

// putEvent puts it back.
func (v *Vsock) putEvent() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.eventPending = true
}
