package ociroot

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// A registry that resets connections in the middle of a layer is continued
// where it stopped.
func TestPull_Resume(t *testing.T) {
	r, s := newRegistry(t), newStore(t, Options{})
	img := sample(t)
	ref := r.push(t, "sample:v1", img)
	data := rawOf(t, img, 0)
	var sent atomic.Int64
	var ranges []string
	r.onBlob(layerOf(t, img, 0), func(w http.ResponseWriter, req *http.Request, n int64) {
		ranges = append(ranges, req.Header.Get("Range"))
		first := 0
		if rg := req.Header.Get("Range"); rg != "" {
			first, _ = strconv.Atoi(strings.Trim(rg, "bytes=-"))
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", first, len(data)-1, len(data)))
			w.WriteHeader(http.StatusPartialContent)
		}
		part := data[first:min(len(data), first+100_000)]
		sent.Add(int64(len(part)))
		w.Write(part)
		if first+len(part) < len(data) {
			hangUp(w)
		}
	})
	im := pull(t, s, ref, anonymous())
	text, err := rootFile(t, s, im, "big")
	require.NoError(t, err)
	require.Equal(t, noise(1, 300_000), text)
	require.Equal(t, int64(len(data)), sent.Load(), "nothing is fetched twice")
	require.Equal(t, "", ranges[0])
	require.Equal(t, "bytes=100000-", ranges[1])
}

// One that knows no ranges, refuses them or continues with something else is
// asked for the whole again.
func TestPull_RestartWithoutRanges(t *testing.T) {
	for name, again := range map[string]func(w http.ResponseWriter, data []byte){
		"200": func(w http.ResponseWriter, data []byte) { w.Write(data) },
		"416": func(w http.ResponseWriter, data []byte) { w.WriteHeader(http.StatusRequestedRangeNotSatisfiable) },
		"other content": func(w http.ResponseWriter, data []byte) {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", 1000, len(data)-1, len(data)))
			w.WriteHeader(http.StatusPartialContent)
			w.Write(bytes.Repeat([]byte{7}, len(data)-1000))
		},
	} {
		t.Run(name, func(t *testing.T) {
			r, s := newRegistry(t), newStore(t, Options{})
			img := sample(t)
			ref := r.push(t, "sample:v1", img)
			data := rawOf(t, img, 0)
			r.onBlob(layerOf(t, img, 0), func(w http.ResponseWriter, req *http.Request, n int64) {
				switch {
				case n == 1:
					w.Write(data[:1000])
					hangUp(w)
				case req.Header.Get("Range") != "":
					again(w, data)
				default:
					w.Write(data)
				}
			})
			pull(t, s, ref, anonymous())
		})
	}
}

// A partial blob of a dead process, right or wrong, does no harm.
func TestPull_PartialOfTheDead(t *testing.T) {
	r := newRegistry(t)
	img := sample(t)
	ref := r.push(t, "sample:v1", img)
	data, h := rawOf(t, img, 0), layerOf(t, img, 0)
	for name, part := range map[string][]byte{
		"right": data[:70_000], "wrong": bytes.Repeat([]byte{1}, 70_000), "whole": data,
		"wrong whole": bytes.Repeat([]byte{1}, len(data)), "too long": append(bytes.Clone(data), 1), "empty": {},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t, Options{})
			require.NoError(t, os.WriteFile(s.path("partial", h.Hex), part, 0o600))
			im := pull(t, s, ref, anonymous())
			requireExactly(t, s, im)
		})
	}
}
