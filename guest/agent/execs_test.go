package agent

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "google.golang.org/protobuf/proto"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

// Every page of the list fits into a message, whatever the command lines are.
func TestExecs_PagesFit(t *testing.T) {
	for name, args := range map[string][]string{
		"letters": strings.Split(strings.Repeat("a ", 200), " "),
		"empty":   make([]string, 5000),
		"long":    {strings.Repeat("x", 1<<16)},
	} {
		t.Run(name, func(t *testing.T) {
			a, err := New(Config{})
			require.NoError(t, err)
			for i := range 400 {
				id := fmt.Sprintf("%060d%04d", 0, i)
				a.execs[id] = &execution{agent: a, pid: 1<<22 - 1, since: time.Now().Add(-1000 * time.Hour), start: &proto.ExecStart{Id: id, Args: args, Tty: true}}
			}
			after, n := "", 0
			for {
				list, err := a.Execs(t.Context(), &proto.ExecsRequest{After: after})
				require.NoError(t, err)
				require.LessOrEqual(t, pb.Size(list), maxListBytes+2*maxListedArgs)
				n += len(list.Execs)
				if !list.More {
					break
				}
				after = list.Execs[len(list.Execs)-1].Id
			}
			require.Equal(t, 400, n)
		})
	}
}
