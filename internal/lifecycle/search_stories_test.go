package lifecycle

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// The model is held against stories that can be, and stories that cannot.
func TestModel(t *testing.T) {
	create := op{Kind: opCreate, Slot: 0, Name: "a", ID: 1}
	again := op{Kind: opCreate, Slot: 1, Name: "a", ID: 2}
	exec := op{Kind: opExec, Slot: 2, Name: "a"}
	stop := op{Kind: opStop, Slot: 2, Name: "a"}
	remove := op{Kind: opRemove, Slot: 3, Name: "a"}
	status := op{Kind: opStatus, Slot: 3, Name: "a"}
	start := op{Kind: opStart, Slot: 1, Name: "a"}
	drain := op{Kind: opDrain, Slot: 1, Name: "a"}
	busy := op{Kind: opBusy, Slot: 0, Name: "a", Held: true}
	release := op{Kind: opRelease, Slot: 0, Name: "a"}
	killCreator := op{Kind: opKillWorker, Slot: 0}
	killMonitor := op{Kind: opKillMonitor, Slot: nobody, Name: "a"}
	type step = []observation
	for _, tt := range []struct {
		name  string
		steps []step
		is    string // "" cannot be
	}{
		{"a life", []step{{{create, rOK}}, {{exec, "ok:1"}}, {{stop, "ok:stopped"}}, {{status, "stopped"}}, {{remove, rOK}}}, "absent"},
		{"a name taken twice, one after the other", []step{{{create, rOK}}, {{again, rOK}}}, ""},
		{"a name taken twice, at once", []step{{{create, rOK}, {again, rOK}}}, ""},
		{"one of two", []step{{{create, rExists}, {again, rOK}}}, "running #2 of 1"},
		{"none of two", []step{{{create, rExists}, {again, rExists}}}, ""},
		{"removed while it runs", []step{{{create, rOK}}, {{remove, rOK}}}, ""},
		{"removed between two creations", []step{{{create, rOK}}, {{stop, "ok:stopped"}, {remove, rOK}, {again, rOK}}}, "running #2 of 1"},
		{"refused while it runs, though stopped at the same time", []step{{{create, rOK}}, {{stop, "ok:stopped"}, {remove, rRunning}}}, "stopped #1 (stopped)"},
		{"another sandbox's command", []step{{{create, rOK}}, {{exec, "ok:2"}}}, ""},
		{"the wrong reason", []step{{{create, rOK}}, {{stop, "ok:killed"}}}, ""},
		{"a stop that did nothing", []step{{{create, rOK}}, {{stop, "ok:stopped"}}, {{exec, "ok:1"}}}, ""},
		{"started while it runs", []step{{{create, rOK}}, {{start, rOK}}}, ""},
		{"a creator's end ends it", []step{{{create, rOK}}, {{killCreator, rOK}}, {{stop, "ok:creator-ended"}}}, "stopped #1 (creator-ended)"},
		{"a killed monitor", []step{{{create, rOK}}, {{killMonitor, rKilled}}, {{status, "crashed"}}}, "crashed #1 (crashed)"},
		{"a killed monitor that still runs", []step{{{create, rOK}}, {{killMonitor, rKilled}}, {{status, "running"}}}, ""},
		{"a monitor that is not there", []step{{{create, rOK}}, {{killMonitor, rNone}}}, ""},
		{"a creator killed at work", []step{{{create, rGone}, {killCreator, rOK}}, {{status, "crashed"}}}, "crashed #1 half (crashed)"},
		{"an answer that was given before the death", []step{{{create, rOK}, {killCreator, rOK}}, {{status, rNotFound}}}, ""},
		{"an attached sandbox that survives", []step{{{create, rGone}, {killCreator, rOK}}, {{stop, "ok:stopped"}}}, ""},
		{"drained", []step{{{create, rOK}}, {{busy, rOK}}, {{drain, rOK}}, {{status, "draining"}}, {{exec, rDraining}}, {{release, rOK}}, {{stop, "ok:drained"}}}, "stopped #1 (drained)"},
		{"drained, and takes another command", []step{{{create, rOK}}, {{busy, rOK}}, {{drain, rOK}}, {{exec, "ok:1"}}}, ""},
		{"drained, and ended before its command", []step{{{create, rOK}}, {{busy, rOK}}, {{drain, rOK}}, {{status, "stopped"}}}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			truth := worlds{newWorld(): {}}
			for _, s := range tt.steps {
				truth = explain(truth, s)
			}
			require.Equal(t, tt.is, truth.String())
		})
	}
}

// The same seed makes the same plan.
func TestPlan(t *testing.T) {
	require.Equal(t, makePlan(7), makePlan(7))
	require.NotEqual(t, makePlan(7), makePlan(8))
	for seed := range uint64(500) {
		for _, ops := range makePlan(seed) {
			require.LessOrEqual(t, len(ops), maxOps)
		}
	}
}
