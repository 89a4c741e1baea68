package agent

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
	"github.com/stretchr/testify/require"
	pb "google.golang.org/protobuf/proto"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

const serviceName = "sandpit.agent.v1.Agent"

func frame(stream uint32, kind, flags byte, body []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(body)))
	b = binary.BigEndian.AppendUint32(b, stream)
	b = append(b, kind, flags)
	return append(b, body...)
}

func call(t testing.TB, stream uint32, method string, payload []byte) []byte {
	b, err := pb.Marshal(&ttrpc.Request{Service: serviceName, Method: method, Payload: payload})
	require.NoError(t, err)
	return frame(stream, frameRequest, 2, b)
}

func fileCall(t testing.TB, stream uint32, method string, payload []byte) []byte {
	b, err := pb.Marshal(&ttrpc.Request{Service: "sandpit.agent.v1.Files", Method: method, Payload: payload})
	require.NoError(t, err)
	return frame(stream, frameRequest, 2, b)
}

func TestGuard(t *testing.T) {
	ping, exec := call(t, 1, "Ping", nil), call(t, 1, "Exec", nil)
	op, session := fileCall(t, 1, "Op", nil), fileCall(t, 1, "Session", nil)
	longData := frame(1, frameData, 0, nil)
	binary.BigEndian.PutUint32(longData, maxFileFrame+1)
	long := frame(1, frameRequest, 0, nil)
	binary.BigEndian.PutUint32(long, maxFrame+1)
	for _, c := range []struct {
		name string
		in   [][]byte
		pass int // bytes that get through
	}{
		{"calls", [][]byte{ping, call(t, 3, "Ping", nil)}, len(ping) * 2},
		{"exec with data", [][]byte{exec, frame(1, frameData, 0, []byte("abc")), frame(1, frameData, 1, nil)}, len(exec) + 13 + 10},
		{"data for a call", [][]byte{ping, frame(1, frameData, 0, []byte("abc"))}, len(ping)},
		{"data before anything", [][]byte{frame(1, frameData, 0, nil)}, 0},
		{"data of another stream", [][]byte{exec, frame(3, frameData, 0, nil)}, len(exec)},
		{"a call beside an exec", [][]byte{exec, call(t, 3, "Ping", nil)}, len(exec)},
		{"two execs", [][]byte{exec, call(t, 3, "Exec", nil)}, len(exec)},
		{"an exec beside calls", [][]byte{ping, call(t, 3, "Exec", nil)}, len(ping)},
		{"operations beside calls", [][]byte{op, call(t, 3, "Ping", nil), fileCall(t, 5, "Op", nil)}, len(op) + len(ping) + len(op)},
		{"data for an operation", [][]byte{op, frame(1, frameData, 0, []byte("abc"))}, len(op)},
		{"a session with data", [][]byte{session, frame(1, frameData, 0, []byte("abc"))}, len(session) + 13},
		{"more data than a session has", [][]byte{session, longData}, len(session)},
		{"an operation beside a session", [][]byte{session, fileCall(t, 3, "Op", nil)}, len(session)},
		{"an exec beside a session", [][]byte{session, call(t, 3, "Exec", nil)}, len(session)},
		{"a session beside an exec", [][]byte{exec, fileCall(t, 3, "Session", nil)}, len(exec)},
		{"a session beside calls", [][]byte{ping, fileCall(t, 3, "Session", nil)}, len(ping)},
		{"data for a call of the wrong service", [][]byte{fileCall(t, 1, "Exec", nil), frame(1, frameData, 0, []byte("abc"))}, len(fileCall(t, 1, "Exec", nil))},
		{"stream 0", [][]byte{call(t, 0, "Exec", nil)}, 0},
		{"a response", [][]byte{frame(1, 2, 0, nil)}, 0},
		{"too long", [][]byte{long}, 0},
		{"malformed request", [][]byte{frame(1, frameRequest, 0, []byte{0x12, 0xff})}, 0},
		{"truncated", [][]byte{ping[:len(ping)-1]}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			ours, theirs := net.Pipe()
			go func() {
				_, _ = theirs.Write(bytes.Join(c.in, nil))
				theirs.Close()
			}()
			g := newGuard(ours, slog.New(slog.DiscardHandler))
			got, err := io.ReadAll(g)
			require.NoError(t, err)
			require.Len(t, got, c.pass)
			<-g.closed
		})
	}
}

