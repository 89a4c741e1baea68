package monitor

import "time"

// stopRequest is a wish that the sandbox end.
type stopRequest struct {
	reason string        // goes to state.State.Reason
	detail string        // goes to state.State.Detail
	grace  time.Duration // 0: switch off at once
}

// stops carries stopRequests to the goroutine that lives the sandbox's life.
// One of each kind is enough: the first graceful one counts, and one without
// grace cuts it short.
type stops struct {
	graceful, now chan stopRequest
}

func newStops() stops {
	return stops{graceful: make(chan stopRequest, 1), now: make(chan stopRequest, 1)}
}

func (s stops) request(r stopRequest) {
	c := s.graceful
	if r.grace <= 0 {
		c = s.now
	}
	select {
	case c <- r:
	default:
	}
}
