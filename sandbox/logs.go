package sandbox

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"iter"
	"os"
	"slices"
	"time"

	"github.com/sandpit-vm/sandpit/internal/logfile"
	"github.com/sandpit-vm/sandpit/internal/state"
)

// LogSource is who wrote an entry of a sandbox's log.
type LogSource string

// The sources of log entries.
const (
	// LogConsole is the guest's serial console: what its kernel prints. The
	// newest 1 MiB is kept, and up to 1 MiB before it.
	LogConsole LogSource = logfile.Console
	// LogStdout and LogStderr are what commands wrote, if Config.CaptureOutput
	// is set. The newest 10 MiB are kept, and up to 30 MiB before them.
	LogStdout LogSource = logfile.Stdout
	LogStderr LogSource = logfile.Stderr
	// LogNotice says what is missing in the log, and why: the host's disk was
	// full, the host lost power, or the reader was slower than the log is
	// large. Notices come whatever LogOptions.Sources asks for.
	LogNotice LogSource = logfile.Notice
)

// LogOptions choose entries of a log. The zero value is all there is now.
type LogOptions struct {
	// Sources are the sources wanted. Default all.
	Sources []LogSource
	// Tail is how many of the last entries there are wanted; those that Follow
	// waits for come on top. 0 is all, less than 0 none.
	Tail int
	// Since and Until bound the entries' times: not before Since, not after
	// Until. Zero: no bound.
	Since, Until time.Time
	// Follow waits for more, until the sandbox ends or the time is Until.
	Follow bool
}

// LogEntry is a line of a log, or a piece of one: of a line that was written in
// pieces, or is longer than 16 KiB. The Data of one Source and Exec, put
// together, are the bytes that were written; a line's end is part of it.
//
// The guest wrote them: they are not to be sent to a terminal as they are.
type LogEntry struct {
	Time   time.Time // when the host got it
	Source LogSource
	Exec   string // the ID of the command, see [Cmd.ID]; "" if it was none
	Data   []byte
}

// testOutputFileBytes, if not 0, is a test's: the size of a file of the log of
// output.
var testOutputFileBytes int64

// logPoll is how soon Follow sees what is new.
const logPoll = 50 * time.Millisecond

// Logs reads the sandbox's logs, in order of time, while it runs and after it
// has ended, with what earlier runs of it left. It reads the files itself: the
// sandbox need not answer. The end of ctx is an error, as is a file that cannot
// be read; where a file is merely damaged, a LogNotice says so. The logs of an
// ephemeral sandbox go with it.
func (s *Sandbox) Logs(ctx context.Context, o LogOptions) iter.Seq2[LogEntry, error] {
	return readLogs(ctx, s.dir, o)
}

// Logs is what [Sandbox.Logs] says.
func (h *Handle) Logs(ctx context.Context, o LogOptions) iter.Seq2[LogEntry, error] {
	return readLogs(ctx, h.dir, o)
}

func readLogs(ctx context.Context, dir *state.Dir, o LogOptions) iter.Seq2[LogEntry, error] {
	return func(yield func(LogEntry, error) bool) {
		if err := o.check(); err != nil {
			yield(LogEntry{}, err)
			return
		}
		root, err := os.OpenRoot(dir.Path)
		if errors.Is(err, fs.ErrNotExist) {
			err = ErrNotFound
		}
		if err != nil {
			yield(LogEntry{}, &Error{dir.Name, "logs", err})
			return
		}
		defer root.Close()
		l := newLogMerge(root, &o)
		defer l.close()
		if err := l.run(ctx, dir, yield); err != nil {
			yield(LogEntry{}, &Error{dir.Name, "logs", err})
		}
	}
}

func (o *LogOptions) check() error {
	var bad ConfigError
	for _, s := range o.Sources {
		switch s {
		case LogConsole, LogStdout, LogStderr, LogNotice:
		default:
			bad.add("Sources", "%q: want %s, %s, %s or %s", s, LogConsole, LogStdout, LogStderr, LogNotice)
		}
	}
	if !o.Since.IsZero() && !o.Until.IsZero() && o.Until.Before(o.Since) {
		bad.add("Until", "%v is before Since, %v", o.Until, o.Since)
	}
	return bad.orNil()
}

