package virtio_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/virtio"
	"github.com/sandpit-vm/sandpit/virtio/virtiotest"
)

// Two hundred connections open at once, wait for each other, and then all talk
// and end at once: with an answer, or broken off. SANDPIT_TEST_ROUNDS is how
// often.
func TestVsock_ManyAtOnce(t *testing.T) {
	const conns, port = 200, 1024
	rounds := 3
	if s := os.Getenv("SANDPIT_TEST_ROUNDS"); s != "" {
		var err error
		rounds, err = strconv.Atoi(s)
		require.NoError(t, err)
	}
	for name, without := range map[string]uint64{"event index": 0, "flags": virtio.FeatureEventIdx} {
		t.Run(name, func(t *testing.T) {
			v := virtio.NewVsock(virtio.VsockConfig{})
			k := newGuestKernel(t, v, virtiotest.Config{Without: without})
			k.listen(port)
			var guest sync.WaitGroup
			guest.Go(func() {
				for {
					s, err := k.accept(port)
					if err != nil {
						return
					}
					guest.Go(func() { _ = echoWords(s) })
				}
			})
			for range rounds {
				atOnce(t, v, port, conns)
				require.False(t, t.Failed())
			}
			k.stop()
			guest.Wait()
		})
	}
}

// echoWords answers every read with small packets, as a command's output and
// the credit for its input are, and the end with a last one.
func echoWords(s *guestSock) error {
	defer s.Close()
	var b [256]byte
	for {
		n, err := s.Read(b[:])
		if err == io.EOF {
			_, err = io.WriteString(s, ".")
			return err
		}
		if err != nil {
			return err
		}
		for _, c := range b[:n] {
			if _, err := s.Write([]byte{c}); err != nil {
				return err
			}
		}
	}
}

func atOnce(t *testing.T, v *virtio.Vsock, port uint32, n int) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var ready, all sync.WaitGroup
	ready.Add(n)
	for i := range n {
		all.Go(func() {
			c, err := v.Dial(ctx, port)
			ready.Done()
			if err != nil {
				t.Errorf("connection %d: %v", i, err)
				return
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(30 * time.Second))
			ready.Wait()
			word := fmt.Sprintf("word %d", i)
			for _, piece := range word {
				if _, err := io.WriteString(c, string(piece)); err != nil {
					t.Errorf("connection %d: %v", i, err)
					return
				}
			}
			if i%10 == 9 {
				return // and never reads
			}
			err = c.(interface{ CloseWrite() error }).CloseWrite()
			got, readErr := io.ReadAll(c)
			if err != nil || readErr != nil || string(got) != word+"." {
				t.Errorf("connection %d: %q, %v, %v", i, got, err, readErr)
			}
		})
	}
	all.Wait()
}
