// Package logfile keeps a log on disk: lines of JSON in numbered files of
// bounded size, of which the newest are kept.
//
//	console.000007.log
//	console.000008.log    the one that is written to
//
// A line is one entry, as an object with these members, and nothing else:
//
//	t   when the host got it, RFC 3339 with nanoseconds, UTC
//	s   its source: "console", "stdout", "stderr", or "notice" for what the
//	    log has to say about itself
//	id  of the command that wrote it, if one did
//	d   what was written: a line with its end, or a piece of one
//	e   "base64" if d is in base64, because it is not UTF-8, or is mostly
//	    control characters
//
//	{"t":"2026-05-04T10:11:12.131415161Z","s":"stdout","id":"AB12","d":"hello\n"}
//
// The d of one source and id, put together, are the bytes that were written.
// A line is at most MaxLine bytes; one that is none of this is damage, of a
// host that lost power or a disk that is broken, and hides no other.
//
// A file that is full is never written to, nor renamed, again: the next number
// is. So a [Reader] finds its way through any number of them while a [Writer]
// goes on, and a crash at any moment leaves nothing to be put right but a last
// line that has no end.
//
// The Writer never fails and never waits for anything but the file system:
// what cannot be written is counted, and said, in a notice, as soon as
// something can.
package logfile

// Bounds of a log's lines.
const (
	// MaxPiece is how much of what was written goes into one line.
	MaxPiece = 16 << 10
	// MaxLine leaves room for JSON's escapes: at most three bytes for one, on
	// the whole.
	MaxLine = 3*MaxPiece + 1024
)

// The sources of entries.
const (
	Console = "console"
	Stdout  = "stdout"
	Stderr  = "stderr"
	Notice  = "notice"
)

// Limits say how much of a log is kept: a file of at most so many bytes and so
// many full ones before it.
type Limits struct {
	FileBytes int64
	Backups   int
}
