package state

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func testHome(t *testing.T) Home {
	t.Helper()
	dir := t.TempDir()
	return Home{Sandboxes: filepath.Join(dir, "sandboxes"), Cache: filepath.Join(dir, "cache")}
}

type config struct{ CPUs int }

func TestCreateIsCompleteAndLocked(t *testing.T) {
	h := testHome(t)
	d, lock, err := h.Create("box", config{CPUs: 3}, false)
	require.NoError(t, err)
	defer lock.Close()

	var got config
	require.NoError(t, d.ReadJSON(ConfigFile, &got))
	require.Equal(t, config{CPUs: 3}, got)
	locked, err := d.Locked()
	require.NoError(t, err)
	require.True(t, locked)
	require.ErrorIs(t, d.Remove(), ErrLocked)

	s, err := d.Read()
	require.NoError(t, err)
	require.Equal(t, Starting, s.Status, "locked and without a state: it boots")

	info, err := os.Stat(d.Path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), info.Mode().Perm())
	info, err = os.Stat(d.File(ConfigFile))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())

	names, err := h.List()
	require.NoError(t, err)
	require.Equal(t, []string{"box"}, names)
}

func TestCreateTakesANameOnce(t *testing.T) {
	h := testHome(t)
	var (
		mu   sync.Mutex
		won  []*os.File
		errs []error
		wg   sync.WaitGroup
	)
	for range 16 {
		wg.Go(func() {
			_, lock, err := h.Create("box", config{}, false)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, err)
				return
			}
			won = append(won, lock)
		})
	}
	wg.Wait()
	require.Len(t, won, 1)
	require.Len(t, errs, 15)
	for _, err := range errs {
		require.ErrorIs(t, err, ErrExists)
	}
	won[0].Close()
	entries, err := os.ReadDir(h.Sandboxes)
	require.NoError(t, err)
	require.Len(t, entries, 1, "the losers left nothing")
}

func TestFreeLockMeansCrashed(t *testing.T) {
	h := testHome(t)
	d, lock, err := h.Create("box", config{}, false)
	require.NoError(t, err)
	require.NoError(t, d.WriteJSON(StateFile, State{Status: Running}))
	s, err := d.Read()
	require.NoError(t, err)
	require.Equal(t, Running, s.Status)

	require.NoError(t, lock.Close())
	s, err = d.Read()
	require.NoError(t, err)
	require.Equal(t, Crashed, s.Status)

	require.NoError(t, d.WriteJSON(StateFile, State{Status: Stopped, Code: 3}))
	s, err = d.Read()
	require.NoError(t, err)
	require.Equal(t, Stopped, s.Status)
	require.NoError(t, d.Remove())
	_, err = h.Open("box")
	require.ErrorIs(t, err, ErrNotFound)
}

// One who opened the lock before the sandbox was removed and another took its
// name has nothing: the old lock protects nobody.
func TestLockOfARemovedSandbox(t *testing.T) {
	h := testHome(t)
	old, lock, err := h.Create("box", config{}, false)
	require.NoError(t, err)
	require.NoError(t, lock.Close())

	var running *os.File
	overtake := func(again bool) {
		lockOpened = func() {
			lockOpened = nil
			require.NoError(t, old.Remove())
			if again {
				_, running, err = h.Create("box", config{CPUs: 2}, false)
				require.NoError(t, err)
			}
		}
	}
	t.Cleanup(func() { lockOpened = nil })
	overtake(true)
	_, err = old.Lock()
	require.ErrorIs(t, err, ErrLocked, "the name's lock is the new sandbox's")
	require.ErrorIs(t, old.Remove(), ErrLocked)
	_, err = h.Open("box")
	require.NoError(t, err)

	require.NoError(t, running.Close())
	overtake(false)
	require.ErrorIs(t, old.Remove(), ErrNotFound)
	_, err = os.Stat(old.Path)
	require.ErrorIs(t, err, os.ErrNotExist)
}

// The lock goes to a child with its descriptor and lives as long as the child.
func TestLockFollowsTheDescriptor(t *testing.T) {
	h := testHome(t)
	d, lock, err := h.Create("box", config{}, false)
	require.NoError(t, err)
	child := exec.Command("sleep", "60")
	child.ExtraFiles = []*os.File{lock}
	require.NoError(t, child.Start())
	require.NoError(t, lock.Close())
	locked, err := d.Locked()
	require.NoError(t, err)
	require.True(t, locked)
	require.NoError(t, child.Process.Kill())
	require.Error(t, child.Wait())
	locked, err = d.Locked()
	require.NoError(t, err)
	require.False(t, locked)
}

