package wire

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// buffer is a byte stream that a test fills before it is read.
type buffer struct{ bytes.Buffer }

func (*buffer) Close() error { return nil }

func TestFrame_RoundTrip(t *testing.T) {
	frames := []Frame{
		{Kind: KindPing},
		{Kind: KindData, Stream: Stderr, Command: 1<<32 - 1, Payload: bytes.Repeat([]byte{0, 0xff, '\n'}, MaxData/3)},
		{Kind: KindData, Stream: Stdout, Command: 7, Payload: []byte{0}},
		{Kind: KindEOF, Stream: Stdin, Command: 7},
		{Kind: KindCredit, Stream: Stdout, Command: 7, Payload: []byte{1, 2, 3, 4}},
		{Kind: KindStart, Command: 2, Payload: make([]byte, 1<<20)},
	}
	var b buffer
	c := NewConn(&b)
	for _, f := range frames {
		require.NoError(t, c.Send(f))
	}
	for _, want := range frames {
		f, err := c.Receive()
		require.NoError(t, err)
		require.Equal(t, want.Kind, f.Kind)
		require.Equal(t, want.Stream, f.Stream)
		require.Equal(t, want.Command, f.Command)
		require.True(t, bytes.Equal(want.Payload, f.Payload))
	}
	_, err := c.Receive()
	require.Equal(t, io.EOF, err)
}

func TestFrame_Malformed(t *testing.T) {
	for name, raw := range map[string][]byte{
		"kind zero":         {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0},
		"kind unknown":      {byte(kindEnd), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0},
		"stream unknown":    {byte(KindEOF), 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0},
		"reserved":          {byte(KindEOF), 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0},
		"empty data":        {byte(KindData), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0},
		"data too long":     {byte(KindData), 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0},
		"control too long":  {byte(KindStart), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff},
		"ping with payload": {byte(KindPing), 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0},
		"short credit":      {byte(KindCredit), 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			var b buffer
			b.Write(raw)
			_, err := NewConn(&b).Receive()
			require.ErrorIs(t, err, ErrProtocol)
		})
	}
	t.Run("truncated", func(t *testing.T) {
		whole := Frame{Kind: KindData, Payload: []byte("abc")}.Append(nil)
		for n := 1; n < len(whole); n++ {
			var b buffer
			b.Write(whole[:n])
			_, err := NewConn(&b).Receive()
			require.ErrorIs(t, err, io.ErrUnexpectedEOF, "%d bytes", n)
		}
	})
}

func TestFrame_ResizeIsRowsThenColumns(t *testing.T) {
	var b buffer
	c := NewConn(&b)
	require.NoError(t, c.SendSize(1, 24, 80))
	f, err := c.Receive()
	require.NoError(t, err)
	rows, cols := f.Size()
	require.Equal(t, []uint16{24, 80}, []uint16{rows, cols})
}

// streamPair joins a sender and a receiver by a real connection, with the
// goroutines that dispatch frames on both sides.
func streamPair(t *testing.T) (*Sender, *Receiver) {
	a, b := net.Pipe()
	near, far := NewConn(a), NewConn(b)
	s, r := NewSender(near, 1, Stdout), NewReceiver(far, 1, Stdout)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			f, err := near.Receive()
			if err != nil {
				s.Fail(io.ErrClosedPipe)
				return
			}
			if err := s.Grant(f.Uint32()); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Go(func() {
		for {
			f, err := far.Receive()
			switch {
			case err != nil:
				r.Fail(io.ErrUnexpectedEOF)
				return
			case f.Kind == KindEOF:
				r.Fail(io.EOF)
			default:
				if err := r.Deliver(f.Payload); err != nil {
					t.Error(err)
				}
			}
		}
	})
	t.Cleanup(func() {
		near.Close()
		far.Close()
		wg.Wait()
	})
	return s, r
}

func TestStream_CarriesEveryByte(t *testing.T) {
	s, r := streamPair(t)
	data := make([]byte, 5*Window+123)
	_, _ = rand.Read(data)
	var wg sync.WaitGroup
	wg.Go(func() {
		n, err := s.Write(data)
		if n != len(data) || err != nil || s.Close() != nil {
			t.Errorf("wrote %d bytes: %v", n, err)
		}
	})
	h := sha256.New()
	_, err := io.Copy(h, struct{ io.Reader }{r})
	require.NoError(t, err)
	wg.Wait()
	want := sha256.Sum256(data)
	require.Equal(t, want[:], h.Sum(nil))
}

