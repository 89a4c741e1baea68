package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"
)

// bigPull pulls an image of very many files, whose memory is what is measured.
func bigPull(w io.Writer, o options, dir string) error {
	storage := filepath.Join(dir, "big")
	reg, err := startRegistry(storage, filepath.Join(dir, "big.yml"))
	if err != nil {
		return err
	}
	defer reg.stop()
	layer := filepath.Join(dir, "big.tar.gz")
	total, err := pushBig(reg.addr, layer, o.bigFiles)
	if err != nil {
		return err
	}
	j := &job{steps: func(dir string) []*exec.Cmd {
		return []*exec.Cmd{homeOf(dir, exec.Command(o.sandpit, "pull", "--quiet", reg.addr+"/big"))}
	}}
	if err := j.once(dir); err != nil {
		return err
	}
	fmt.Fprintf(w, "sandpit pull of a made-up image, %d files with %.1f GB: %s, %s of CPU, peak memory %s (target: below 256 MiB)\n\n",
		o.bigFiles, float64(total)/1e9, ms(j.took[0]), ms(j.cpu[0]), mib(j.rss))
	return os.RemoveAll(storage)
}

// pushBig makes the image, its layer in a file on the way, and gives it to a
// registry.
func pushBig(addr, file string, files int) (size int64, err error) {
	f, err := os.Create(file)
	if err != nil {
		return 0, err
	}
	defer os.Remove(file)
	defer f.Close()
	packed, unpacked := &digester{sum: sha256.New()}, sha256.New()
	buffered := bufio.NewWriterSize(io.MultiWriter(f, packed), 1<<20)
	z, err := gzip.NewWriterLevel(buffered, gzip.BestSpeed)
	if err != nil {
		return 0, err
	}
	if size, err = bigArchive(io.MultiWriter(z, unpacked), files); err != nil {
		return 0, err
	}
	if err := z.Close(); err != nil {
		return 0, err
	}
	if err := buffered.Flush(); err != nil {
		return 0, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return 0, err
	}
	config, err := json.Marshal(map[string]any{
		"architecture": "amd64", "os": "linux", "config": map[string]any{},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + hex.EncodeToString(unpacked.Sum(nil))}},
	})
	if err != nil {
		return 0, err
	}
	layerDesc := descriptor{MediaType: "application/vnd.oci.image.layer.v1.tar+gzip", Digest: packed.digest(), Size: packed.n}
	configDesc := descriptor{MediaType: "application/vnd.oci.image.config.v1+json", Digest: digestOf(config), Size: int64(len(config))}
	const manifestType = "application/vnd.oci.image.manifest.v1+json"
	manifest, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": manifestType, "config": configDesc, "layers": []descriptor{layerDesc},
	})
	if err != nil {
		return 0, err
	}
	repo := "http://" + addr + "/v2/big"
	if err := pushBlob(repo, layerDesc, f); err != nil {
		return 0, err
	}
	if err := pushBlob(repo, configDesc, bytes.NewReader(config)); err != nil {
		return 0, err
	}
	return size, put(repo+"/manifests/latest", manifestType, int64(len(manifest)), bytes.NewReader(manifest))
}

// bigArchive writes files of 0 to 20 KB, 1,000 to a directory: half of them
// text, the other half zeros.
func bigArchive(w io.Writer, files int) (size int64, err error) {
	text := make([]byte, 1<<16)
	for i := range text {
		text[i] = "the quick brown fox jumps over the lazy dog\n"[(i*i/7+i)%44]
	}
	zeros := make([]byte, len(text))
	t := tar.NewWriter(w)
	when := time.Unix(1_700_000_000, 0)
	for i := range files {
		dir := fmt.Sprintf("usr/share/big/directory-%04d/", i/1000)
		if i%1000 == 0 {
			if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755, ModTime: when}); err != nil {
				return size, err
			}
		}
		n := (i * 7919) % 20480
		h := &tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("%sfile-with-a-name-of-usual-length-%06d.txt", dir, i),
			Size: int64(n), Mode: 0o644, ModTime: when, Uid: i % 100}
		if err := t.WriteHeader(h); err != nil {
			return size, err
		}
		data := text[i%40000:]
		if i%2 == 0 {
			data = zeros
		}
		if _, err := t.Write(data[:n]); err != nil {
			return size, err
		}
		size += int64(n)
	}
	return size, t.Close()
}

// digester sums and counts.
type digester struct {
	sum hash.Hash
	n   int64
}

func (d *digester) Write(p []byte) (int, error) {
	d.n += int64(len(p))
	return d.sum.Write(p)
}

func (d *digester) digest() string { return "sha256:" + hex.EncodeToString(d.sum.Sum(nil)) }

func digestOf(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// pushBlob uploads a blob in one piece (OCI distribution specification 1.1,
// "POST then PUT").
func pushBlob(repo string, d descriptor, data io.Reader) error {
	resp, err := http.Post(repo+"/blobs/uploads/", "", nil)
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusAccepted {
		return fmt.Errorf("upload: %s", resp.Status)
	}
	to, err := resp.Location()
	if err != nil {
		return err
	}
	q := to.Query()
	q.Set("digest", d.Digest)
	to.RawQuery = q.Encode()
	return put(to.String(), "application/octet-stream", d.Size, data)
}

func put(url, contentType string, size int64, data io.Reader) error {
	req, err := http.NewRequest(http.MethodPut, url, io.NopCloser(data))
	if err != nil {
		return err
	}
	req.ContentLength = size
	req.Header.Set("Content-Type", contentType)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		why, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
		return fmt.Errorf("push: %s: %s", resp.Status, strings.TrimSpace(string(why)))
	}
	return nil
}
