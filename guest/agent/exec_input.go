package agent

import (
	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

// receive dispatches the caller's messages. It never waits for the command,
// so the connection's end is always noticed.
func (x *execution) receive() {
	defer x.caught("input")
	defer func() {
		if !x.inputEOF {
			close(x.input)
		}
	}()
	for {
		m, err := x.stream.Recv()
		if err != nil {
			return
		}
		if err := x.dispatch(m); err != nil {
			x.agent.log.Warn("exec killed: protocol violation", "exec", x.start.GetId(), "err", err)
			x.kill()
			x.abort()
			return
		}
	}
}

func (x *execution) dispatch(m *proto.ExecInput) error {
	switch m := m.GetInput().(type) {
	case *proto.ExecInput_Stdin:
		if len(m.Stdin) > proto.MaxChunk {
			return errString("stdin message too long")
		}
		if x.inputEOF {
			return errString("stdin after its end")
		}
		select {
		case x.input <- m.Stdin:
			return nil
		default:
			return errString("more stdin than there was credit for")
		}
	case *proto.ExecInput_StdinEof:
		if !x.inputEOF {
			x.inputEOF = true
			close(x.input)
		}
		return nil
	case *proto.ExecInput_StdoutCredit:
		return x.stdout.addCredit(m.StdoutCredit)
	case *proto.ExecInput_StderrCredit:
		if x.stderr == nil {
			return errString("credit for a stream that is not there")
		}
		return x.stderr.addCredit(m.StderrCredit)
	case *proto.ExecInput_StdoutClosed:
		x.stdout.hangUp()
		return nil
	case *proto.ExecInput_StderrClosed:
		if x.stderr != nil {
			x.stderr.hangUp()
		}
		return nil
	}
	return errString("unexpected message")
}

// writeStdin feeds the command and returns credit for what it has taken. The
// command may close its stdin at any time: the caller is told once.
func (x *execution) writeStdin() {
	defer x.caught("stdin")
	var consumed uint32
	failed := x.stdin == nil
	for {
		var b []byte
		var more bool
		select {
		case b, more = <-x.input:
		case <-x.done:
			return
		}
		if !more {
			break
		}
		if !failed {
			if _, err := x.stdin.Write(b); err != nil {
				failed = true
				x.stdinFailed(err)
			}
		}
		if consumed++; consumed == proto.Window/2 {
			_ = x.stream.Send(&proto.ExecOutput{Output: &proto.ExecOutput_StdinCredit{StdinCredit: consumed}})
			consumed = 0
		}
	}
	switch {
	case x.stdin == nil:
	case x.stdin == x.master:
		_, _ = x.master.Write([]byte{4}) // Ctrl-D
	default:
		x.stdin.Close()
	}
}

func (x *execution) stdinFailed(err error) {
	select {
	case <-x.done:
		return // the command has ended: that is what the caller is told
	default:
	}
	errno := fail(0, err, "").errno
	if errno == 0 {
		errno = unix.EPIPE
	}
	_ = x.stream.Send(&proto.ExecOutput{Output: &proto.ExecOutput_StdinError{StdinError: &proto.StdinError{Errno: int32(errno)}}})
}
