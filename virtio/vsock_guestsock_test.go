package virtio_test

import (
	"errors"
	"io"
)

var (
	errGuestReset = errors.New("guest: connection reset")
	errGuestPipe  = errors.New("guest: broken pipe")
)

func (k *guestKernel) listen(port uint32) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.listeners[port] = true
}

func (k *guestKernel) accept(port uint32) (*guestSock, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for k.err == nil {
		if q := k.backlog[port]; len(q) > 0 {
			k.backlog[port] = q[1:]
			return q[0], nil
		}
		k.changed.Wait()
	}
	return nil, k.err
}

func (k *guestKernel) dial(port uint32) (*guestSock, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.nextPort++
	s := &guestSock{k: k, addr: guestAddr{k.nextPort, port}, connecting: true}
	k.socks[s.addr] = s
	s.send(guestOpRequest, 0, nil)
	for s.connecting && k.err == nil {
		k.changed.Wait()
	}
	if !s.established {
		return nil, errors.Join(k.err, errGuestReset)
	}
	return s, k.err
}

// Read is virtio_transport_stream_do_dequeue.
func (s *guestSock) Read(p []byte) (int, error) {
	k := s.k
	k.mu.Lock()
	defer k.mu.Unlock()
	for s.rxBytes == 0 {
		switch {
		case k.err != nil:
			return 0, k.err
		case s.reset:
			return 0, errGuestReset
		case s.peerShut&guestShutSend != 0, s.done:
			return 0, io.EOF
		}
		k.changed.Wait()
	}
	n := 0
	for n < len(p) && len(s.rxq) > 0 {
		c := copy(p[n:], s.rxq[0][s.rxOff:])
		n += c
		s.rxOff += c
		s.rxBytes -= uint32(c)
		if s.rxOff == len(s.rxq[0]) { // counted when the whole packet is read
			s.fwdCnt += uint32(s.rxOff)
			s.bufUsed -= uint32(s.rxOff)
			s.rxq, s.rxOff = s.rxq[1:], 0
		}
	}
	delta := s.fwdCnt - s.lastFwd
	if delta > 0 && (guestBufAlloc-delta < guestMaxPkt || s.rxBytes == 0) && !s.done {
		s.send(guestOpCreditUpdate, 0, nil)
	}
	return n, nil
}

func (s *guestSock) Write(p []byte) (int, error) {
	k := s.k
	k.mu.Lock()
	defer k.mu.Unlock()
	n := 0
	for n < len(p) {
		switch {
		case k.err != nil:
			return n, k.err
		case s.reset:
			return n, errGuestReset
		case s.done, s.shut&guestShutSend != 0, s.peerShut&guestShutRecv != 0:
			return n, errGuestPipe
		}
		free := s.peerA - (s.txCnt - s.peerFwd)
		if free == 0 || len(k.sendq) > 256 {
			k.changed.Wait()
			continue
		}
		c := min(len(p)-n, int(free), guestMaxPkt)
		s.txCnt += uint32(c)
		s.send(guestOpRW, 0, append([]byte(nil), p[n:n+c]...))
		n += c
	}
	return n, nil
}

func (s *guestSock) shutdown(flags uint32) {
	s.k.mu.Lock()
	defer s.k.mu.Unlock()
	s.shut |= flags
	if !s.done {
		s.send(guestOpShutdown, flags, nil)
	}
}

func (s *guestSock) CloseWrite() error { s.shutdown(guestShutSend); return nil }

// Close is virtio_transport_close, without the timeout: the device must answer.
func (s *guestSock) Close() error {
	k := s.k
	k.mu.Lock()
	defer k.mu.Unlock()
	if s.done {
		return nil
	}
	if s.peerShut == guestShutBoth {
		s.send(guestOpRst, 0, nil)
		s.end(false)
		return nil
	}
	s.shut = guestShutBoth
	s.send(guestOpShutdown, guestShutBoth, nil)
	return nil
}

// abort is a process that the guest kills at the worst moment.
func (s *guestSock) abort() {
	s.k.mu.Lock()
	defer s.k.mu.Unlock()
	if !s.done {
		s.send(guestOpRst, 0, nil)
		s.end(true)
		s.k.changed.Broadcast()
	}
}
