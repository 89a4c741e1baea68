package shell

import (
	"fmt"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
	"mvdan.cc/sh/v3/syntax"
)

type syntaxStmt = syntax.Stmt

// signalName returns the name without SIG of a signal given by name or number;
// "EXIT" stands for 0.
func signalName(spec string) (string, bool) {
	if n, err := strconv.Atoi(spec); err == nil {
		if n == 0 {
			return "EXIT", true
		}
		name := strings.TrimPrefix(unix.SignalName(syscall.Signal(n)), "SIG")
		return name, name != ""
	}
	name := strings.TrimPrefix(strings.ToUpper(spec), "SIG")
	if name == "EXIT" || name == "ERR" {
		return name, true
	}
	return name, unix.SignalNum("SIG"+name) != 0
}

func signalNumber(name string) syscall.Signal { return unix.SignalNum("SIG" + name) }

// setTrap installs an action: "" ignores, "-" is the default.
func (s *Shell) setTrap(name, action string) {
	if action == "-" {
		delete(s.traps, name)
	} else {
		s.traps[name] = action
	}
	s.applyTrap(name)
}

// applyTrap makes the process treat a signal as its trap says.
func (s *Shell) applyTrap(name string) {
	sig := signalNumber(name)
	if sig == 0 {
		return
	}
	action, ok := s.traps[name]
	switch {
	case ok && action == "":
		signal.Ignore(sig)
	case ok:
		signal.Notify(s.signals(), sig)
	case s.interactive && (name == "INT" || name == "QUIT" || name == "TERM" || name == "TSTP"):
		signal.Reset(sig)
		signal.Notify(s.signals(), sig) // caught and dropped: see runTraps
	default:
		signal.Reset(sig)
	}
}

func (s *Shell) signals() chan os.Signal {
	if s.sigs == nil {
		s.sigs = make(chan os.Signal, 64)
	}
	return s.sigs
}

// resetSignals prepares for an exec: caught signals get their default action
// from the kernel, but an ignored one must stay ignored and this state is what
// the runtime has set already.
func (s *Shell) resetSignals() {
	for name, action := range s.traps {
		if sig := signalNumber(name); sig != 0 && action != "" {
			signal.Reset(sig)
		}
	}
}

// runTraps runs the actions of the signals that arrived.
func (s *Shell) runTraps() {
	if s.sigs == nil || s.inTrap {
		return
	}
	for {
		select {
		case sig := <-s.sigs:
			s.runTrap(sig)
		default:
			return
		}
	}
}

// runTrap runs one signal's action and keeps $?.
func (s *Shell) runTrap(sig os.Signal) {
	sysSig, ok := sig.(syscall.Signal)
	if !ok {
		return
	}
	name := strings.TrimPrefix(unix.SignalName(sysSig), "SIG")
	action, ok := s.traps[name]
	if !ok {
		if name == "INT" && s.interactive {
			s.flow = flowAbort
			s.status = 130
		}
		return
	}
	if action != "" {
		s.trapAction(name, action)
	}
}

func (s *Shell) trapAction(name, action string) {
	status, flow, n := s.status, s.flow, s.flowN
	s.inTrap, s.flow = true, flowNone
	s.runText(action, name+" trap")
	s.inTrap = false
	if s.flow == flowExit || s.flow == flowReturn {
		return // the action's own exit or return counts
	}
	s.status, s.flow, s.flowN = status, flow, n
}

// exit runs the EXIT trap and returns the process's exit status.
func (s *Shell) exit() int {
	if action, ok := s.traps["EXIT"]; ok && action != "" {
		delete(s.traps, "EXIT")
		status := s.status
		s.flow = flowNone
		s.runText(action, "EXIT trap")
		if s.flow != flowExit {
			s.status = status
		}
	}
	return s.status
}

func trapBuiltin(s *Shell, args []string) int {
	args = args[1:]
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 || args[0] == "-p" {
		var b strings.Builder
		for _, name := range slices.Sorted(maps.Keys(s.traps)) {
			fmt.Fprintf(&b, "trap -- '%s' %s\n", strings.ReplaceAll(s.traps[name], "'", `'\''`), name)
		}
		s.write(1, b.String())
		return 0
	}
	if args[0] == "-l" {
		return killBuiltin(s, []string{"kill", "-l"})
	}
	action := args[0]
	specs := args[1:]
	if _, err := strconv.Atoi(action); err == nil || len(args) == 1 {
		action, specs = "-", args // only conditions: back to the default
	}
	status := 0
	for _, spec := range specs {
		name, ok := signalName(spec)
		if !ok {
			status = s.fail(1, "trap: %s: bad trap", spec)
			continue
		}
		s.setTrap(name, action)
	}
	return status
}
