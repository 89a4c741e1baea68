package main

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/sandpit-vm/sandpit/sandbox"
)

// statusUnreadable is the status of a sandbox whose state cannot be read.
const statusUnreadable = "unreadable"

// view is a sandbox as ls, ps and inspect print it. The JSON names are a
// promise to programs, the Go names one to templates.
type view struct {
	Name string `json:"name"`
	// Status is starting, running, draining, stopped, crashed or unreadable.
	Status string `json:"status"`
	// Error is what cannot be read; what depends on it is missing.
	Error string `json:"error,omitempty"`
	// Image is the image as it was asked for, "" for the embedded one, and
	// ImageDigest what that was when the sandbox was created (inspect only).
	Image       string            `json:"image"`
	ImageDigest string            `json:"image_digest,omitempty"`
	CPUs        int               `json:"cpus,omitempty"`
	MemoryMiB   int               `json:"memory_mib,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	// CreatedAt and UpdatedAt, when the status last changed, are RFC 3339 in
	// JSON.
	CreatedAt time.Time `json:"created_at,omitzero"`
	UpdatedAt time.Time `json:"updated_at,omitzero"`
	// Exit is how the sandbox ended; missing while it has not.
	Exit *exitView `json:"exit,omitempty"`
	// Config is the whole configuration (inspect only).
	Config json.RawMessage `json:"config,omitempty"`
}

// exitView is a sandbox.ExitStatus.
type exitView struct {
	Code    int    `json:"code"`
	Success bool   `json:"success"`
	Reason  string `json:"reason"`
	Detail  string `json:"detail,omitempty"`
	// Console is the end of the guest's console after a crash (inspect only).
	Console string `json:"console,omitempty"`
}

// look makes a sandbox's view, and says what of it could not be read.
func look(h *sandbox.Handle) (view, error) {
	v := view{Name: h.Name(), Status: string(h.Status()), CreatedAt: h.CreatedAt(), UpdatedAt: h.UpdatedAt()}
	if exit, ended := h.ExitStatus(); ended {
		v.Exit = &exitView{Code: exit.Code, Success: exit.Success, Reason: exit.Reason, Detail: exit.Detail}
	}
	cfg, err := h.Config()
	if err != nil {
		v.Error = err.Error()
		return v, err
	}
	v.Image, v.CPUs, v.MemoryMiB, v.Labels = imageName(cfg), cfg.CPUs, cfg.Memory, cfg.Labels
	return v, nil
}

// imageName is the image of a configuration, whichever way it was given.
func imageName(cfg sandbox.Config) string {
	if cfg.Image != "" {
		return cfg.Image
	}
	switch root := cfg.Root.(type) {
	case sandbox.OCI:
		return root.Ref
	case sandbox.Dir:
		return root.Path
	case sandbox.Disk:
		return root.Path
	}
	return ""
}

// lookAtAll makes the views of all sandboxes, those that cannot be read among
// them, by name.
func lookAtAll(ctx context.Context) ([]view, failures) {
	handles, err := sandbox.List(ctx)
	var (
		views  []view
		failed failures
	)
	for _, h := range handles {
		v, err := look(h)
		if err != nil {
			failed = append(failed, err)
		}
		views = append(views, v)
	}
	for _, err := range flatten(err) {
		failed = append(failed, err)
		var e *sandbox.Error
		if errors.As(err, &e) && e.Sandbox != "" {
			views = insert(views, view{Name: e.Sandbox, Status: statusUnreadable, Error: err.Error()})
		}
	}
	return views, failed
}

// insert keeps the order of names.
func insert(views []view, v view) []view {
	i := 0
	for i < len(views) && views[i].Name < v.Name {
		i++
	}
	return append(views[:i], append([]view{v}, views[i:]...)...)
}

// flatten is what an error of all sandboxes is made of: the errors of each.
func flatten(err error) []error {
	if err == nil {
		return nil
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var list []error
		for _, e := range joined.Unwrap() {
			list = append(list, flatten(e)...)
		}
		return list
	}
	var e *sandbox.Error
	if errors.As(err, &e) && e.Sandbox == "" {
		if joined, ok := e.Err.(interface{ Unwrap() []error }); ok {
			return flatten(joined.(error))
		}
	}
	return []error{err}
}
