package ociroot

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Config is what an image says about the processes in it. Nothing in it is
// looked up on the host: users and directories are the image's own.
type Config struct {
	Env          []string          `json:"env,omitempty"` // "K=V"
	Entrypoint   []string          `json:"entrypoint,omitempty"`
	Cmd          []string          `json:"cmd,omitempty"`
	User         string            `json:"user,omitempty"` // NAME, UID, NAME:GROUP or UID:GID; "": root
	WorkingDir   string            `json:"workingDir,omitempty"`
	StopSignal   string            `json:"stopSignal,omitempty"`   // "SIGTERM", "TERM" or "15"; "": not said
	ExposedPorts []string          `json:"exposedPorts,omitempty"` // "80/tcp", sorted
	Volumes      []string          `json:"volumes,omitempty"`      // directories, sorted
	Labels       map[string]string `json:"labels,omitempty"`
	Created      time.Time         `json:"created,omitzero"`
	Author       string            `json:"author,omitempty"`
	OS           string            `json:"os,omitempty"`
	Architecture string            `json:"architecture,omitempty"`
	Variant      string            `json:"variant,omitempty"`
}

// clone shares nothing with c.
func (c Config) clone() Config {
	c.Env, c.Entrypoint, c.Cmd = slices.Clone(c.Env), slices.Clone(c.Entrypoint), slices.Clone(c.Cmd)
	c.ExposedPorts, c.Volumes = slices.Clone(c.ExposedPorts), slices.Clone(c.Volumes)
	labels := make(map[string]string, len(c.Labels))
	for k, v := range c.Labels {
		labels[k] = v
	}
	c.Labels = labels
	return c
}

// imageConfig is the part of an image's configuration that we read.
type imageConfig struct {
	Created      string `json:"created"`
	Author       string `json:"author"`
	OS           string `json:"os"`
	Architecture string `json:"architecture"`
	Variant      string `json:"variant"`
	Config       struct {
		Env          []string            `json:"Env"`
		Entrypoint   []string            `json:"Entrypoint"`
		Cmd          []string            `json:"Cmd"`
		User         string              `json:"User"`
		WorkingDir   string              `json:"WorkingDir"`
		StopSignal   string              `json:"StopSignal"`
		ExposedPorts map[string]struct{} `json:"ExposedPorts"`
		Volumes      map[string]struct{} `json:"Volumes"`
		Labels       map[string]string   `json:"Labels"`
	} `json:"config"`
	RootFS struct {
		Type    string    `json:"type"`
		DiffIDs []v1.Hash `json:"diff_ids"`
	} `json:"rootfs"`
}

// parseConfig reads the configuration of an image with so many layers.
func parseConfig(raw []byte, layers int) (Config, []v1.Hash, error) {
	if len(raw) > maxConfig {
		return Config{}, nil, exceeds("a configuration of more than %d bytes", maxConfig)
	}
	if _, err := topLevel(raw); err != nil {
		return Config{}, nil, err
	}
	var ic imageConfig
	if err := json.Unmarshal(raw, &ic); err != nil {
		return Config{}, nil, malformed("configuration: %w", err)
	}
	if len(ic.RootFS.DiffIDs) != layers {
		return Config{}, nil, malformed("the configuration lists %d layers, the manifest %d", len(ic.RootFS.DiffIDs), layers)
	}
	for _, d := range ic.RootFS.DiffIDs {
		if d.Algorithm != "sha256" {
			return Config{}, nil, malformed("diffID %q: only sha256 is supported", clean(d.String()))
		}
	}
	in := &ic.Config
	c := Config{
		Env: in.Env, Entrypoint: in.Entrypoint, Cmd: in.Cmd, User: in.User, WorkingDir: in.WorkingDir,
		StopSignal: in.StopSignal, ExposedPorts: keys(in.ExposedPorts), Volumes: keys(in.Volumes), Labels: in.Labels,
		Author: ic.Author, OS: ic.OS, Architecture: ic.Architecture, Variant: ic.Variant,
	}
	// A time that cannot be read is no reason to refuse an image.
	if t, err := time.Parse(time.RFC3339Nano, ic.Created); err == nil && t.Year() >= 1970 && t.Year() < 2400 {
		c.Created = t.UTC()
	}
	if err := c.check(); err != nil {
		return Config{}, nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return c, ic.RootFS.DiffIDs, nil
}

// check refuses strings that no process can be given.
func (c *Config) check() error {
	texts := slices.Concat(c.Env, c.Entrypoint, c.Cmd, c.ExposedPorts, c.Volumes, []string{c.User, c.WorkingDir, c.StopSignal})
	for _, s := range texts {
		if strings.Contains(s, "\x00") {
			return fmt.Errorf("the configuration has a NUL byte in %q", clean(s))
		}
	}
	return nil
}

func keys(m map[string]struct{}) []string {
	var list []string
	for k := range m {
		list = append(list, k)
	}
	slices.Sort(list)
	return list
}
