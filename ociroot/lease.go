package ociroot

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"io/fs"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// lease announces what an operation needs before index.json does: a locked file
// that lists digests. Its entries count while the lock is held, that is, while
// the operation's process lives.
type lease struct {
	s *Store
	f *os.File
}

// lease begins one. The lock on the store makes that the file is never seen
// before it is locked.
func (s *Store) lease(ctx context.Context) (*lease, error) {
	l := &lease{s: s}
	err := s.locked(ctx, func() (err error) {
		l.f, err = lock(ctx, s.path("leases", rand.Text()), os.O_RDWR|os.O_CREATE, exclusive, nil)
		return err
	})
	if err != nil {
		return nil, err
	}
	return l, nil
}

// add announces digests. Only after it may the caller look whether their blobs
// exist: then they stay.
func (l *lease) add(ctx context.Context, digests ...v1.Hash) error {
	return l.s.locked(ctx, func() error {
		var text []byte
		for _, d := range digests {
			text = append(append(text, d.Hex...), '\n')
		}
		_, err := l.f.Write(text)
		return err
	})
}

func (l *lease) end() { unlock(l.f) }

// leased returns what living operations need, and removes what dead ones left.
// Called with the store locked.
func (s *Store) leased() (map[string]bool, error) {
	entries, err := os.ReadDir(s.path("leases"))
	if err != nil {
		return nil, err
	}
	needed := map[string]bool{}
	for _, e := range entries {
		path := s.path("leases", e.Name())
		f, err := tryLock(path, os.O_RDONLY, shared)
		switch {
		case err == nil: // its holder is dead
			os.Remove(path)
			f.Close()
			continue
		case errors.Is(err, fs.ErrNotExist):
			continue
		case !errors.Is(err, errBusy):
			return nil, err
		}
		if err := readLease(path, needed); err != nil {
			return nil, err
		}
	}
	return needed, nil
}

func readLease(path string, needed map[string]bool) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // ended just now: index.json has it all
	}
	if err != nil {
		return err
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		needed[sc.Text()] = true
	}
	return sc.Err()
}
