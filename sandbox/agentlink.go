package sandbox

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/ttrpc"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

// agentLink is a connection to the agent for calls that share it; made when
// first needed, and anew when it was lost.
type agentLink struct {
	mu      sync.Mutex
	client  *ttrpc.Client // nil: none
	dialing chan struct{} // closed when the one who dials is done; nil: nobody does
}

// get is the connection. Whoever finds none makes it, and the others wait for
// that, each as long as its own context lasts.
func (l *agentLink) get(ctx context.Context, s *Sandbox) (*ttrpc.Client, error) {
	for {
		if err := s.reachable(); err != nil {
			return nil, err
		}
		l.mu.Lock()
		client, dialing := l.client, l.dialing
		if client == nil && dialing == nil {
			l.dialing = make(chan struct{})
		}
		l.mu.Unlock()
		if client != nil {
			return client, nil
		}
		if dialing == nil {
			return l.dial(ctx, s)
		}
		select {
		case <-dialing:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (l *agentLink) dial(ctx context.Context, s *Sandbox) (*ttrpc.Client, error) {
	conn, err := s.dialAgent(ctx)
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.dialing)
	l.dialing = nil
	if err != nil {
		return nil, err
	}
	if err := s.open(); err != nil { // closed meanwhile
		conn.Close()
		return nil, err
	}
	var client *ttrpc.Client
	client = newSharedClient(conn, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.client == client {
			l.client = nil
		}
	})
	l.client = client
	return client, nil
}

func (l *agentLink) close() {
	l.mu.Lock()
	client := l.client
	l.mu.Unlock()
	if client != nil {
		client.Close()
	}
}

// agentClient is a connection for calls beside a command's own.
func (s *Sandbox) agentClient(ctx context.Context) (proto.AgentClient, error) {
	client, err := s.agent.get(ctx, s)
	if err != nil {
		return nil, err
	}
	return proto.NewAgentClient(client), nil
}

// filesConn is the connection for single operations on files, whose data may
// fill it.
func (s *Sandbox) filesConn(ctx context.Context) (*ttrpc.Client, error) { return s.files.get(ctx, s) }

func (s *Sandbox) closeAgent() {
	s.agent.close()
	s.files.close()
}

const (
	// maxSharedCalls are under way at a time on a connection that is shared: a
	// guest that answers none does not pile them up.
	maxSharedCalls = 32
	// sendStall is how long the guest may leave a message of an abandoned call
	// on the way before its connection is given up.
	sendStall = 2 * time.Second
)

// newSharedClient is a client whose calls return when their contexts end,
// whatever the guest does. The answer of a call that was abandoned is still
// waited for, in the background, for the connection is others' too.
func newSharedClient(conn net.Conn, onClose func()) *ttrpc.Client {
	sending := &sendingConn{Conn: conn}
	calls := make(chan struct{}, maxSharedCalls)
	call := func(ctx context.Context, req *ttrpc.Request, resp *ttrpc.Response, _ *ttrpc.UnaryClientInfo, invoke ttrpc.Invoker) error {
		select {
		case calls <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		// The end of ctx is seen to here, and by no clock of the guest's.
		req.TimeoutNano = 0
		type result struct {
			resp *ttrpc.Response
			err  error
		}
		done := make(chan result, 1)
		go func() {
			defer func() { <-calls }()
			own := &ttrpc.Response{}
			err := invoke(context.WithoutCancel(ctx), req, own)
			done <- result{own, err}
		}()
		select {
		case r := <-done:
			resp.Status, resp.Payload = r.resp.Status, r.resp.Payload
			return r.err
		case <-ctx.Done():
			sending.abandoned()
			return ctx.Err()
		}
	}
	return proto.NewClient(sending, ttrpc.WithUnaryClientInterceptor(call), ttrpc.WithOnClose(onClose))
}

// sendingConn knows of a Write that is under way.
type sendingConn struct {
	net.Conn
	writes atomic.Uint64 // begun and ended: odd during one
}

func (c *sendingConn) Write(p []byte) (int, error) {
	c.writes.Add(1)
	defer c.writes.Add(1)
	return c.Conn.Write(p)
}

// abandoned closes the connection if what is being sent now is still not taken
// a while later. What was sent in part cannot be taken back, and every call
// after it would wait.
func (c *sendingConn) abandoned() {
	if n := c.writes.Load(); n%2 == 1 {
		time.AfterFunc(sendStall, func() {
			if c.writes.Load() == n {
				c.Conn.Close()
			}
		})
	}
}
