package agent

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

// typingGrace is how long a command may take for what its caller typed before
// it left.
const typingGrace = time.Second

// session is a caller's time with a kept command. The handler of its Exec call
// sends everything; a goroutine each receives, and types what was received.
type session struct {
	stream proto.Agent_ExecServer
	queue  chan []byte   // output, at most a window
	credit chan struct{} // a token per message that may be queued
	ready  chan struct{} // closed when what comes before the queue was sent
	gone   chan struct{} // closed when it does not have the terminal any more
	left   chan struct{} // closed when its caller wants to go, or is gone
	typed  chan struct{} // closed when nothing more is typed

	input    chan []byte // a window and the end on top; closed at its end
	inputEOF bool        // by the receiving goroutine only

	// Credit for input goes through the handler: a caller that takes nothing
	// must not hold up what types for it.
	owed    atomic.Uint32
	nowOwed chan struct{} // a token if there may be some

	taken    bool   // set before gone
	over     bool   // set before gone: the command had ended by then
	farewell []byte // set before gone, or the command's end
}

func newSession(stream proto.Agent_ExecServer) *session {
	s := &session{
		stream: stream,
		queue:  make(chan []byte, proto.Window),
		credit: make(chan struct{}, proto.Window),
		ready:  make(chan struct{}),
		gone:   make(chan struct{}),
		left:   make(chan struct{}),
		typed:  make(chan struct{}),
		input:  make(chan []byte, proto.Window+1),

		nowOwed: make(chan struct{}, 1),
	}
	for range proto.Window - 1 { // one is the farewell's
		s.credit <- struct{}{}
	}
	return s
}

// mayQueue waits until one message may be queued; false if the session is over.
func (s *session) mayQueue() bool {
	select {
	case <-s.ready:
	case <-s.gone:
		return false
	}
	select {
	case <-s.credit:
		return true
	case <-s.gone:
		return false
	}
}

// attach is an Exec call about a command that runs already, or has ended.
func (a *Agent) attach(ctx context.Context, stream proto.Agent_ExecServer, r *proto.AttachStart) error {
	k, err := a.kept(r)
	if err != nil {
		return sendFailure(stream, err)
	}
	s := newSession(stream)
	replay := k.attach(s, r.GetRows(), r.GetCols())
	return k.serve(ctx, s, replay)
}

// serve is the session: what is first is sent, then what is queued, then how it
// ended.
func (k *kept) serve(ctx context.Context, s *session, first []byte) error {
	defer k.leave(s)
	go k.receive(s)
	go k.typeInput(s)
	if err := s.stream.Send(&proto.ExecOutput{Output: &proto.ExecOutput_Started{Started: &proto.ExecStarted{Pid: int32(k.x.pid)}}}); err != nil {
		return err
	}
	for len(first) > 0 {
		select {
		case <-s.credit:
		case <-s.nowOwed:
			if err := s.sendOwed(); err != nil {
				return err
			}
			continue
		case <-s.left:
			first = nil
			continue
		case <-s.gone:
			first = nil
			continue
		}
		n := min(len(first), proto.MaxChunk)
		if err := s.send(first[:n]); err != nil {
			return err
		}
		first = first[n:]
	}
	close(s.ready)
	for {
		select {
		case b := <-s.queue:
			if err := s.send(b); err != nil {
				return err
			}
		case <-s.nowOwed:
			if err := s.sendOwed(); err != nil {
				return err
			}
		case <-s.gone:
			if s.over { // both are ready: it had the terminal until the end
				return k.sayExit(s)
			}
			return s.sayDetached()
		case <-s.left:
			// Keys that came before the wish to leave are the command's.
			grace := time.NewTimer(typingGrace)
			select {
			case <-s.typed:
			case <-grace.C:
			case <-s.gone:
			}
			grace.Stop()
			k.leave(s)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return s.sayDetached()
		case <-k.ended:
			return k.sayExit(s)
		}
	}
}

