package agent

import (
	"fmt"
	"strings"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

// validateStart checks everything about a request that does not need a look
// at the guest's files.
func validateStart(s *proto.ExecStart) error {
	bad := func(format string, args ...any) error {
		return fail(proto.StartFailure_BAD_ARGS, nil, format, args...)
	}
	if !validID(s.GetId()) {
		return bad("exec id must be 1 to %d of letters, digits, '.', '_' and '-'", proto.MaxExecID)
	}
	if len(s.GetArgs()) == 0 {
		return bad("no command given")
	}
	if s.GetArgs()[0] == "" {
		return bad("the command's name is empty")
	}
	if n := len(s.GetArgs()) + len(s.GetEnv()); n > proto.MaxArgs {
		return bad("%d arguments and environment variables: more than %d", n, proto.MaxArgs)
	}
	size := 0
	for _, a := range s.GetArgs() {
		if strings.IndexByte(a, 0) >= 0 {
			return bad("an argument holds a NUL byte")
		}
		size += len(a) + 1
	}
	if err := validateEnv(s.GetEnv()); err != nil {
		return err
	}
	for _, kv := range s.GetEnv() {
		size += len(kv) + 1
	}
	if size > proto.MaxArgBytes {
		return bad("arguments and environment take %d bytes: more than %d", size, proto.MaxArgBytes)
	}
	if s.GetRows() > proto.MaxTermCells || s.GetCols() > proto.MaxTermCells {
		return bad("terminal of %d by %d: more than %d", s.GetRows(), s.GetCols(), proto.MaxTermCells)
	}
	if s.GetKeep() && s.GetStdin() && !s.GetTty() {
		return bad("a kept command without a terminal has no stdin")
	}
	if s.GetTimeoutNs() < 0 {
		return bad("negative timeout")
	}
	if d := s.GetDir(); d != "" && (d[0] != '/' || strings.IndexByte(d, 0) >= 0) {
		return fail(proto.StartFailure_BAD_DIR, nil, "working directory %q is not an absolute path", d)
	}
	_, err := parseRlimits(s.GetRlimits())
	return err
}

func validateEnv(env []string) error {
	for _, kv := range env {
		if i := strings.IndexByte(kv, '='); i <= 0 || strings.IndexByte(kv, 0) >= 0 {
			return fail(proto.StartFailure_BAD_ARGS, nil, "environment entry %q is not NAME=VALUE", shorten(kv))
		}
	}
	return nil
}

func validID(id string) bool {
	if id == "" || len(id) > proto.MaxExecID {
		return false
	}
	for i := range len(id) {
		c := id[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-') {
			return false
		}
	}
	return true
}

func validateSetup(r *proto.SetupRequest) error {
	if h := r.GetHostname(); len(h) > proto.MaxHostname || strings.ContainsAny(h, "\x00/ \t\n") {
		return &Error{Op: "setup", Err: errString("hostname is longer than 64 bytes or not a name")}
	}
	if len(r.GetEnv()) > proto.MaxArgs {
		return &Error{Op: "setup", Err: errString("too many environment variables")}
	}
	size := 0
	for _, kv := range r.GetEnv() {
		size += len(kv) + 1
	}
	if size > proto.MaxArgBytes/2 {
		return &Error{Op: "setup", Err: errString("the default environment is too large")}
	}
	for _, ns := range r.GetNameservers() {
		if ns == "" || len(ns) > 64 || strings.ContainsAny(ns, "\x00\n\t ") {
			return &Error{Op: "setup", Err: errString("a name server is not an address")}
		}
	}
	if err := validateEnv(r.GetEnv()); err != nil {
		return &Error{Op: "setup", Err: err}
	}
	if _, err := parseRlimits(r.GetRlimits()); err != nil {
		return &Error{Op: "setup", Err: err}
	}
	if err := validateScripts(r.GetScripts()); err != nil {
		return err
	}
	if sig := r.GetStopSignal(); sig < 0 || sig > 64 {
		return &Error{Op: "setup", Err: errString("the stop signal is not in 1 to 64")}
	}
	if !knownRootType(r.GetRootFstype()) {
		return &Error{Op: "setup", Err: fmt.Errorf("the kernel has no file system %q for a root; use one of %s", shorten(r.GetRootFstype()), strings.Join(rootTypes, ", "))}
	}
	return nil
}

// errString is a constant error.
type errString string

func (e errString) Error() string { return string(e) }

// shorten keeps a message short whatever it quotes.
func shorten(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}
