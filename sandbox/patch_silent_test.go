package sandbox

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

// A guest that never answers, or does not even take what is sent to it, holds
// up neither Create nor the end of its context.
func TestPatchOfASilentGuest_T66(t *testing.T) {
	for name, reads := range map[string]bool{"never answers": true, "takes nothing": false} {
		t.Run(name, func(t *testing.T) {
			run := func(ctx context.Context, stall time.Duration) error {
				ours, theirs := net.Pipe()
				defer theirs.Close()
				if reads {
					go func() {
						buf := make([]byte, 4096)
						for {
							if _, err := theirs.Read(buf); err != nil {
								return
							}
						}
					}()
				}
				client := proto.NewClient(ours)
				defer client.Close()
				done := make(chan error, 1)
				go func() {
					done <- patchAll(ctx, proto.NewAgentClient(client), []Patch{{Kind: PatchFile, Path: "/f", Content: "x"}},
						stall, func() { theirs.Close() })
				}()
				select {
				case err := <-done:
					return err
				case <-time.After(5 * time.Second):
					t.Fatal("it hangs")
					return nil
				}
			}
			require.ErrorContains(t, run(t.Context(), 30*time.Millisecond), "did not answer within 30ms")
			ctx, cancel := context.WithCancelCause(t.Context())
			reason := errors.New("reason")
			time.AfterFunc(30*time.Millisecond, func() { cancel(reason) })
			require.ErrorIs(t, run(ctx, time.Minute), reason)
		})
	}
}

// A source that became a FIFO after it was looked at is refused at once.
func TestPatchSourceBecomesAFIFO(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "f")
	require.NoError(t, unix.Mkfifo(fifo, 0o600))
	err := (&patcher{ctx: t.Context()}).apply(Patch{Kind: PatchCopyFile, Path: "/f", Source: fifo})
	require.ErrorContains(t, err, "not a regular file")
}
