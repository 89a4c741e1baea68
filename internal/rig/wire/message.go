package wire

// Version is the protocol's version. A warm rig of another version is not used.
const Version = 1

// Hello is the host's first message to L1, and a client's to a warm rig.
type Hello struct {
	Version  int
	UnixNano int64 // the host's wall clock
	Hostname string
	Shares   []Share
}

// Share is a directory that L1 may write, attached under a 9p mount tag.
type Share struct {
	Tag  string
	Path []byte
}

// Ready is L1's answer to Hello: the root is mounted, commands may start. The
// times are L1's own, in nanoseconds since its kernel started.
type Ready struct {
	Version int
	Init    int64 // init's first instruction
	Port    int64 // the port was open and Hello read
	Root    int64 // the host's root was mounted
	Ready   int64
}

// Spec describes a command. Strings are bytes, because arguments and
// environments need not be UTF-8.
type Spec struct {
	Args [][]byte
	Env  [][]byte
	Dir  []byte
	// TTY gives the command a pseudo-terminal of Rows and Cols; its output
	// is then all on Stdout.
	TTY        bool
	Rows, Cols uint16
	// UnixNano is the host's wall clock.
	UnixNano int64
	// Refresh drops what L1 remembers of the host's files first.
	Refresh bool
}

// Started tells that the command runs.
type Started struct {
	PID int
	Now int64 // nanoseconds since L1's kernel started
}

// Exit tells how a command ended. Exactly one of the three holds: it could not
// be started (Error set; Code is 126 or 127 as in a shell), it died of a signal,
// or it exited with Code.
type Exit struct {
	Code   int
	Signal int
	Error  string
}

// Status describes a warm rig.
type Status struct {
	Version  int
	PID      int
	CPUs     int
	Memory   int // MiB
	Kernel   string
	Shares   []string
	Running  int
	Commands int
	Uptime   int64 // nanoseconds
	Idle     int64 // nanoseconds after which it ends unused
}

// Bytes converts strings for a Spec.
func Bytes(s ...string) [][]byte {
	b := make([][]byte, len(s))
	for i := range s {
		b[i] = []byte(s[i])
	}
	return b
}

// Strings converts back.
func Strings(b [][]byte) []string {
	s := make([]string, len(b))
	for i := range b {
		s[i] = string(b[i])
	}
	return s
}