// serveBytes gives an agent a connection with these bytes and waits for its
// end. The agent has not been set up, so nothing starts.
func serveBytes(t testing.TB, in []byte) {
	a, err := New(Config{})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = a.Run(ctx)
	}()
	ours, theirs := net.Pipe()
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = a.ServeConn(ours)
	}()
	go func() { _, _ = io.Copy(io.Discard, theirs) }()
	_ = theirs.SetWriteDeadline(time.Now().Add(10 * time.Second))
	_, _ = theirs.Write(in)
	theirs.Close()
	select {
	case <-served:
	case <-time.After(20 * time.Second):
		t.Fatal("the connection does not end")
	}
	cancel()
	<-ended
}

// Without the guard this one ends the process: ttrpc has no stream handler
// for a call that does not stream.
func TestAgent_DataForUnaryCall(t *testing.T) {
	serveBytes(t, append(call(t, 1, "Ping", nil), frame(1, frameData, 0, []byte("x"))...))
}

func FuzzConnection(f *testing.F) {
	start, err := pb.Marshal(&proto.ExecInput{Input: &proto.ExecInput_Start{Start: &proto.ExecStart{Id: "x", Args: []string{"true"}}}})
	require.NoError(f, err)
	ping := call(f, 1, "Ping", nil)
	f.Add(ping)
	f.Add(append(call(f, 1, "Exec", nil), frame(1, frameData, 0, start)...))
	f.Add(append(ping, frame(1, frameData, 0, []byte("x"))...))
	stat, err := pb.Marshal(&proto.FileRequest{Kind: proto.FileRequest_STAT, Path: []byte("/")})
	require.NoError(f, err)
	f.Add(append(fileCall(f, 1, "Session", nil), frame(1, frameData, 0, stat)...))
	f.Add(fileCall(f, 1, "Op", stat))
	f.Add(call(f, 1, "Signal", []byte{8, 1, 16, 9}))
	f.Add(call(f, 1, "Resize", []byte{10, 1, 'x'}))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, 1, 0})
	f.Fuzz(func(t *testing.T, in []byte) {
		if bytes.Contains(in, []byte("SetClock")) || bytes.Contains(in, []byte("Setup")) {
			t.Skip("would set this machine's clock")
		}
		serveBytes(t, in)
	})
}

func FuzzValidateStart(f *testing.F) {
	for _, s := range []*proto.ExecStart{
		{Id: "a", Args: []string{"sh", "-c", "true"}, Env: []string{"A=b"}, Dir: "/tmp", User: "root:wheel", Tty: true, Rows: 1, Cols: 2},
		{Id: "b", Args: []string{"x"}, Rlimits: []*proto.Rlimit{{Name: "nofile", Soft: 1, Hard: 2}}, TimeoutNs: 1},
		{Id: "..", Args: []string{""}},
	} {
		b, err := pb.Marshal(s)
		require.NoError(f, err)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		var s proto.ExecStart
		if pb.Unmarshal(in, &s) != nil {
			return
		}
		err := validateStart(&s)
		if err != nil {
			require.NotEqual(t, proto.StartFailure_OTHER, asFailure(err).kind, err.Error())
			require.Less(t, len(err.Error()), 1<<10)
			return
		}
		require.NotEmpty(t, s.GetArgs())
		require.True(t, validID(s.GetId()))
		require.NotContains(t, s.GetId(), "/")
	})
}

func FuzzLookupAccount(f *testing.F) {
	f.Add("root", "root:x:0:0:root:/root:/bin/sh\n", "wheel:x:10:root\n")
	f.Add("1000:audio", "a:x:1000:1000::/home/a:\n", "audio:x:29:a,b\n")
	f.Add(":", ":::::\n", ":::\n")
	f.Fuzz(func(t *testing.T, user, passwd, group string) {
		dir := t.TempDir()
		a, err := lookupAccount(user, writeFile(t, dir+"/passwd", passwd), writeFile(t, dir+"/group", group))
		if err == nil {
			require.NotEqual(t, uint32(1<<32-1), a.uid)
			require.NotEqual(t, uint32(1<<32-1), a.gid)
		}
	})
}
