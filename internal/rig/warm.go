package rig

import (
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/internal/rig/wire"
)

// warmServer owns one L1 and relays frames between it and its clients. It looks
// at no stream: credit is between a client and L1.
type warmServer struct {
	c       Config
	m       *machine
	started time.Time
	end     chan error // gets the reason to end

	mu       sync.Mutex // guards what follows
	clients  map[uint32]*warmClient
	conns    map[*wire.Conn]bool
	last     uint32 // the last command's number, and so how many there were
	lastUse  time.Time
	pings    int
	stopping bool

	wg sync.WaitGroup
}

// WarmServe runs a warm rig until it is stopped or unused for long. Descriptor
// 3, if it is a pipe, is told when it is up.
func WarmServe(c Config) error {
	c, err := c.validate()
	if err != nil {
		return err
	}
	dir, err := warmDir(true)
	if err != nil {
		return err
	}
	lock, err := os.OpenFile(filepath.Join(dir, warmLock), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return &Error{Op: "warm rig's lock", Err: err}
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return &Error{Op: "warm rig's lock", Err: fmt.Errorf("another one is running or starting: %w", err)}
	}
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT)
	signal.Ignore(unix.SIGHUP)
	s := &warmServer{c: c, started: time.Now(), lastUse: time.Now(), end: make(chan error, 8),
		clients: make(map[uint32]*warmClient), conns: make(map[*wire.Conn]bool)}
	cancel := make(chan struct{})
	var once sync.Once
	s.wg.Go(func() {
		select {
		case <-signals:
			once.Do(func() { close(cancel) })
			s.end <- nil
		case <-cancel:
		}
	})
	defer s.wg.Wait()
	defer once.Do(func() { close(cancel) })
	m, _, err := boot(c, prepare(c), cancel)
	if err != nil {
		return err
	}
	s.m = m
	socket := filepath.Join(dir, warmSocket)
	_ = os.Remove(socket) // of one that was killed: the lock is ours
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		m.kill()
		return &Error{Op: "warm rig's socket", Err: err}
	}
	s.wg.Go(func() { s.accept(ln) })
	s.wg.Go(s.fromL1)
	stopPinging := make(chan struct{})
	s.wg.Go(func() { s.ping(stopPinging) })
	announce()
	err = s.wait()
	_ = ln.Close() // removes the socket
	s.disconnect()
	close(stopPinging)
	m.kill()
	return err
}

// announce tells the process that started us.
func announce() {
	var st unix.Stat_t
	if unix.Fstat(3, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFIFO {
		_, _ = unix.Write(3, []byte("up"))
		_ = unix.Close(3)
	}
}

// wait returns when the rig shall end, and why.
func (s *warmServer) wait() error {
	tick := time.NewTicker(pingEvery)
	defer tick.Stop()
	for {
		select {
		case err := <-s.end:
			return err
		case <-tick.C:
			s.mu.Lock()
			idle := len(s.clients) == 0 && time.Since(s.lastUse) > s.c.Idle
			s.pings++
			dead := s.pings > maxPings
			s.mu.Unlock()
			if idle {
				return nil
			}
			if dead {
				return s.m.describe("warm rig", fmt.Errorf("%w: no answer", ErrDied))
			}
		}
	}
}

// ping pings L1. Sending blocks while L1 hangs, which wait finds out.
func (s *warmServer) ping(stop <-chan struct{}) {
	tick := time.NewTicker(pingEvery)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
			_ = s.m.conn.Send(wire.Frame{Kind: wire.KindPing})
		}
	}
}

// disconnect ends every connection.
func (s *warmServer) disconnect() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopping = true
	for conn := range s.conns {
		_ = conn.Close()
	}
	for _, c := range s.clients {
		c.close()
	}
}

func (s *warmServer) accept(ln *net.UnixListener) {
	for {
		nc, err := ln.AcceptUnix()
		if err != nil {
			return
		}
		conn := wire.NewConn(nc)
		s.mu.Lock()
		if s.stopping {
			_ = conn.Close()
		} else {
			s.conns[conn] = true
			s.wg.Go(func() { s.serve(conn) })
		}
		s.mu.Unlock()
	}
}

// serve reads one client's frames.
func (s *warmServer) serve(conn *wire.Conn) {
	var c *warmClient
	defer func() {
		_ = conn.Close()
		s.mu.Lock()
		delete(s.conns, conn)
		if c != nil {
			s.lastUse = time.Now()
		}
		s.mu.Unlock()
		if c != nil {
			// Frames still come until L1 has sent Exit; they are dropped.
			c.close()
			_ = s.m.conn.Send(wire.Frame{Kind: wire.KindAbort, Command: c.id})
		}
	}()
	for {
		f, err := conn.Receive()
		if err != nil {
			return
		}
		switch f.Kind {
		case wire.KindHello:
			err = conn.SendJSON(wire.KindStatus, 0, s.status())
		case wire.KindStop:
			// The connection is closed by disconnect, or with the process.
			s.end <- nil
			continue
		case wire.KindStart:
			if c != nil {
				return
			}
			c = s.add(conn)
			f.Command = c.id
			err = s.m.conn.Send(f)
		case wire.KindPing:
			if c != nil {
				err = c.push(wire.Frame{Kind: wire.KindPong, Command: c.id})
			}
		case wire.KindData, wire.KindEOF, wire.KindCredit, wire.KindSignal, wire.KindResize:
			if c == nil {
				return
			}
			f.Command = c.id
			err = s.m.conn.Send(f)
		default:
			return
		}
		if err != nil {
			return
		}
	}
}

func (s *warmServer) status() wire.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return wire.Status{Version: wire.Version, PID: os.Getpid(), CPUs: s.c.CPUs, Memory: s.c.Memory, Kernel: s.c.Kernel, Shares: s.c.Shares,
		Running: len(s.clients), Commands: int(s.last), Uptime: int64(time.Since(s.started)), Idle: int64(s.c.Idle)}
}

// add numbers a command and starts the goroutine that writes to its client.
func (s *warmServer) add(conn *wire.Conn) *warmClient {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last++
	c := &warmClient{id: s.last, conn: conn}
	c.cond.L = &c.mu
	s.clients[c.id] = c
	s.wg.Go(c.write)
	return c
}
