package proto

import (
	"errors"
	"io"
)

// creditEvery is how many messages are consumed before credit is returned:
// half a window keeps the sender going at little cost.
const creditEvery = Window / 2

// outputPump carries one stream of a command's output to its writer and
// returns credit for what the writer has taken.
type outputPump struct {
	w      io.Writer
	credit func(uint32)
	closed func(uint32) // tells the agent that nobody reads
	queue  chan []byte  // a whole window fits
	failed error        // the writer's first error; read after run has returned
}

func newOutputPump(w io.Writer, credit, closed func(uint32)) *outputPump {
	if w == nil {
		w = io.Discard
	}
	return &outputPump{w: w, credit: credit, closed: closed, queue: make(chan []byte, Window)}
}

// push queues one message and never waits.
func (p *outputPump) push(b []byte) error {
	if len(b) > MaxChunk {
		return errors.New("exec: output message too long")
	}
	select {
	case p.queue <- b:
		return nil
	default:
		return errors.New("exec: the agent sent more output than it had credit for")
	}
}

func (p *outputPump) end() { close(p.queue) }

// run writes until end. After the writer's first error it tells the agent,
// so that the command gets EPIPE, and drops the rest.
func (p *outputPump) run() {
	var consumed uint32
	for b := range p.queue {
		if p.failed == nil {
			if _, err := p.w.Write(b); err != nil {
				p.failed = err
				p.closed(0)
			}
		}
		if consumed++; consumed == creditEvery {
			p.credit(consumed)
			consumed = 0
		}
	}
}
