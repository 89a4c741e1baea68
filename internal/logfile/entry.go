package logfile

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"time"
	"unicode/utf8"
)

// Entry is one line of a log.
type Entry struct {
	Time   time.Time
	Source string
	Exec   string
	Data   []byte
}

// line is an Entry in JSON.
type line struct {
	Time     time.Time `json:"t"`
	Source   string    `json:"s"`
	Exec     string    `json:"id,omitempty"`
	Encoding string    `json:"e,omitempty"`
	Data     string    `json:"d"`
}

const encodingBase64 = "base64"

// appendLine appends an entry's line to b.
func appendLine(b *bytes.Buffer, e *Entry) error {
	l := line{Time: e.Time.UTC(), Source: e.Source, Exec: e.Exec}
	if isText(e.Data) {
		l.Data = string(e.Data)
	} else {
		l.Data, l.Encoding = base64.StdEncoding.EncodeToString(e.Data), encodingBase64
	}
	enc := json.NewEncoder(b)
	enc.SetEscapeHTML(false)
	return enc.Encode(&l)
}

// isText tells whether data is UTF-8 that JSON's escapes do not make much
// longer: six bytes stand for one that is a control character. Colours pass.
func isText(data []byte) bool {
	controls := 0
	for _, b := range data {
		if b < ' ' && b != '\n' && b != '\t' && b != '\r' {
			controls++
		}
	}
	return controls <= 16+len(data)/4 && utf8.Valid(data)
}

// parseLine reads an entry from its line, without the line's end.
func parseLine(b []byte) (Entry, error) {
	var l line
	if err := json.Unmarshal(b, &l); err != nil {
		return Entry{}, err
	}
	if l.Time.IsZero() || l.Source == "" {
		return Entry{}, fmt.Errorf("no entry")
	}
	e := Entry{Time: l.Time, Source: l.Source, Exec: l.Exec, Data: []byte(l.Data)}
	switch l.Encoding {
	case "":
	case encodingBase64:
		data, err := base64.StdEncoding.DecodeString(l.Data)
		if err != nil {
			return Entry{}, err
		}
		e.Data = data
	default:
		return Entry{}, fmt.Errorf("unknown encoding %q", l.Encoding)
	}
	return e, nil
}

// damaged is the notice in the place of a line that is no entry. at is the time
// of the entry before.
func damaged(at time.Time, size int64) Entry {
	return notice(at, "%d bytes of the log are damaged", size)
}

func notice(at time.Time, format string, args ...any) Entry {
	return Entry{Time: at, Source: Notice, Data: []byte(fmt.Sprintf(format, args...) + "\n")}
}

// cut takes the first piece off data: to the end of its first line, or
// MaxPiece, but not within a character.
func cut(data []byte) (piece, rest []byte) {
	limit := min(len(data), MaxPiece)
	if i := bytes.IndexByte(data[:limit], '\n'); i >= 0 {
		return data[:i+1], data[i+1:]
	}
	if limit == len(data) {
		return data, nil
	}
	n := limit
	for n > limit-utf8.UTFMax && !utf8.RuneStart(data[n]) {
		n--
	}
	if !utf8.RuneStart(data[n]) {
		n = limit // no UTF-8 at all
	}
	return data[:n], data[n:]
}
