package sandbox

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMainCommand(t *testing.T) {
	for _, test := range []struct {
		entrypoint, cmd, args, want []string
	}{
		{nil, nil, nil, []string{"/bin/ash"}},
		{nil, []string{"b"}, nil, []string{"b"}},
		{[]string{"a"}, []string{"b"}, nil, []string{"a", "b"}},
		{[]string{"a"}, []string{"b"}, []string{"c", "d"}, []string{"a", "c", "d"}},
		{nil, []string{"b"}, []string{"c"}, []string{"c"}},
	} {
		sb := &Sandbox{cfg: Config{Entrypoint: test.entrypoint, Cmd: test.cmd, Shell: "/bin/ash", User: "nobody", Workdir: "/w"}}
		cmd := sb.MainCommand(t.Context(), test.args...)
		require.Equal(t, test.want, cmd.Args)
		require.Equal(t, "nobody", cmd.User)
		require.Equal(t, "/w", cmd.Dir)
		require.Equal(t, test.cmd, sb.cfg.Cmd, "the configuration stays as it is")
	}
}