func TestReadJSONRefusesWhatItCannotTrust(t *testing.T) {
	h := testHome(t)
	d, lock, err := h.Create("box", config{}, false)
	require.NoError(t, err)
	defer lock.Close()

	require.NoError(t, os.WriteFile(d.File(StateFile), []byte(`{"status":`), 0o600))
	_, err = d.Read()
	var e *Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, d.File(StateFile), e.Path)

	require.NoError(t, os.Remove(d.File(StateFile)))
	require.NoError(t, os.Symlink("/etc/passwd", d.File(StateFile)))
	_, err = d.Read()
	require.Error(t, err, "a symlink is not followed")

	require.NoError(t, os.Remove(d.File(StateFile)))
	require.NoError(t, unix.Mkfifo(d.File(StateFile), 0o600))
	_, err = d.Read()
	require.Error(t, err, "nor a FIFO waited for")

	require.NoError(t, os.Remove(d.File(StateFile)))
	require.NoError(t, os.WriteFile(d.File(StateFile), make([]byte, MaxJSON+1), 0o600))
	_, err = d.Read()
	require.ErrorContains(t, err, "larger than")
}

func TestSweep(t *testing.T) {
	h := testHome(t)
	_, lock, err := h.Create("kept", config{}, false)
	require.NoError(t, err)
	lock.Close()
	_, lock, err = h.Create("orphan", config{}, true)
	require.NoError(t, err)
	lock.Close()
	_, lock, err = h.Create("alive", config{}, true)
	require.NoError(t, err)
	defer lock.Close()
	young := filepath.Join(h.Sandboxes, newPrefix+"young")
	old := filepath.Join(h.Sandboxes, gonePrefix+"old")
	require.NoError(t, os.Mkdir(young, 0o700))
	require.NoError(t, os.Mkdir(old, 0o700))
	past := time.Now().Add(-2 * sweepAge)
	require.NoError(t, os.Chtimes(old, past, past))

	require.NoError(t, h.Sweep())
	names, err := h.List()
	require.NoError(t, err)
	require.Equal(t, []string{"alive", "kept"}, names)
	require.DirExists(t, young)
	require.NoDirExists(t, old)
}

func TestHomeFromEnvironment(t *testing.T) {
	t.Setenv("SANDPIT_HOME", "/srv/pit")
	h, err := DefaultHome()
	require.NoError(t, err)
	require.Equal(t, Home{Sandboxes: "/srv/pit/sandboxes", Cache: "/srv/pit/cache"}, h)

	t.Setenv("SANDPIT_HOME", "relative")
	_, err = DefaultHome()
	require.ErrorContains(t, err, "not an absolute path")

	t.Setenv("SANDPIT_HOME", "")
	t.Setenv("XDG_STATE_HOME", "/x/state")
	t.Setenv("XDG_CACHE_HOME", "relative is ignored")
	t.Setenv("HOME", "/home/u")
	h, err = DefaultHome()
	require.NoError(t, err)
	require.Equal(t, Home{Sandboxes: "/x/state/sandpit/sandboxes", Cache: "/home/u/.cache/sandpit"}, h)

	t.Setenv("XDG_STATE_HOME", "")
	t.Setenv("HOME", "")
	_, err = DefaultHome()
	require.ErrorContains(t, err, "set SANDPIT_HOME")
}

func TestUnwritableHome(t *testing.T) {
	// A file where the directory should be fails for root too.
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "f"), nil, 0o600))
	h := Home{Sandboxes: filepath.Join(dir, "f", "sandboxes")}
	_, _, err := h.Create("box", config{}, false)
	var e *Error
	require.True(t, errors.As(err, &e))
	require.Contains(t, err.Error(), h.Sandboxes)
}

func FuzzReadState(f *testing.F) {
	f.Add([]byte(`{"status":"running","created":"2026-01-01T00:00:00Z"}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		h := testHome(t)
		d, lock, err := h.Create("box", config{}, false)
		require.NoError(t, err)
		defer lock.Close()
		require.NoError(t, os.WriteFile(d.File(StateFile), data, 0o600))
		if s, err := d.Read(); err == nil {
			require.NoError(t, d.WriteJSON(StateFile, s), "what was read can be written")
		}
	})
}

// What was removed since it was found is not found, rather than broken.
func TestReadOfTheRemoved(t *testing.T) {
	h := testHome(t)
	d, lock, err := h.Create("box", config{}, true)
	require.NoError(t, err)
	require.NoError(t, d.RemoveEphemeral())
	_, err = d.Read()
	require.NoError(t, err, "it is held")
	require.NoError(t, lock.Close())
	require.NoError(t, d.RemoveEphemeral())
	_, err = d.Read()
	require.ErrorIs(t, err, ErrNotFound)
	var c config
	require.ErrorIs(t, d.ReadConfig(&c), ErrNotFound)
	require.NoError(t, d.RemoveEphemeral())
}
