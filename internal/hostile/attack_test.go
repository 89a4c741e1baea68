package hostile

import (
	"os"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/virtio"
	vt "github.com/sandpit-vm/sandpit/virtio/virtiotest"
)

// full reports whether everything is to run, however long it takes.
func full() bool { return os.Getenv("SANDPIT_TEST_FULL") != "" }

// attack is one try, against one device in one world. A check that fails ends
// it; what it leaves behind, the next one's reset has to cope with.
type attack struct {
	testing.TB
	w *world
	s *subject

	long bool // by its chains' length: nothing for victims that take long ones
}

// listed is an attack in a list. Its name begins with its threat's number.
type listed struct {
	name     string
	run      func(*attack)
	devices  []string // that it is for; nil is all
	scribble bool     // writes to memory beside the device
}

func (l listed) isFor(name string) bool {
	if l.devices == nil {
		return !slices.Contains(onlySpecial, name)
	}
	return slices.Contains(l.devices, name)
}

// attacks are all of them.
func attacks() []listed {
	return slices.Concat(transportAttacks, ringAttacks, chainAttacks(), lifecycleAttacks, blkAttacks, vsockAttacks, deviceAttacks, balloonAttacks, balloonRingAttacks)
}

// TestInProcess makes every attack on every device without a virtual machine.
func TestInProcess(t *testing.T) {
	for _, name := range subjectNames {
		t.Run(name, func(t *testing.T) {
			s := newSubject(t, name)
			w := inProcess(t, s, false)
			for _, l := range attacks() {
				if !l.isFor(name) {
					continue
				}
				if !l.scribble {
					t.Run(l.name, func(t *testing.T) { judge(t, w, s, l.run) })
					continue
				}
				t.Run(l.name, func(t *testing.T) {
					s := newSubject(t, name)
					judge(t, inProcess(t, s, true), s, l.run)
				})
			}
		})
	}
}

// guestAttacks makes every attack on one device from inside a virtual machine.
func guestAttacks(t *testing.T, name string) {
	s := newSubject(t, name)
	w := inGuest(t, s)
	for _, l := range attacks() {
		if l.isFor(name) {
			t.Run(l.name, func(t *testing.T) { judge(t, w, s, l.run) })
		}
	}
}

func TestGuest_Blk(t *testing.T)     { guestAttacks(t, "blk") }
func TestGuest_Vsock(t *testing.T)   { guestAttacks(t, "vsock") }
func TestGuest_RNG(t *testing.T)     { guestAttacks(t, "rng") }
func TestGuest_Console(t *testing.T) { guestAttacks(t, "console") }
func TestGuest_PMem(t *testing.T)    { guestAttacks(t, "pmem") }
func TestGuest_Balloon(t *testing.T) { guestAttacks(t, "balloon") }
func TestGuest_BlkRO(t *testing.T)   { guestAttacks(t, "blk-ro") }

func TestGuest_BalloonStats(t *testing.T) { guestAttacks(t, "balloon-stats") }

// judge makes an attack and says how it went. In a virtual machine the guest
// says it, through its port.
func judge(t *testing.T, w *world, s *subject, run func(*attack)) {
	why, stuck := try(t, func(tb testing.TB) { run(&attack{TB: tb, w: w, s: s}) })
	dead, stuckToo := try(t, func(tb testing.TB) {
		a := &attack{TB: tb, w: w, s: s}
		a.join()
		a.alive()
	})
	v := PASS
	switch {
	case dead != "" || stuck || stuckToo:
		v = WEDGED
	case why != "":
		v = FAIL
	}
	if w.guest != nil && !stuckToo {
		said, err := w.guest.Report(v)
		require.NoError(t, err)
		require.Equal(t, v, said)
	}
	if v != PASS {
		t.Errorf("%v: %s; afterwards: %s", v, why, dead)
	}
}

// driver returns a driver that has done nothing yet. Queues have 16 entries
// unless cfg says otherwise.
func (a *attack) driver(cfg vt.Config) *vt.Driver {
	if cfg.QueueSize == 0 {
		cfg.QueueSize = 16
	}
	cfg.MemBase, cfg.MemSize = subjectBase, subjectSize
	return vt.NewOver(a, a.w.regs, a.w.ram, cfg)
}

// start returns a driver that has started the device.
func (a *attack) start(cfg vt.Config) *vt.Driver {
	a.Helper()
	d := a.driver(cfg)
	d.Start()
	return d
}

// serve makes a good request and expects a good answer.
func (a *attack) serve(d *vt.Driver) {
	a.Helper()
	a.answered(d.Ring(a.s.queue).Do(a.s.request, a.s.room))
}

// answered checks the answer to a good request.
func (a *attack) answered(r vt.Reply) {
	a.Helper()
	require.Equal(a, a.s.used, r.Used, "bytes written")
	if a.s.disk != nil {
		require.EqualValues(a, blkOK, r.Data[512], "status")
		require.Equal(a, a.s.disk.snapshot()[3*512:4*512], r.Data[:512])
	}
}

// alive expects that a reset makes the device serve again, and that the
// bystander never stopped.
func (a *attack) alive() {
	a.Helper()
	a.s.brittle.worker.Store(false)
	a.s.brittle.config.Store(false)
	d := a.driver(vt.Config{})
	d.Reset()
	require.Zero(a, d.Status(), "after a reset")
	d.Start()
	a.serve(d)
	require.False(a, d.NeedsReset())
	a.otherServes()
}

// otherServes expects that the other device works, without a reset.
func (a *attack) otherServes() {
	a.Helper()
	o := vt.NewOver(a, a.w.otherRegs, a.w.ram, vt.Config{MemBase: otherBase, MemSize: otherSize})
	if a.w.other == nil {
		o.Start()
		a.w.other = o
	}
	a.w.other.TB = a
	require.EqualValues(a, 8, a.w.other.Ring(0).Do(nil, 8).Used, "the other device")
}

// breaks expects that the device gives up.
func (a *attack) breaks(d *vt.Driver) {
	a.Helper()
	a.flush()
	d.WaitNeedsReset()
}

// eachVictim starts the device anew for each queue that takes chains. fire makes
// it do so.
func (a *attack) eachVictim(cfg vt.Config, f func(d *vt.Driver, r *vt.Ring, fire func())) {
	a.Helper()
	for _, v := range a.s.victims {
		if v.long && a.long {
			continue
		}
		d := a.start(cfg)
		r := d.Ring(v.queue)
		f(d, r, func() {
			r.Kick()
			if v.trigger != nil {
				v.trigger(a, d)
			}
		})
	}
}

const (
	acknowledge = virtio.StatusAcknowledge
	driverBit   = acknowledge | virtio.StatusDriver
	featuresOK  = driverBit | virtio.StatusFeaturesOK
	driverOK    = featuresOK | virtio.StatusDriverOK
)
