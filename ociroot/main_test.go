package ociroot

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"testing"
	"time"
)

// childEnv makes this test binary a process that pulls: a JSON childJob.
const childEnv = "OCIROOT_TEST_CHILD"

type childJob struct {
	Dir, Ref string
	Start    time.Time // when to begin, so that several begin at once
	Hold     bool      // keep the root open until standard input ends
	Memory   bool      // report /proc/self/status at the end
	Archive  string    // load this instead
}

func TestMain(m *testing.M) {
	if job := os.Getenv(childEnv); job != "" {
		if err := child(job); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	// The credentials of whoever runs the tests are none of their business.
	for _, v := range []string{"DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"} {
		os.Unsetenv(v)
	}
	home, err := os.MkdirTemp("", "ociroot-home")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Setenv("HOME", home)
	os.Setenv("XDG_CONFIG_HOME", home)
	code := m.Run()
	os.RemoveAll(home)
	os.Exit(code)
}

func child(text string) error {
	var job childJob
	if err := json.Unmarshal([]byte(text), &job); err != nil {
		return err
	}
	s, err := OpenStore(job.Dir, Options{})
	if err != nil {
		return err
	}
	time.Sleep(time.Until(job.Start))
	ctx := context.Background()
	if job.Archive != "" {
		f, err := os.Open(job.Archive)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = s.Load(ctx, f, LoadOptions{})
		return err
	}
	im, err := s.Pull(ctx, job.Ref, anonymous())
	if err != nil {
		return err
	}
	root, err := s.OpenRoot(ctx, im)
	if err != nil {
		return err
	}
	fmt.Println(im.Digest)
	if job.Memory {
		status, err := os.ReadFile("/proc/self/status")
		if err != nil {
			return err
		}
		os.Stdout.Write(status)
	}
	if job.Hold {
		os.Stdin.Read(make([]byte, 1))
	}
	return root.Close()
}
