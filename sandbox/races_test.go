package sandbox

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/internal/state"
)

func raceHome(t *testing.T) state.Home {
	t.Helper()
	dir := t.TempDir()
	return state.Home{Sandboxes: filepath.Join(dir, "sandboxes"), Cache: filepath.Join(dir, "cache")}
}

// A sandbox that another process is about to start has no socket yet: whoever
// wants its name waits.
func TestMakeRoomWhileAnotherStarts(t *testing.T) {
	home := raceHome(t)
	_, lock, err := home.Create("box", record{}, false)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, makeRoom(ctx, home, "box"), context.DeadlineExceeded)

	time.AfterFunc(50*time.Millisecond, func() { lock.Close() })
	require.NoError(t, makeRoom(t.Context(), home, "box"))
	_, err = home.Open("box")
	require.ErrorIs(t, err, ErrNotFound)
}

// What cannot be read can be removed: until then no unused image can be.
func TestRemoveOfTheUnreadable(t *testing.T) {
	t.Setenv("SANDPIT_HOME", t.TempDir())
	home, err := state.DefaultHome()
	require.NoError(t, err)
	dir, lock, err := home.Create("box", record{}, false)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(dir.File(state.StateFile), []byte("{"), 0o600))
	require.ErrorIs(t, Remove(t.Context(), "box"), ErrRunning)
	require.NoError(t, lock.Close())
	_, err = Get(t.Context(), "box")
	require.Error(t, err)
	require.NoError(t, Remove(t.Context(), "box"))
	require.ErrorIs(t, Remove(t.Context(), "box"), ErrNotFound)
	var bad *ConfigError
	require.ErrorAs(t, Remove(t.Context(), "../box"), &bad)
}

// A start that came to nothing leaves the state that there was; one that another
// process has begun meanwhile, or that ended with a word, is not touched.
func TestUnstart(t *testing.T) {
	home := raceHome(t)
	dir, lock, err := home.Create("box", record{}, false)
	require.NoError(t, err)
	h := &Handle{dir: dir}
	before := state.State{Status: Stopped, Code: 3}
	status := func() state.State {
		var s state.State
		require.NoError(t, dir.ReadJSON(state.StateFile, &s))
		return s
	}
	require.NoError(t, dir.WriteJSON(state.StateFile, state.State{Status: Starting}))
	h.unstart(before)
	require.Equal(t, Starting, status().Status, "locked: somebody else starts it")
	require.NoError(t, lock.Close())
	h.unstart(before)
	require.Equal(t, before, status())
	require.NoError(t, dir.WriteJSON(state.StateFile, state.State{Status: Crashed}))
	h.unstart(before)
	require.Equal(t, Crashed, status().Status)
	require.NoError(t, dir.Remove())
	h.unstart(before)
	_, err = home.Open("box")
	require.ErrorIs(t, err, ErrNotFound)
}

// An image cannot make a sandbox whose record nobody can read, or that the
// agent refuses, and is the one to blame.
func TestLargeImageConfig_Row32(t *testing.T) {
	for name, image := range map[string]ImageConfig{
		"labels":    {Labels: map[string]string{"l": strings.Repeat("<", 1<<20)}},
		"command":   {Cmd: []string{strings.Repeat("x", 4<<20-100)}},
		"variables": {Env: []string{"A=" + strings.Repeat("x", maxEnvBytes)}},
		"many":      {Env: many("V", maxEnv+1)},
	} {
		var cfg Config
		require.ErrorIs(t, cfg.inherit(image), ErrImageContent, name)
	}
	cfg := Config{Labels: map[string]string{"l": strings.Repeat("<", 1<<20)}}
	_, err := cfg.withDefaults("box")
	var bad *ConfigError
	require.ErrorAs(t, err, &bad)
	cfg = Config{}
	require.NoError(t, cfg.inherit(ImageConfig{Labels: map[string]string{"l": strings.Repeat("x", 3<<20)}}))
}

func many(name string, n int) []string {
	var list []string
	for i := range n {
		list = append(list, name+strings.Repeat("x", i%7)+string(rune('a'+i%26))+time.Duration(i).String()+"=")
	}
	return list
}

// A disk image or a kernel that has become a FIFO since it was checked is
// refused, not waited for.
func TestOpenRegular_Row17(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "disk.raw")
	require.NoError(t, unix.Mkfifo(fifo, 0o600))
	_, err := openDisk(Disk{Path: fifo, Format: formatRaw, ReadOnly: true})
	require.ErrorContains(t, err, "not a regular file")
	_, err = openDisk(Disk{Path: fifo, Format: formatRaw})
	require.ErrorContains(t, err, "not a regular file")
}
