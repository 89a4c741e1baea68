package monitor

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/containerd/ttrpc"

	"github.com/sandpit-vm/sandpit/guest/proto"
	"github.com/sandpit-vm/sandpit/virtio"
	"github.com/sandpit-vm/sandpit/vmm"
)

// link is the monitor's connection with its guest: the running machine, and
// the agent in it.
type link struct {
	vsock  *virtio.Vsock
	agents net.Listener // where the agent reports
	agent  proto.AgentClient
	client *ttrpc.Client
	guest  *proto.Phases

	// switchOff ends the machine's run.
	switchOff context.CancelFunc
	runCtx    context.Context

	calls chan struct{} // a token for each call to the agent, see call

	machineEnded chan struct{} // closed when the run is over; outcome is set

	reason vmm.Reason // set before machineEnded is closed
	err    error
}

func newLink(vsock *virtio.Vsock, agents net.Listener) *link {
	l := &link{vsock: vsock, agents: agents, machineEnded: make(chan struct{}), calls: make(chan struct{}, maxCalls)}
	l.runCtx, l.switchOff = context.WithCancel(context.Background())
	return l
}

// run runs the machine to its end, which is the end of its connections too:
// there is nobody left to close them from inside.
func (l *link) run(machine *vmm.Machine) {
	l.reason, l.err = machine.Run(l.runCtx)
	if err := l.vsock.Close(); err != nil && l.err == nil {
		l.err = err
	}
	close(l.machineEnded)
}

// dial connects to a port of the guest.
func (l *link) dial(port uint32) (halfCloser, error) {
	ctx, cancel := context.WithTimeout(l.runCtx, callTimeout)
	defer cancel()
	conn, err := l.vsock.Dial(ctx, port)
	if err != nil {
		return nil, err
	}
	return conn.(halfCloser), nil
}

// off ends the machine between two instructions.
func (l *link) off() { l.switchOff() }

// outcome is why the machine ended. Called after machineEnded.
func (l *link) outcome() (vmm.Reason, error) { return l.reason, l.err }

// poll is outcome for one who does not know whether the machine ended.
func (l *link) poll() (vmm.Reason, error) {
	select {
	case <-l.machineEnded:
		return l.outcome()
	default:
		return nil, nil
	}
}

// accept waits for the agent's connection, the machine's end, a request to
// stop, or ctx.
func (l *link) accept(ctx context.Context, stops *stops) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	accepted := make(chan result, 1)
	go func() {
		conn, err := l.agents.Accept()
		accepted <- result{conn, err}
	}()
	var err error
	select {
	case r := <-accepted:
		if r.err == nil {
			// One agent, one connection.
			l.agents.Close()
			return r.conn, nil
		}
		err = r.err
		<-l.machineEnded
	case <-l.machineEnded:
	case req := <-stops.graceful:
		err = errors.New(req.detail)
	case req := <-stops.now:
		err = errors.New(req.detail)
	case <-ctx.Done():
		err = fmt.Errorf("the guest's agent did not report in time: %w", ctx.Err())
	}
	if r, runErr := l.poll(); runErr != nil {
		err = runErr
	} else if r != nil {
		err = fmt.Errorf("the guest ended before its agent reported: %s", r)
	}
	l.agents.Close()
	if r := <-accepted; r.conn != nil {
		r.conn.Close()
	}
	return nil, err
}
