package sandbox

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
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

// typeStdin types what stdin gives until the terminal has ended or is left.
func (t *Terminal) typeStdin(stdin io.Reader, keys []byte) {
	type typed struct {
		b   []byte
		err error
	}
	chunks := make(chan typed)
	go func() {
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
	}()
	s := keyScanner{keys: keys}
	var pause <-chan time.Time
	// A failed write means that the terminal has ended, or was lost: Wait tells.
	pass := func(b []byte) { _, _ = t.exec.Write(b) }
	for {
		select {
		case c := <-chunks:
			b, leave := s.scan(c.b)
			pass(b)
			if leave {
				_ = t.Detach()
				return
			}
			if pause = nil; s.held > 0 {
				pause = time.After(keyPause)
			}
			switch {
			case c.err == nil:
			case errors.Is(c.err, io.EOF):
				pass(s.flush())
				_ = t.exec.CloseStdin()
				return
			default:
				t.mu.Lock()
				t.stdinErr = c.err
				t.mu.Unlock()
				_ = t.Detach()
				return
			}
		case <-pause:
			pass(s.flush())
		case <-t.exec.Done():
			return
		}
	}
}