// wants tells whether an entry was asked for.
func (o *LogOptions) wants(e *logfile.Entry) bool {
	if !o.Since.IsZero() && e.Time.Before(o.Since) || !o.Until.IsZero() && e.Time.After(o.Until) {
		return false
	}
	return e.Source == logfile.Notice || len(o.Sources) == 0 || slices.Contains(o.Sources, LogSource(e.Source))
}

// logMerge reads a sandbox's logs as one.
type logMerge struct {
	o       *LogOptions
	readers []*logReader
}

// logReader is one log and the entry of it that comes next.
type logReader struct {
	*logfile.Reader
	ready []logfile.Entry
}

func newLogMerge(root *os.Root, o *LogOptions) *logMerge {
	l := &logMerge{o: o}
	add := func(name string, sources ...LogSource) {
		if len(o.Sources) == 0 || slices.ContainsFunc(sources, func(s LogSource) bool { return slices.Contains(o.Sources, s) }) {
			l.readers = append(l.readers, &logReader{Reader: logfile.NewReader(root, name)})
		}
	}
	add(state.ConsoleLog, LogConsole, LogNotice)
	add(state.OutputLog, LogStdout, LogStderr, LogNotice)
	return l
}

func (l *logMerge) close() {
	for _, r := range l.readers {
		r.Close()
	}
}

// run reads what there is and, if that is asked for, what comes, until yield
// has had enough.
func (l *logMerge) run(ctx context.Context, dir *state.Dir, yield func(LogEntry, error) bool) error {
	if l.o.Tail != 0 {
		if err := l.tail(); err != nil {
			return err
		}
	}
	for {
		// Asked before the reading: what a sandbox wrote before its end is there
		// after it.
		last := !l.o.Follow || !l.o.Until.IsZero() && time.Now().After(l.o.Until) || !holds(dir)
		for {
			if err := ctx.Err(); err != nil {
				return err
			}
			e, err := l.next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return err
			}
			if l.o.wants(&e) && !yield(LogEntry{e.Time, LogSource(e.Source), e.Exec, e.Data}, nil) {
				return nil
			}
		}
		if last {
			return nil
		}
		if err := sleep(ctx, logPoll); err != nil {
			return err
		}
	}
}

// holds reports whether a monitor holds the sandbox. One that is gone, or
// cannot be asked about, has no more to write.
func holds(dir *state.Dir) bool {
	locked, err := dir.Locked()
	return err == nil && locked
}

// tail makes the last entries of all logs together ready.
func (l *logMerge) tail() error {
	n := max(l.o.Tail, 0)
	total := 0
	for _, r := range l.readers {
		var err error
		if r.ready, err = r.Tail(n, l.o.wants); err != nil {
			return err
		}
		total += len(r.ready)
	}
	for ; total > n; total-- {
		l.first().drop()
	}
	return nil
}

// next is the earliest of the logs' next entries, io.EOF if there are none.
func (l *logMerge) next() (logfile.Entry, error) {
	for _, r := range l.readers {
		if len(r.ready) > 0 {
			continue
		}
		e, err := r.Next()
		if err == nil {
			r.ready = append(r.ready, e)
		} else if !errors.Is(err, io.EOF) {
			return logfile.Entry{}, err
		}
	}
	r := l.first()
	if r == nil {
		return logfile.Entry{}, io.EOF
	}
	return r.drop(), nil
}

// first is the reader with the earliest entry that is ready, nil if none is.
func (l *logMerge) first() *logReader {
	var first *logReader
	for _, r := range l.readers {
		if len(r.ready) > 0 && (first == nil || r.ready[0].Time.Before(first.ready[0].Time)) {
			first = r
		}
	}
	return first
}

func (r *logReader) drop() logfile.Entry {
	e := r.ready[0]
	if r.ready = r.ready[1:]; len(r.ready) == 0 {
		r.ready = nil
	}
	return e
}
