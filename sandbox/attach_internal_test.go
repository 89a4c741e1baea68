package sandbox

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParseDetachKeys(t *testing.T) {
	for names, want := range map[string]string{
		"": "\x10\x11", "none": "", "ctrl-p,ctrl-q": "\x10\x11", "ctrl-]": "\x1d", "a,b,c": "abc", "Ctrl-A,d": "\x01d",
		"ctrl-@": "\x00", "ctrl-[,ctrl-\\,ctrl-^,ctrl-_": "\x1b\x1c\x1e\x1f",
	} {
		keys, err := parseDetachKeys(names)
		require.NoError(t, err, names)
		require.Equal(t, want, string(keys), names)
	}
	for _, names := range []string{",", "a,", "ctrl-", "ctrl-1", "ctrl-pp", "shift-a", " ", "é", "a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q"} {
		_, err := parseDetachKeys(names)
		require.Error(t, err, names)
	}
}

func TestKeyScanner(t *testing.T) {
	for _, c := range []struct {
		keys, in, out string
		complete      bool
	}{
		{"PQ", "abPQcd", "ab", true},
		{"PQ", "PPQ", "P", true},
		{"PQ", "PxPyQP", "PxPyQ", false},
		{"PPQ", "PPPPQx", "PP", true},
		{"ABAC", "ABABAC", "AB", true},
		{"ABAC", "ABABAB", "ABAB"[:2], false},
		{"X", "abXc", "ab", true},
		{"", "PQ", "PQ", false},
	} {
		for step := 1; step <= len(c.in); step++ {
			s := keyScanner{keys: []byte(c.keys)}
			out, complete := "", false
			for i := 0; i < len(c.in) && !complete; i += step {
				var pass []byte
				pass, complete = s.scan([]byte(c.in[i:min(i+step, len(c.in))]))
				out += string(pass)
			}
			require.Equal(t, c.complete, complete, "%+v by %d", c, step)
			if !complete {
				out += string(s.flush())
				require.Equal(t, c.in, out, "%+v by %d", c, step)
				require.Empty(t, s.flush())
				continue
			}
			require.Equal(t, c.out, out, "%+v by %d", c, step)
		}
	}
}

// Whatever is typed arrives, but for the keys.
func FuzzKeyScanner(f *testing.F) {
	f.Add([]byte("\x10\x11"), []byte("ls\x10x\x10"), []byte("\x11"))
	f.Fuzz(func(t *testing.T, keys, one, two []byte) {
		if len(keys) > 16 {
			return
		}
		s := keyScanner{keys: keys}
		all := string(one) + string(two)
		out, complete := s.scan(one)
		got := string(out)
		if !complete {
			out, complete = s.scan(two)
			got += string(out)
		}
		if complete {
			require.Equal(t, got+string(keys), all[:len(got)+len(keys)])
			return
		}
		require.Equal(t, all, got+string(s.flush()))
	})
}
