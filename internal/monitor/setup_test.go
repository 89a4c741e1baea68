package monitor

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/guest/proto"
	"github.com/sandpit-vm/sandpit/virtio"
)

// A guest that takes nothing off its socket, or never answers, holds up neither
// the end of the boot's time nor a request to stop.
func TestSetUpOfASilentGuest_T66(t *testing.T) {
	for name, end := range map[string]func(m *monitor, cancel func()){
		"time":    func(_ *monitor, cancel func()) { cancel() },
		"stop":    func(m *monitor, _ func()) { m.stops.request(stopRequest{detail: "stop", grace: 1}) },
		"kill":    func(m *monitor, _ func()) { m.stops.request(stopRequest{detail: "kill"}) },
		"machine": func(m *monitor, _ func()) { close(m.link.machineEnded) },
	} {
		t.Run(name, func(t *testing.T) {
			ours, theirs := net.Pipe() // nobody reads: a write blocks
			defer theirs.Close()
			client := proto.NewClient(ours)
			defer client.Close()
			m := &monitor{stops: newStops(), link: newLink(virtio.NewVsock(virtio.VsockConfig{GuestCID: guestCID}), nil)}
			m.link.agent = proto.NewAgentClient(client)
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			failed := make(chan error, 1)
			go func() {
				_, err := m.setUp(ctx, &proto.SetupRequest{Hostname: "x"})
				failed <- err
			}()
			time.Sleep(20 * time.Millisecond) // for the write to block
			end(m, cancel)
			select {
			case err := <-failed:
				require.Error(t, err)
			case <-time.After(5 * time.Second):
				t.Fatal("it hangs")
			}
		})
	}
}

func TestShorten(t *testing.T) {
	require.Equal(t, "short", shorten("short"))
	require.LessOrEqual(t, len(shorten(strings.Repeat("ä", maxDetail))), maxDetail+len("…"))
}
