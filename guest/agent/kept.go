package agent

import (
	"context"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

// kept is a command that outlives its callers. What it writes to its terminal
// goes to the screen's memory and, as fast as it takes it, to the one caller
// that has the terminal. While there is none the command never waits.
//
// A goroutine of its own owns the execution (supervise); the handlers of the
// callers' Exec calls come and go (session).
type kept struct {
	x *execution

	// turn is held while the terminal passes from one caller to another.
	turn sync.Mutex

	mu      sync.Mutex
	screen  *screen // nil without a terminal, and after the end
	session *session
	exit    *proto.ExecExit // set before ended
	last    []byte          // the screen after the end
	ended   chan struct{}   // closed when the exit is known
	endedAt time.Time
}

func newKept(x *execution) *kept {
	k := &kept{x: x, ended: make(chan struct{})}
	if x.start.GetTty() {
		rows, cols := terminalSize(x.start.GetRows(), x.start.GetCols())
		k.screen = newScreen(int(rows), int(cols))
	}
	return k
}

// outputs makes the command's outputs go where a kept command's do. They are
// not paced by credit but by show.
func (k *kept) outputs() {
	for _, o := range []*output{k.x.stdout, k.x.stderr} {
		if o == nil {
			continue
		}
		o.send = func(b []byte) error {
			if k.x.master != nil {
				k.show(b)
			}
			return o.addCredit(1)
		}
	}
}

// startKept starts a command that is to be kept, with its first caller.
func (a *Agent) startKept(ctx context.Context, stream proto.Agent_ExecServer, x *execution) error {
	x.kept = newKept(x)
	s := newSession(stream)
	x.kept.session = s
	if err := a.admit(x); err != nil {
		return sendFailure(stream, err)
	}
	end, err := x.launch()
	if err != nil {
		a.release(x)
		return sendFailure(stream, err)
	}
	go x.kept.live(end)
	return x.kept.serve(ctx, s, nil)
}

// live is the life of the command.
func (k *kept) live(end <-chan exited) {
	x, a := k.x, k.x.agent
	defer x.caught("kept command")
	exit, err := x.supervise(end)
	if err != nil { // nothing ends its context
		a.log.Error("kept command", "exec", x.start.GetId(), "err", err)
	}
	x.removeCgroup()
	k.mu.Lock()
	k.exit, k.endedAt = exit, time.Now()
	if k.screen != nil {
		k.last = k.picture((*screen).lastWords)
		if k.session != nil {
			k.session.farewell = k.picture((*screen).farewell)
		}
		k.screen = nil
	}
	k.mu.Unlock()
	a.remember(k)
	close(k.ended)
	a.release(x)
	x.mainEnded(exit)
}

// mainEnded shuts the guest down if this was its main command.
func (x *execution) mainEnded(exit *proto.ExecExit) {
	if !x.start.GetMain() {
		return
	}
	code := uint8(128 + syscall.SIGKILL) // its connection was lost
	if exit != nil {
		code = uint8(exit.GetCode())
	}
	x.agent.log.Info("the main command has ended", "code", code)
	go x.agent.Stop(code, signalGrace)
}

// show takes output: it is part of the screen, and it has been queued for the
// caller that has the terminal if there is one, both or neither at any moment
// when the terminal passes on. It waits as long as that caller is behind.
func (k *kept) show(b []byte) {
	for {
		k.mu.Lock()
		s := k.session
		k.mu.Unlock()
		if s != nil && !s.mayQueue() {
			continue // the terminal has passed on
		}
		if k.showTo(s, b) {
			return
		}
	}
}

// showTo is the moment itself; false if another caller than s has the terminal.
func (k *kept) showTo(s *session, b []byte) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.session != s {
		return false
	}
	k.remember(b)
	if s != nil {
		s.queue <- append([]byte(nil), b...) // there is room: the credit says so
	}
	return true
}

// remember draws on the screen. The caller holds k.mu.
func (k *kept) remember(b []byte) {
	k.picture(func(s *screen) []byte {
		_, _ = s.Write(b)
		return nil
	})
}

// picture does something with the screen. What cannot be drawn, or told, must
// cost neither the command nor those who wait for it. The caller holds k.mu.
func (k *kept) picture(do func(*screen) []byte) (out []byte) {
	defer func() {
		if p := recover(); p != nil {
			k.x.agent.log.Error("panic", "in", "screen", "value", p)
			k.screen, out = newScreen(k.screen.rows, k.screen.cols), nil
		}
	}()
	return do(k.screen)
}

// attach gives the terminal to s. What it returns comes before all other
// output.
func (k *kept) attach(s *session, rows, cols uint32) (replay []byte) {
	k.turn.Lock()
	defer k.turn.Unlock()
	if old := k.current(); old != nil {
		k.dismiss(old, true)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.session = s
	if k.screen == nil {
		return k.last
	}
	if rows == 0 || cols == 0 {
		rows, cols = uint32(k.screen.rows), uint32(k.screen.cols)
	}
	if !k.resizeLocked(rows, cols) && k.screen.alternate() {
		// Programs that fill the screen draw it anew, which mends what the
		// memory did not understand.
		signalForeground(k.x.master, unix.SIGWINCH)
	}
	return k.picture((*screen).replay)
}

func (k *kept) current() *session {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.session
}

// resize sets the size of the terminal and of its picture.
func (k *kept) resize(rows, cols uint32) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := resizeTerminal(k.x.master, rows, cols); err != nil {
		return err
	}
	if k.screen != nil {
		r, c := terminalSize(rows, cols)
		k.screen.resize(int(r), int(c))
	}
	return nil
}

// resizeLocked reports whether the terminal's size has changed. The caller
// holds k.mu.
func (k *kept) resizeLocked(rows, cols uint32) bool {
	if wr, wc, err := sizeOfTerminal(k.x.master); err == nil && wr == rows && wc == cols {
		return false
	}
	if err := resizeTerminal(k.x.master, rows, cols); err != nil {
		return false // it has ended
	}
	k.screen.resize(int(rows), int(cols))
	return true
}

// leave takes the terminal from s if it still has it.
func (k *kept) leave(s *session) {
	k.turn.Lock()
	defer k.turn.Unlock()
	if k.current() == s {
		k.dismiss(s, false)
	}
}

// dismiss takes the terminal from its caller, whose typing ends at once. The
// caller of dismiss holds k.turn.
func (k *kept) dismiss(s *session, taken bool) {
	k.mu.Lock()
	k.session = nil
	s.taken, s.over = taken, !k.endedAt.IsZero()
	if k.screen != nil {
		s.farewell = k.picture((*screen).farewell)
	}
	close(s.gone)
	k.mu.Unlock()
	if m := k.x.master; m != nil {
		_ = m.SetWriteDeadline(time.Unix(1, 0))
		<-s.typed
		_ = m.SetWriteDeadline(time.Time{})
	}
}

// signalForeground signals the terminal's foreground process group.
func signalForeground(master *os.File, sig syscall.Signal) {
	rc, err := master.SyscallConn()
	if err != nil {
		return
	}
	_ = rc.Control(func(fd uintptr) {
		if group, err := unix.IoctlGetInt(int(fd), unix.TIOCGPGRP); err == nil && group > 1 {
			_ = unix.Kill(-group, sig)
		}
	})
}
