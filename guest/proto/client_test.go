package proto

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"
	pb "google.golang.org/protobuf/proto"
)

// fakeGuest answers with the same bytes always, after so many frames of the
// caller's, and hangs up.
func fakeGuest(frames int, answer []byte) net.Conn {
	ours, theirs := net.Pipe()
	go func() {
		var head [frameHeader]byte
		for range frames {
			_, _ = io.ReadFull(theirs, head[:])
			_, _ = io.CopyN(io.Discard, theirs, int64(binary.BigEndian.Uint32(head[:4])))
		}
		go func() { _, _ = io.Copy(io.Discard, theirs) }()
		_, _ = theirs.Write(answer)
		theirs.Close()
	}()
	return ours
}

func dataFrame(t testing.TB, stream uint32, out *ExecOutput) []byte {
	b, err := pb.Marshal(out)
	require.NoError(t, err)
	return rawFrame(stream, 3, 0, b)
}

func rawFrame(stream uint32, kind, flags byte, body []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(body)))
	b = binary.BigEndian.AppendUint32(b, stream)
	return append(append(b, kind, flags), body...)
}

func exec(t testing.TB, answer []byte, stdout io.Writer) (*ExecExit, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	e, err := StartExec(ctx, fakeGuest(2, answer), &ExecStart{Id: "x", Args: []string{"true"}}, stdout, nil)
	if err != nil {
		return nil, err
	}
	return e.Wait()
}

func TestExec_Guest(t *testing.T) {
	started := dataFrame(t, 1, &ExecOutput{Output: &ExecOutput_Started{Started: &ExecStarted{Pid: 7}}})
	hello := dataFrame(t, 1, &ExecOutput{Output: &ExecOutput_Stdout{Stdout: []byte("hello")}})
	exit := dataFrame(t, 1, &ExecOutput{Output: &ExecOutput_Exit{Exit: &ExecExit{Code: 3}}})

	var out bytes.Buffer
	got, err := exec(t, bytes.Join([][]byte{started, hello, hello, exit}, nil), &out)
	require.NoError(t, err)
	require.EqualValues(t, 3, got.GetCode())
	require.Equal(t, "hellohello", out.String())

	for name, answer := range map[string][]byte{
		"nothing":             nil,
		"no start":            hello,
		"no exit":             bytes.Join([][]byte{started, hello}, nil),
		"credit from nowhere": bytes.Join([][]byte{started, dataFrame(t, 1, &ExecOutput{Output: &ExecOutput_StdinCredit{StdinCredit: 1}})}, nil),
		"huge frame":          append(started, 0x00, 0x20, 0, 0, 0, 0, 0, 1, 3, 0),
		"long chunk":          append(started, dataFrame(t, 1, &ExecOutput{Output: &ExecOutput_Stdout{Stdout: make([]byte, MaxChunk+1)}})...),
		"start twice":         append(append([]byte{}, started...), started...),
		"empty message":       append(append([]byte{}, started...), dataFrame(t, 1, &ExecOutput{})...),
	} {
		_, err := exec(t, answer, nil)
		require.Error(t, err, name)
		require.NotErrorIs(t, err, context.DeadlineExceeded, name)
	}
}

// A guest that sends without credit meets a bounded queue.
func TestExec_GuestIgnoresCredit(t *testing.T) {
	answer := dataFrame(t, 1, &ExecOutput{Output: &ExecOutput_Started{Started: &ExecStarted{Pid: 7}}})
	for range 3 * Window {
		answer = append(answer, dataFrame(t, 1, &ExecOutput{Output: &ExecOutput_Stdout{Stdout: []byte("x")}})...)
	}
	blocked := make(chan struct{})
	time.AfterFunc(2*time.Second, func() { close(blocked) })
	_, err := exec(t, answer, writerFunc(func(p []byte) (int, error) {
		<-blocked
		return len(p), nil
	}))
	require.ErrorContains(t, err, "credit")
}

// writerFunc is a function as an io.Writer.
type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestLimitedConn_Split(t *testing.T) {
	in := append(rawFrame(1, 2, 0, make([]byte, 1000)), rawFrame(3, 2, 0, nil)...)
	for _, step := range []int{1, 3, 7, 10, 11, 999, 5000} {
		ours, theirs := net.Pipe()
		go func() {
			for rest := in; len(rest) > 0; {
				n := min(step, len(rest))
				_, _ = theirs.Write(rest[:n])
				rest = rest[n:]
			}
			theirs.Close()
		}()
		c := newLimitedConn(ours)
		c.open[1], c.open[3] = false, false
		got, err := io.ReadAll(c)
		require.NoError(t, err)
		require.Equal(t, in, got)
	}
}

