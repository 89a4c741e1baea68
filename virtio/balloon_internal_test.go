package virtio

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

// A host that asks a guest which never answers, over and over, keeps nothing of
// those who gave up: neither before their turn nor after it.
func TestBalloon_T80_SilentGuestLeavesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &statsDesk{queue: &Queue{done: make(chan struct{})}}
		for range 1000 {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			_, err := s.ask(ctx)
			require.ErrorIs(t, err, context.Canceled)
		}
		require.Zero(t, len(s.waiting))

		// Who waits on is not forgotten with the others.
		answers := make(chan BalloonStats, 1)
		go func() {
			stats, err := s.ask(t.Context())
			require.NoError(t, err)
			answers <- stats
		}()
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := s.ask(ctx)
		require.ErrorIs(t, err, context.Canceled)
		waiting := s.take()
		require.Len(t, waiting, 1)
		waiting[0] <- BalloonStats{Free: 7}
		require.Equal(t, BalloonStats{Free: 7}, <-answers)
	})
}
