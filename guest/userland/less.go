package userland

import (
	"bufio"
	"errors"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// less shows text page by page. Without a terminal it is cat.
func less(c *command) {
	paths, ok := c.parse("eEfFgiIMmnNqrRsSXx:p:", "")
	if !ok {
		return
	}
	if _, err := unix.IoctlGetTermios(1, unix.TCGETS); err != nil {
		c.inputs(paths, func(_ string, r io.Reader) error {
			_, err := io.Copy(c.out, r)
			return err
		})
		return
	}
	if len(paths) == 0 {
		if _, err := unix.IoctlGetTermios(0, unix.TCGETS); err == nil {
			c.usage("file …")
			return
		}
	}
	var text []string
	c.inputs(paths, func(_ string, r io.Reader) error {
		return lines(r, func(line []byte, _ bool) bool {
			text = append(text, strings.Map(func(r rune) rune {
				if r < ' ' && r != '\t' && r != 0x1b {
					return '?'
				}
				return r
			}, string(line)))
			return true
		})
	})
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		c.fail("/dev/tty", err)
		return
	}
	defer tty.Close()
	p := &pager{out: bufio.NewWriter(os.Stdout), keys: bufio.NewReader(tty), text: text}
	if err := p.run(int(tty.Fd())); err != nil && !errors.Is(err, io.EOF) {
		c.errorf("%v", reason(err))
	}
}

// pager is the screen of less.
type pager struct {
	out        *bufio.Writer
	keys       *bufio.Reader
	text       []string
	top        int
	rows, cols int
	pattern    string
}

func (p *pager) run(fd int) error {
	old, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return err
	}
	raw := *old
	raw.Lflag &^= unix.ICANON | unix.ECHO
	raw.Cc[unix.VMIN], raw.Cc[unix.VTIME] = 1, 0
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, &raw); err != nil {
		return err
	}
	defer unix.IoctlSetTermios(fd, unix.TCSETS, old)
	for {
		p.rows, p.cols = 24, 80
		if ws, err := unix.IoctlGetWinsize(fd, unix.TIOCGWINSZ); err == nil && ws.Row > 1 {
			p.rows, p.cols = int(ws.Row), int(ws.Col)
		}
		page := p.rows - 1
		p.top = max(0, min(p.top, len(p.text)-page))
		p.draw(page)
		if len(p.text) <= page {
			p.out.WriteString("\r\x1b[K")
			return p.out.Flush()
		}
		key, err := p.key()
		if err != nil {
			return err
		}
		switch key {
		case "q", "Q", "\x03":
			p.out.WriteString("\r\x1b[K")
			return p.out.Flush()
		case " ", "f", "\x06", "\x1b[6~":
			p.top += page
		case "b", "\x02", "\x1b[5~":
			p.top -= page
		case "j", "\r", "\n", "e", "\x1b[B":
			p.top++
		case "k", "y", "\x1b[A":
			p.top--
		case "d":
			p.top += page / 2
		case "u":
			p.top -= page / 2
		case "g", "<", "\x1b[H":
			p.top = 0
		case "G", ">", "\x1b[F":
			p.top = len(p.text)
		case "/":
			p.search()
		case "n":
			p.find(p.top + 1)
		}
	}
}

// key reads a key, with the sequences of the arrow and page keys.
func (p *pager) key() (string, error) {
	b, err := p.keys.ReadByte()
	if err != nil || b != 0x1b || p.keys.Buffered() == 0 {
		return string(rune(b)), err
	}
	seq := "\x1b"
	for p.keys.Buffered() > 0 && len(seq) < 8 {
		b, err := p.keys.ReadByte()
		if err != nil {
			return seq, err
		}
		if seq += string(rune(b)); len(seq) > 2 && (b >= 'A' && b <= 'Z' || b == '~') {
			break
		}
	}
	return seq, nil
}

func (p *pager) draw(page int) {
	if len(p.text) > page {
		p.out.WriteString("\x1b[H\x1b[2J")
	}
	for i := p.top; i < p.top+page && i < len(p.text); i++ {
		line := []rune(strings.ReplaceAll(p.text[i], "\t", "        "))
		if len(line) > p.cols && !strings.Contains(p.text[i], "\x1b") {
			line = line[:p.cols]
		}
		p.out.WriteString(string(line) + "\r\n")
	}
	if len(p.text) > page {
		if p.top+page >= len(p.text) {
			p.out.WriteString("\x1b[7m(END)\x1b[0m")
		} else {
			p.out.WriteByte(':')
		}
	}
	p.out.Flush()
}

func (p *pager) search() {
	p.out.WriteString("\r\x1b[K/")
	p.out.Flush()
	pat := ""
	for {
		b, err := p.keys.ReadByte()
		if err != nil || b == '\r' || b == '\n' {
			break
		}
		if b == 127 || b == 8 {
			pat = pat[:max(0, len(pat)-1)]
		} else {
			pat += string(rune(b))
		}
		p.out.WriteString("\r\x1b[K/" + pat)
		p.out.Flush()
	}
	if pat != "" {
		p.pattern = pat
	}
	p.find(p.top)
}

func (p *pager) find(from int) {
	if p.pattern == "" {
		return
	}
	for i := from; i < len(p.text); i++ {
		if strings.Contains(p.text[i], p.pattern) {
			p.top = i
			return
		}
	}
}