// A frame that belongs to no call ends the connection, and nothing is logged:
// ttrpc's client would write a line for each, wherever the process logs to.
func TestClient_FramesOfNoCall(t *testing.T) {
	var logged bytes.Buffer
	old := logrus.StandardLogger().Out
	logrus.SetOutput(&logged)
	t.Cleanup(func() { logrus.SetOutput(old) })
	resp, err := pb.Marshal(&ttrpc.Response{})
	require.NoError(t, err)
	good := rawFrame(1, frameResponse, 0, resp)
	for name, answer := range map[string][]byte{
		"of a call never made":    append(rawFrame(7, frameResponse, 0, resp), good...),
		"after the answer":        append(bytes.Clone(good), good...),
		"data for a single call":  append(rawFrame(1, frameData, 0, resp), good...),
		"a request of the agent":  append(rawFrame(1, frameRequest, 0, resp), good...),
		"a frame of no type":      append(rawFrame(1, 9, 0, nil), good...),
		"of the stream of nobody": rawFrame(0, frameData, flagLast, nil),
	} {
		t.Run(name, func(t *testing.T) {
			ended := make(chan struct{})
			c := NewClient(fakeGuest(1, append(answer, bytes.Repeat(rawFrame(99, frameData, 0, nil), 1000)...)), ttrpc.WithOnClose(func() { close(ended) }))
			defer c.Close()
			_, err := NewAgentClient(c).Ping(t.Context(), &PingRequest{})
			if name == "after the answer" {
				require.NoError(t, err, "what came before counts")
			} else {
				require.Error(t, err)
			}
			<-ended
		})
	}
	started := dataFrame(t, 1, &ExecOutput{Output: &ExecOutput_Started{Started: &ExecStarted{Pid: 7}}})
	exit := dataFrame(t, 1, &ExecOutput{Output: &ExecOutput_Exit{Exit: &ExecExit{Code: 3}}})
	last := rawFrame(1, frameData, flagLast|4, nil)
	for range 20 {
		got, err := exec(t, bytes.Join([][]byte{started, exit, last, last, good, good}, nil), nil)
		require.NoError(t, err)
		require.EqualValues(t, 3, got.GetCode())
		// Much after something that cannot be read.
		_, err = exec(t, append(append(started, rawFrame(1, frameData, 0, []byte{0xff})...), bytes.Repeat(started, 1000)...), nil)
		require.ErrorIs(t, err, ErrLost)
	}
	require.Empty(t, logged.String())
}

// An agent that never answers does not make the list of calls grow for ever.
func TestClient_TooManyCalls(t *testing.T) {
	ours, theirs := net.Pipe()
	defer theirs.Close()
	go func() { _, _ = io.Copy(io.Discard, theirs) }()
	c := newLimitedConn(ours)
	for i := range uint32(maxOpenStreams) {
		_, err := c.Write(rawFrame(2*i+1, frameRequest, 0, nil))
		require.NoError(t, err)
	}
	_, err := c.Write(rawFrame(99999, frameRequest, 0, nil))
	require.ErrorIs(t, err, errTooManyStreams)
	require.Len(t, c.open, maxOpenStreams)
}

func FuzzExec_Guest(f *testing.F) {
	started := dataFrame(f, 1, &ExecOutput{Output: &ExecOutput_Started{Started: &ExecStarted{Pid: 7}}})
	f.Add(started)
	f.Add(append(started, dataFrame(f, 1, &ExecOutput{Output: &ExecOutput_Exit{Exit: &ExecExit{Code: 3}}})...))
	f.Add(append(started, rawFrame(1, 2, 1, nil)...))
	f.Add(rawFrame(1, 3, 1, nil))
	f.Fuzz(func(t *testing.T, answer []byte) {
		_, err := exec(t, answer, nil)
		require.NotErrorIs(t, err, context.DeadlineExceeded)
	})
}

func FuzzCall_Guest(f *testing.F) {
	resp, err := pb.Marshal(&ttrpc.Response{Payload: []byte{8, 1}})
	require.NoError(f, err)
	f.Add(rawFrame(1, 2, 0, resp))
	f.Add(rawFrame(1, 3, 0, resp))
	f.Fuzz(func(t *testing.T, answer []byte) {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		c := NewClient(fakeGuest(1, answer))
		defer c.Close()
		_, err := NewAgentClient(c).Ping(ctx, &PingRequest{})
		require.NotErrorIs(t, err, context.DeadlineExceeded)
	})
}
