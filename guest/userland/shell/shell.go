package shell

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	"mvdan.cc/sh/v3/expand"
	"mvdan.cc/sh/v3/syntax"
)

// Shell is the state of one shell process.
type Shell struct {
	name   string   // $0
	params []string // $1…
	pid    int      // $$: a subshell keeps its ancestor's
	opts   options

	vars    map[string]expand.Variable
	frames  []frame // one per function call
	funcs   map[string]*function
	aliases map[string]string

	fds     fdTable
	procFDs []int // table entries made by process substitution in this statement

	status      int // $?
	substStatus int // of the last command substitution in this expansion
	lastBG      int // $!
	seed        uint32

	flow      flow
	flowN     int  // loops still to leave for flowBreak and flowContinue
	loops     int  // enclosing loops
	sources   int  // enclosing dot scripts
	noErrExit int  // >0 in a condition, where errexit does not apply
	lastOnly  bool // the statement being run is the last this process runs

	procs   map[int]*process // children not yet reported by wait
	jobs    []*job
	traps   map[string]string // by name, "EXIT" included
	sigs    chan os.Signal
	inTrap  bool
	getopts int // offset within the current option word

	interactive bool
	jobControl  bool // interactive, and owner of the terminal tty
	tty         int
	subshell    bool

	cfg *expand.Config
}

// flow says why statements are being skipped.
type flow uint8

const (
	flowNone flow = iota
	flowBreak
	flowContinue
	flowReturn
	flowExit
	flowAbort // interactive: back to the prompt
)

// options are those of set.
type options struct {
	errexit, nounset, xtrace, noglob, allexport, noexec, noclobber, verbose, monitor, pipefail bool
}

// byLetter returns the option that set and sh know by a letter.
func (o *options) byLetter(c byte) *bool {
	switch c {
	case 'e':
		return &o.errexit
	case 'u':
		return &o.nounset
	case 'x':
		return &o.xtrace
	case 'f':
		return &o.noglob
	case 'a':
		return &o.allexport
	case 'n':
		return &o.noexec
	case 'C':
		return &o.noclobber
	case 'v':
		return &o.verbose
	case 'm':
		return &o.monitor
	}
	return nil
}

// optionNames lists the long names in the order in which set -o prints them.
func optionNames() []string {
	return []string{"allexport", "errexit", "monitor", "noclobber", "noexec", "noglob", "nounset", "pipefail", "verbose", "xtrace"}
}

func (o *options) byName(name string) *bool {
	if name == "pipefail" {
		return &o.pipefail
	}
	letters := map[string]byte{"allexport": 'a', "errexit": 'e', "monitor": 'm', "noclobber": 'C',
		"noexec": 'n', "noglob": 'f', "nounset": 'u', "verbose": 'v', "xtrace": 'x'}
	return o.byLetter(letters[name])
}

func (o *options) letters() string {
	var b strings.Builder
	for _, c := range []byte("aefmnuvxC") {
		if *o.byLetter(c) {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// newShell returns a shell with the process's environment and descriptors.
func newShell(name string) *Shell {
	s := &Shell{
		name:  name,
		pid:   os.Getpid(),
		vars:  make(map[string]expand.Variable, 32),
		funcs: make(map[string]*function),
		procs: make(map[int]*process),
		traps: make(map[string]string),
		fds:   inheritedFDs(),
		tty:   -1,
	}
	for _, kv := range os.Environ() {
		if k, v, ok := strings.Cut(kv, "="); ok && syntax.ValidName(k) {
			s.vars[k] = expand.Variable{Set: true, Exported: true, Kind: expand.String, Str: v}
		}
	}
	s.setDefault("IFS", " \t\n")
	s.setDefault("OPTIND", "1")
	s.setDefault("PS4", "+ ")
	if !s.vars["PATH"].Set {
		s.setDefault("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	}
	s.vars["PPID"] = expand.Variable{Set: true, ReadOnly: true, Kind: expand.String, Str: strconv.Itoa(os.Getppid())}
	s.initPWD()
	s.initExpand()
	return s
}

func (s *Shell) setDefault(name, value string) {
	if name == "IFS" || name == "OPTIND" || !s.vars[name].Set { // never from the environment
		s.vars[name] = expand.Variable{Set: true, Kind: expand.String, Str: value}
	}
}

// initPWD keeps an inherited logical $PWD if it names the working directory.
func (s *Shell) initPWD() {
	wd := s.vars["PWD"].Str
	var a, b unix.Stat_t
	if !strings.HasPrefix(wd, "/") || unix.Stat(wd, &a) != nil || unix.Stat(".", &b) != nil || a.Dev != b.Dev || a.Ino != b.Ino {
		var err error
		if wd, err = unix.Getwd(); err != nil {
			return
		}
	}
	v := s.vars["PWD"]
	v.Set, v.Kind, v.Str = true, expand.String, wd
	s.vars["PWD"] = v
}

// errorf prints a message in the form "sh: what: why" on standard error.
func (s *Shell) errorf(format string, args ...any) {
	name := s.name
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		name = name[i+1:]
	}
	s.write(2, name+": "+fmt.Sprintf(format, args...)+"\n")
}

// fail prints a message and sets the status.
func (s *Shell) fail(status int, format string, args ...any) int {
	s.errorf(format, args...)
	return status
}

// write writes to a shell descriptor and reports whether all went out. A
// closed pipe ends a shell that is not interactive, as SIGPIPE would: its
// status is the one that a parent shell reports for that signal.
func (s *Shell) write(fd int, text string) bool {
	f := s.fds[fd]
	if f == nil {
		return false
	}
	err := writeAll(f.fd, text)
	if err == unix.EPIPE && !s.interactive {
		os.Exit(128 + int(unix.SIGPIPE))
	}
	return err == nil
}

func writeAll(fd int, text string) error {
	for len(text) > 0 {
		n, err := unix.Write(fd, []byte(text[:min(len(text), 64<<10)]))
		switch err {
		case nil:
			text = text[n:]
		case unix.EINTR:
		case unix.EAGAIN:
			unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, -1)
		default:
			return err
		}
	}
	return nil
}
