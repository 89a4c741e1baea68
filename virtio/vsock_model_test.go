package virtio_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/virtio"
	"github.com/sandpit-vm/sandpit/virtio/virtiotest"
)

// end is one end of a stream.
type end interface {
	io.ReadWriteCloser
	CloseWrite() error
}

var errMismatch = errors.New("wrong byte")

// stream is the data of one direction: every position has its byte.
type stream struct{ seed uint64 }

func (s stream) fill(p []byte, at int) {
	for i := range p {
		x := (uint64(at+i) + s.seed) * 0x9e3779b97f4a7c15
		p[i] = byte(x >> 56)
	}
}

// write sends n bytes in random pieces.
func (s stream) write(w io.Writer, n int, rng *rand.Rand) (int, error) {
	b := make([]byte, 200<<10)
	for at := 0; at < n; {
		k := min(n-at, 1+rng.IntN(len(b))>>rng.IntN(18))
		s.fill(b[:k], at)
		m, err := w.Write(b[:k])
		at += m
		if err != nil {
			return at, err
		}
	}
	return n, nil
}

// read checks everything until the stream ends.
func (s stream) read(r io.Reader, rng *rand.Rand) (int, error) {
	b, want := make([]byte, 100<<10), make([]byte, 100<<10)
	for at := 0; ; {
		n, err := r.Read(b[:1+rng.IntN(len(b))>>rng.IntN(17)])
		s.fill(want[:n], at)
		for i := range n {
			if b[i] != want[i] {
				return at, fmt.Errorf("%w at %d: %#x, not %#x", errMismatch, at+i, b[i], want[i])
			}
		}
		at += n
		if err == io.EOF {
			return at, nil
		}
		if err != nil {
			return at, err
		}
	}
}

// TestVsockModel runs random connections against a guest like Linux: opened from
// either side, bytes both ways, half-closed, and some broken off.
func TestVsockModel(t *testing.T) {
	for _, cfg := range []virtiotest.Config{
		{},
		{Without: virtio.FeatureEventIdx},
		{QueueSize: 8},
	} {
		t.Run(fmt.Sprintf("size %d without %#x", cfg.QueueSize, cfg.Without), func(t *testing.T) {
			testVsockModel(t, cfg, 100)
		})
	}
}

func testVsockModel(t *testing.T, cfg virtiotest.Config, conns int) {
	before := runtime.NumGoroutine()
	v := virtio.NewVsock(virtio.VsockConfig{})
	k := newGuestKernel(t, v, cfg)
	k.listen(2000)
	l, err := v.Listen(1000)
	require.NoError(t, err)
	a := &acceptor{hosts: map[uint32]net.Conn{}, socks: map[uint32]*guestSock{}}
	var wg sync.WaitGroup
	for i := range conns {
		wg.Go(func() {
			if err := modelConn(v, k, l, a, uint64(i)); err != nil {
				t.Errorf("connection %d: %v", i, err)
			}
		})
	}
	stop := make(chan struct{})
	go k.stutter(stop)
	wg.Wait()
	close(stop)
	require.Eventually(t, func() bool {
		table, live := v.ConnCount()
		return table+live == 0
	}, 20*time.Second, time.Millisecond)
	require.False(t, t.Failed())
	k.stop()
	require.NoError(t, k.d.MMIO.Close())
	require.NoError(t, v.Close())
	for range 1000 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	require.LessOrEqual(t, runtime.NumGoroutine(), before)
}

// modelConn is the life of one connection.
func modelConn(v *virtio.Vsock, k *guestKernel, l net.Listener, a *acceptor, seed uint64) error {
	rng := rand.New(rand.NewPCG(seed, 1))
	var host net.Conn
	var guest *guestSock
	var err error
	if seed%2 == 0 {
		if host, err = v.Dial(context.Background(), 2000); err != nil {
			return err
		}
		guest, err = a.guest(k, host.LocalAddr().(virtio.VsockAddr).Port)
	} else {
		if guest, err = k.dial(1000); err != nil {
			return err
		}
		host, err = a.host(l, guest.addr.local)
	}
	if err != nil {
		return err
	}
	clean := true
	var wg sync.WaitGroup
	switch rng.IntN(8) {
	case 0:
		clean = false
		wg.Go(func() { time.Sleep(3 * time.Millisecond); host.Close() })
	case 1:
		clean = false
		wg.Go(func() { time.Sleep(3 * time.Millisecond); guest.abort() })
	case 2:
		clean = false
		wg.Go(func() { time.Sleep(3 * time.Millisecond); guest.Close() })
	}
	errs := make([]error, 2)
	one := func(i int, from, to end, s stream, n int, seed uint64) {
		wg.Go(func() {
			if _, err := s.write(from, n, rand.New(rand.NewPCG(seed, 2))); err != nil {
				if clean {
					errs[i] = fmt.Errorf("write: %w", err)
				}
				return
			}
			if err := from.CloseWrite(); err != nil && clean {
				errs[i] = fmt.Errorf("close write: %w", err)
			}
		})
		wg.Go(func() {
			got, err := s.read(to, rand.New(rand.NewPCG(seed, 3)))
			switch {
			case errors.Is(err, errMismatch), clean && err != nil:
				errs[i] = fmt.Errorf("read: %w", err)
			case clean && got != n:
				errs[i] = fmt.Errorf("%d bytes of %d", got, n)
			}
		})
	}
	size := func() int { return rng.IntN(2<<20) >> rng.IntN(16) }
	one(0, host.(end), guest, stream{2 * seed}, size(), 2*seed)
	one(1, guest, host.(end), stream{2*seed + 1}, size(), 2*seed+1)
	wg.Wait()
	if rng.IntN(2) == 0 {
		host.Close()
		guest.Close()
	} else {
		guest.Close()
		host.Close()
	}
	return errors.Join(errs...)
}

// acceptor hands accepted connections to whoever waits for them.
type acceptor struct {
	mu    sync.Mutex
	hosts map[uint32]net.Conn
	socks map[uint32]*guestSock
}

func (a *acceptor) host(l net.Listener, peer uint32) (net.Conn, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for a.hosts[peer] == nil {
		c, err := l.Accept()
		if err != nil {
			return nil, err
		}
		a.hosts[c.RemoteAddr().(virtio.VsockAddr).Port] = c
	}
	return a.hosts[peer], nil
}

func (a *acceptor) guest(k *guestKernel, peer uint32) (*guestSock, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for a.socks[peer] == nil {
		s, err := k.accept(2000)
		if err != nil {
			return nil, err
		}
		a.socks[s.addr.peer] = s
	}
	return a.socks[peer], nil
}