func TestStream_SenderStopsAtTheWindow(t *testing.T) {
	s, r := streamPair(t)
	wrote := make(chan int, 1)
	go func() {
		n, _ := s.Write(make([]byte, Window+1))
		wrote <- n
	}()
	select {
	case <-wrote:
		t.Fatal("more than the window was sent to a receiver that does not read")
	case <-time.After(50 * time.Millisecond):
	}
	_, err := io.CopyN(io.Discard, struct{ io.Reader }{r}, Window+1)
	require.NoError(t, err)
	require.Equal(t, Window+1, <-wrote)
}

func TestStream_FailWakesTheSender(t *testing.T) {
	s, _ := streamPair(t)
	done := make(chan error, 1)
	go func() {
		_, err := s.Write(make([]byte, 2*Window))
		done <- err
	}()
	time.Sleep(10 * time.Millisecond)
	boom := errors.New("boom")
	s.Fail(boom)
	require.ErrorIs(t, <-done, boom)
}

func TestStream_RefusesMoreThanTheWindow(t *testing.T) {
	var b buffer
	c := NewConn(&b)
	r := NewReceiver(c, 1, Stdout)
	require.NoError(t, r.Deliver(make([]byte, Window)))
	require.ErrorIs(t, r.Deliver([]byte{0}), ErrProtocol)

	s := NewSender(c, 1, Stdout)
	require.ErrorIs(t, s.Grant(1), ErrProtocol)
	require.ErrorIs(t, s.Grant(1<<32-1), ErrProtocol)
}

func TestStream_WhatWasDeliveredIsReadBeforeTheError(t *testing.T) {
	var b buffer
	r := NewReceiver(NewConn(&b), 1, Stdout)
	require.NoError(t, r.Deliver([]byte("last words")))
	r.Fail(io.EOF)
	require.NoError(t, r.Deliver([]byte("too late")))
	got, err := io.ReadAll(r)
	require.NoError(t, err)
	require.Equal(t, "last words", string(got))
}

// FuzzReceive feeds arbitrary bytes to the reader of frames: it must end, not
// panic, not allocate what was only announced, and re-encode what it accepts.
func FuzzReceive(f *testing.F) {
	f.Add(Frame{Kind: KindData, Payload: []byte("abc")}.Append(nil))
	f.Add(Frame{Kind: KindCredit, Payload: []byte{1, 2, 3, 4}}.Append(nil))
	f.Add([]byte{byte(KindStart), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x7f, 0, '{'})
	f.Fuzz(func(t *testing.T, raw []byte) {
		var b buffer
		b.Write(raw)
		c := NewConn(&b)
		var again []byte
		for {
			fr, err := c.Receive()
			if err != nil {
				break
			}
			again = fr.Append(again)
			var spec Spec
			_ = fr.JSON(&spec)
		}
		if !bytes.HasPrefix(raw, again) {
			t.Fatalf("%x does not begin with %x", raw, again)
		}
		if cap(c.payload) > 2*len(raw)+128<<10 {
			t.Fatalf("%d bytes allocated for %d received", cap(c.payload), len(raw))
		}
	})
}

// FuzzStreams drives both ends of a stream with an arbitrary program: whatever
// the other side sends, nothing exceeds the window and nothing blocks.
func FuzzStreams(f *testing.F) {
	f.Add([]byte{0, 200, 1, 100, 2, 50, 3, 0})
	f.Fuzz(func(t *testing.T, program []byte) {
		var b buffer
		c := NewConn(&b)
		s, r := NewSender(c, 1, Stdin), NewReceiver(c, 1, Stdin)
		s.Fail(io.EOF) // Write must not wait for credit here
		buf := make([]byte, 4096)
		for i := 0; i+1 < len(program); i += 2 {
			n := int(program[i+1]) * 300
			switch program[i] % 4 {
			case 0:
				_ = r.Deliver(make([]byte, n))
			case 1:
				if len(r.buf) > 0 || r.err != nil {
					_, _ = r.Read(buf)
				}
			case 2:
				_ = s.Grant(uint32(n))
			case 3:
				r.Fail(io.EOF)
			}
			if len(r.buf)+r.owed > Window || s.credit > Window {
				t.Fatalf("window exceeded: %d + %d, %d", len(r.buf), r.owed, s.credit)
			}
		}
	})
}
