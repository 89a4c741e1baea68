package sandbox

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzConfigFile: any bytes as config.json are an error or a record, the same
// each time; and a record that is written down reads as it was.
func FuzzConfigFile(f *testing.F) {
	for _, c := range []Config{{}, {Root: OCI{Ref: "alpine:3"}}, {Root: Dir{Path: "/srv"}}, {Root: Disk{Path: "/d.raw", Format: "raw"}},
		{Env: []string{"A=b"}, CPUs: 2}} {
		data, err := json.Marshal(record{Config: c, ImageDigest: "sha256:00"})
		require.NoError(f, err)
		f.Add(data)
	}
	f.Add([]byte(`{"config":{"root":{"oci":{"ref":"a"},"dir":{"path":"/"}}}}`))
	f.Add([]byte(`{"config":{"root":{}}}`))
	f.Add([]byte(`{"config":null}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var first, again record
		err := json.Unmarshal(data, &first)
		for range 3 {
			again = record{}
			require.Equal(t, err == nil, json.Unmarshal(data, &again) == nil)
		}
		if err != nil {
			return
		}
		require.Equal(t, first, again)
		written, err := json.Marshal(first)
		require.NoError(t, err)
		var read record
		require.NoError(t, json.Unmarshal(written, &read))
		rewritten, err := json.Marshal(read)
		require.NoError(t, err)
		require.Equal(t, string(written), string(rewritten))
	})
}
