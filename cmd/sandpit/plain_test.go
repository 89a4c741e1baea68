package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPlain_T82(t *testing.T) {
	for in, want := range map[string]string{
		"":                         "",
		"two\n\tlines, ä, \u65e5":  "two\n\tlines, ä, \u65e5",
		"\x1b]0;title\x07\r\b\x7f": `\x1b]0;title\x07\x0d\x08\x7f`,
		"\u009b31m is CSI too":     `\u009b31m is CSI too`,
		"\x9b31m as a byte, \xff":  `\x9b31m as a byte, \xff`,
		"\u202etxt.exe":            `\u202etxt.exe`,
		"a \ufffd is no mystery":   `a \ufffd is no mystery`,
		"console:\n\x1b[2Jcleared": "console:\n" + `\x1b[2Jcleared`,
	} {
		require.Equal(t, want, plain(in), "%q", in)
	}
}

func TestJSONOfHostileText_T82(t *testing.T) {
	out, err := encodeJSON(map[string]string{"label": "\x1b[2J\u009b31m\x7f <&> \u202e ä"})
	require.NoError(t, err)
	require.Equal(t, "{\n  \"label\": \"\\u001b[2J\\u009b31m\\u007f <&> \\u202e ä\"\n}\n", string(out))
}
