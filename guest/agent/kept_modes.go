package agent

// modes are what programs switch on a terminal and a terminal keeps until they
// switch it back.
type modes struct {
	private uint32 // a bit for each of privateModes
	insert  bool   // IRM
	newline bool   // LNM
	keypad  bool   // DECKPAM
	cursor  uint8  // its shape: DECSCUSR
	// What key presses are reported as: xterm's modifyOtherKeys, and the flags
	// of the protocol that kitty introduced.
	otherKeys, keyFlags uint8
}

// privateModes are those of CSI ? h and l that are remembered. The alternate
// screen's and the origin mode are states of the screen itself, and what
// suspends drawing (2026) must never be left on.
var privateModes = [...]uint16{
	1,                         // cursor keys
	5,                         // reverse video
	7,                         // wrapping at the last column
	9, 1000, 1001, 1002, 1003, // mouse
	1004,                   // focus
	1005, 1006, 1015, 1016, // mouse, its coordinates
	1007, // wheel on the alternate screen
	25,   // cursor shown
	2004, // bracketed paste
	2031, // colour scheme
}

// The modes that the screen itself heeds, or that are on at first.
const (
	modeWrap   = 7
	modeCursor = 25
)

func privateBit(mode int) uint32 {
	for i, m := range privateModes {
		if int(m) == mode {
			return 1 << i
		}
	}
	return 0
}

func defaultModes() modes {
	return modes{private: privateBit(modeWrap) | privateBit(modeCursor)}
}

func (m *modes) on(mode int) bool { return m.private&privateBit(mode) != 0 }

func (m *modes) set(mode int, on bool) {
	if on {
		m.private |= privateBit(mode)
	} else {
		m.private &^= privateBit(mode)
	}
}

// setPrivate is CSI ? h and l.
func (s *screen) setPrivate(mode int, on bool) {
	switch mode {
	case 6:
		s.cur.origin = on
		s.moveTo(0, 0)
	case 47, 1047:
		s.switchScreen(on)
	case 1048:
		if on {
			s.saveCursor()
		} else {
			s.restoreCursor()
		}
	case 1049:
		if on == s.alternate() {
			return
		}
		if on {
			s.saveCursor()
		}
		s.switchScreen(on)
		if !on {
			s.restoreCursor()
		}
	case 66:
		s.modes.keypad = on
	default:
		s.modes.set(mode, on)
	}
}

func (s *screen) switchScreen(alternate bool) {
	if alternate {
		s.enterAlternate()
	} else {
		s.leaveAlternate()
	}
}

// softReset is DECSTR.
func (s *screen) softReset() {
	s.cur.pen, s.cur.origin, s.cur.charsets, s.cur.shift = style{}, false, [2]byte{'B', 'B'}, 0
	s.saved[s.slot()] = cursor{charsets: [2]byte{'B', 'B'}}
	s.top, s.bottom = 0, s.rows-1
	s.modes.insert, s.modes.keypad = false, false
	s.modes.set(1, false)
	s.modes.set(modeWrap, true)
	s.modes.set(modeCursor, true)
}