// drain sends what is queued.
func (s *session) drain() error {
	for {
		select {
		case b := <-s.queue:
			if err := s.send(b); err != nil {
				return err
			}
		default:
			return nil
		}
	}
}

func (s *session) send(b []byte) error {
	return s.stream.Send(&proto.ExecOutput{Output: &proto.ExecOutput_Stdout{Stdout: b}})
}

// owe returns credit for so many messages. It never waits.
func (s *session) owe(n uint32) {
	s.owed.Add(n)
	select {
	case s.nowOwed <- struct{}{}:
	default:
	}
}

func (s *session) sendOwed() error {
	n := s.owed.Swap(0)
	if n == 0 {
		return nil
	}
	return s.stream.Send(&proto.ExecOutput{Output: &proto.ExecOutput_StdinCredit{StdinCredit: n}})
}

func (s *session) sayDetached() error {
	err := s.drain()
	if err == nil && len(s.farewell) > 0 {
		err = s.send(s.farewell)
	}
	if err != nil {
		return err
	}
	return s.stream.Send(&proto.ExecOutput{Output: &proto.ExecOutput_Detached{Detached: &proto.ExecDetached{Taken: s.taken}}})
}

func (k *kept) sayExit(s *session) error {
	err := s.drain()
	if err == nil && len(s.farewell) > 0 {
		err = s.send(s.farewell)
	}
	if err != nil {
		return err
	}
	return s.stream.Send(&proto.ExecOutput{Output: &proto.ExecOutput_Exit{Exit: k.exit}})
}

// receive dispatches the caller's messages until the call's end.
func (k *kept) receive(s *session) {
	defer k.x.caught("input")
	defer func() {
		if !s.inputEOF {
			close(s.input)
		}
		close(s.left)
	}()
	for {
		m, err := s.stream.Recv()
		if err != nil {
			return
		}
		if stay, err := k.dispatch(s, m); err != nil {
			k.x.agent.log.Warn("caller dismissed: protocol violation", "exec", k.x.start.GetId(), "err", err)
			return
		} else if !stay {
			return
		}
	}
}

func (k *kept) dispatch(s *session, m *proto.ExecInput) (stay bool, err error) {
	switch m := m.GetInput().(type) {
	case *proto.ExecInput_Stdin:
		if len(m.Stdin) > proto.MaxChunk {
			return false, errString("stdin message too long")
		}
		if s.inputEOF {
			return false, errString("stdin after its end")
		}
		if len(s.input) >= proto.Window {
			return false, errString("more stdin than there was credit for")
		}
		s.input <- m.Stdin
		return true, nil
	case *proto.ExecInput_StdinEof:
		if !s.inputEOF {
			s.inputEOF = true
			s.input <- []byte{4} // Ctrl-D
			close(s.input)
		}
		return true, nil
	case *proto.ExecInput_StdoutCredit:
		for range min(m.StdoutCredit, proto.Window+1) {
			select {
			case s.credit <- struct{}{}:
			default:
				return false, errString("more credit than messages were sent")
			}
		}
		return true, nil
	case *proto.ExecInput_StderrCredit:
		return false, errString("credit for a stream that is not there")
	case *proto.ExecInput_StdoutClosed, *proto.ExecInput_Detach:
		return false, nil
	case *proto.ExecInput_StderrClosed:
		return true, nil
	}
	return false, errString("unexpected message")
}

// typeInput types what the caller sends, and returns credit for it, until the
// session's or the command's end.
func (k *kept) typeInput(s *session) {
	defer k.x.caught("typing")
	defer close(s.typed)
	var consumed uint32
	for {
		var b []byte
		var more bool
		select {
		case b, more = <-s.input:
		case <-s.gone:
			return
		case <-k.x.done:
			return
		}
		if !more {
			return
		}
		if k.x.master != nil {
			// It fails when the terminal is gone, or given to another.
			_, _ = k.x.master.Write(b)
		}
		if consumed++; consumed == proto.Window/2 {
			s.owe(consumed)
			consumed = 0
		}
	}
}
