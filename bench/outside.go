package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"time"
)

// outside measures what needs no VM, makes a home with the image that the other
// parts run, and starts those in the rig.
func outside(o options, args []string) error {
	dir, err := os.MkdirTemp("", "sandpit-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	args = slices.Clone(args)
	left := slices.DeleteFunc(slices.Clone(o.parts), func(p string) bool { return p == partPull || p == partList })
	if o.has(partList) {
		if err := lists(os.Stdout, o, filepath.Join(dir, "listed")); err != nil {
			return err
		}
	}
	if o.has(partExec) {
		home, err := sshHome(o, dir)
		if err != nil {
			return err
		}
		args = append(args, "-ssh-home", home)
	}
	needs := func(p string) bool { return slices.Contains(needImage, p) }
	if slices.ContainsFunc(o.parts, needs) {
		image, err := withImages(o, dir)
		if err != nil {
			return err
		}
		if image == "" {
			left = slices.DeleteFunc(left, needs)
		}
		args = append(args, "-home", filepath.Join(dir, "home"), "-image", image)
	}
	if len(left) == 0 {
		return nil
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(o.kvmrig, append([]string{"--fresh", "--", self}, args...)...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", o.kvmrig, err)
	}
	return nil
}

// withImages does what needs a registry: it pulls the test image into dir/home
// and measures pulling. Without a registry there is no image, and it says so.
func withImages(o options, dir string) (image string, err error) {
	skip := func(why string) (string, error) {
		fmt.Printf("skipped, all that needs an image (%s, %s, %s, %s): %s\n\n", partPull, partImages, partRead, partMemory, why)
		return "", nil
	}
	if _, err := os.Stat(filepath.Join(o.testImages, "complete")); err != nil {
		return skip("there are no test images; make testimages makes them (" + err.Error() + ")")
	}
	if _, err := exec.LookPath("docker-registry"); err != nil {
		return skip("no docker-registry (" + err.Error() + ")")
	}
	reg, err := startRegistry(filepath.Join(o.testImages, "registry"), filepath.Join(dir, "registry.yml"))
	if err != nil {
		return "", err
	}
	defer reg.stop()
	image = reg.addr + "/python"
	if err := quietly(homeOf(filepath.Join(dir, "home"), exec.Command(o.sandpit, "pull", "--quiet", image))); err != nil {
		return "", err
	}
	if o.has(partPull) {
		if err := pulls(os.Stdout, o, dir, image); err != nil {
			return "", err
		}
	}
	return image, nil
}

// sshHome is a home with the image that the round trips are measured in, or ""
// if it was not made.
func sshHome(o options, dir string) (string, error) {
	if _, err := os.Stat(o.sshImage); err != nil {
		fmt.Printf("skipped, all with ssh (%s): scripts/bench.sh makes the image (%v)\n\n", partExec, err)
		return "", nil
	}
	home := filepath.Join(dir, "ssh-home")
	return home, quietly(homeOf(home, exec.Command(o.sandpit, "image", "load", "--quiet", "--name", sshImageName, o.sshImage)))
}

// homeOf gives a command of sandpit a home, and no credentials of the user's.
func homeOf(home string, cmd *exec.Cmd) *exec.Cmd {
	cmd.Env = append(os.Environ(), "SANDPIT_HOME="+home, "DOCKER_CONFIG="+home)
	return cmd
}

// quietly runs a command; its output is the error's if it fails.
func quietly(cmd *exec.Cmd) error {
	_, err := timed(cmd, 0)
	return err
}

// registry is a docker-registry on the loopback.
type registry struct {
	addr string
	cmd  *exec.Cmd
}

// startRegistry starts one that serves a storage directory; config is where its
// configuration goes.
func startRegistry(storage, config string) (*registry, error) {
	storage, err := filepath.Abs(storage)
	if err != nil {
		return nil, err
	}
	text := fmt.Sprintf("version: 0.1\nstorage: {filesystem: {rootdirectory: %q}}\nhttp: {addr: \"127.0.0.1:0\"}\n", storage)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	cmd := exec.Command("docker-registry", "serve", config)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	reg := &registry{cmd: cmd}
	found := make(chan string, 1)
	go func() {
		listening := regexp.MustCompile(`listening on (127\.0\.0\.1:\d+)`)
		for s := bufio.NewScanner(stderr); s.Scan(); {
			if m := listening.FindStringSubmatch(s.Text()); m != nil {
				select {
				case found <- m[1]:
				default:
				}
			}
		}
		close(found)
	}()
	select {
	case reg.addr = <-found:
	case <-time.After(60 * time.Second):
	}
	if reg.addr == "" {
		reg.stop()
		return nil, fmt.Errorf("docker-registry does not listen")
	}
	return reg, nil
}

func (r *registry) stop() {
	_ = r.cmd.Process.Kill()
	_ = r.cmd.Wait()
}
