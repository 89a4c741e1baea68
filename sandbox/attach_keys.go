package sandbox

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

const defaultDetachKeys = "ctrl-p,ctrl-q"

// keyPause is after which the keys of a sequence do not belong together.
const keyPause = time.Second

// parseDetachKeys turns names into what a terminal sends for them.
func parseDetachKeys(names string) ([]byte, error) {
	switch names {
	case "":
		names = defaultDetachKeys
	case "none":
		return nil, nil
	}
	var keys []byte
	for name := range strings.SplitSeq(names, ",") {
		key, err := parseKey(name)
		if err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	if len(keys) > 16 {
		return nil, errors.New("more than 16 keys")
	}
	return keys, nil
}

func parseKey(name string) (byte, error) {
	if len(name) == 1 && name[0] > ' ' && name[0] < 0x7f {
		return name[0], nil
	}
	if c, ok := strings.CutPrefix(strings.ToLower(name), "ctrl-"); ok && len(c) == 1 {
		switch {
		case c[0] >= 'a' && c[0] <= 'z':
			return c[0] - 'a' + 1, nil
		case strings.IndexByte(`@[\]^_`, c[0]) >= 0:
			return c[0] & 0x1f, nil
		}
	}
	return 0, fmt.Errorf("%q is no key: want a character, or ctrl- and one of a to z, @, [, \\, ], ^ and _", name)
}

// keyScanner finds a sequence of keys in what is typed.
type keyScanner struct {
	keys []byte
	held int // so many of them were typed and not passed on
}

// scan returns what to pass on of b and of what was held back before, and
// whether the sequence is complete: then the rest of b is nobody's.
func (s *keyScanner) scan(b []byte) (pass []byte, complete bool) {
	if len(s.keys) == 0 {
		return b, false
	}
	all := append(append([]byte(nil), s.keys[:s.held]...), b...)
	if i := bytes.Index(all, s.keys); i >= 0 {
		s.held = 0
		return all[:i], true
	}
	// The longest end of it that begins the sequence waits for more.
	for n := min(len(all), len(s.keys)-1); n >= 0; n-- {
		if bytes.HasPrefix(s.keys, all[len(all)-n:]) {
			s.held = n
			break
		}
	}
	return all[:len(all)-s.held], false
}

// flush returns what was held back.
func (s *keyScanner) flush() []byte {
	b := s.keys[:s.held]
	s.held = 0
	return b
}

// maxTyped bounds what was typed and not taken by the command, beyond the
// protocol's own window. Nobody types so much: a paste, or a program that writes
// to Stdin, that is so far ahead waits, and with it the keys that come after.
const maxTyped = 1 << 20

// typedGrace is how long what was typed before the keys may take to be sent.
const typedGrace = 500 * time.Millisecond

// typed is what a Read of stdin gave.
type typed struct {
	b   []byte
	err error
}

func (t *Terminal) readStdin(stdin io.Reader, chunks chan<- typed) {
	buf := make([]byte, 32<<10)
	for {
		n, err := stdin.Read(buf)
		select {
		case chunks <- typed{bytes.Clone(buf[:n]), err}:
		case <-t.exec.Done():
			return
		}
		if err != nil {
			return
		}
	}
}

// typeStdin types what stdin gives until the terminal has ended or is left. The
// keys are looked for as soon as they are typed: a command, or a guest, that
// takes nothing must not keep its caller.
func (t *Terminal) typeStdin(stdin io.Reader, keys []byte) {
	chunks := make(chan typed)
	go t.readStdin(stdin, chunks)
	writes, written := make(chan []byte), make(chan struct{})
	go func() {
		defer close(written)
		for b := range writes {
			// If it fails the terminal has ended, or was lost: Wait tells.
			_, _ = t.exec.Write(b)
		}
	}()
	finish := sync.OnceFunc(func() { close(writes) })
	defer finish()

	var (
		s     = keyScanner{keys: keys}
		queue []byte
		end   func()           // what comes after the queue; nil while there is more to read
		pause <-chan time.Time // of the keys
		grace <-chan time.Time // of the queue
	)
	leave := func() {
		end, grace, pause = func() { _ = t.Detach() }, time.After(typedGrace), nil
	}
	for {
		in, out := chunks, writes
		if end != nil || len(queue) >= maxTyped {
			in = nil
		}
		if len(queue) == 0 {
			out = nil
			if end != nil {
				finish()
			}
		}
		next := queue[:min(len(queue), proto.MaxChunk)]
		select {
		case c := <-in:
			b, complete := s.scan(c.b)
			queue = append(queue, b...)
			if pause = nil; s.held > 0 {
				pause = time.After(keyPause)
			}
			switch {
			case complete:
				leave()
			case c.err == nil:
			case errors.Is(c.err, io.EOF):
				queue = append(queue, s.flush()...)
				pause, end = nil, func() { _ = t.exec.CloseStdin() }
			default:
				t.mu.Lock()
				t.stdinErr = c.err
				t.mu.Unlock()
				leave()
			}
		case out <- next:
			queue = queue[len(next):]
		case <-pause:
			queue = append(queue, s.flush()...)
		case <-written:
			end()
			return
		case <-grace:
			end()
			return
		case <-t.exec.Done():
			return
		}
	}
}
