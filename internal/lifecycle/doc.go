// Package lifecycle holds the model-based test of sandboxes' lives, and nothing
// else. Four worker processes (the test binary, executed again) do to a few
// names what callers do: create, start, connect, detach, exec, drain, stop,
// kill, remove, list; one at a time and several at once. Workers and monitors
// are killed with SIGKILL meanwhile. Everything a worker is told is held
// against a model of what can be.
//
//   - plan_test.go makes a sequence of steps out of a seed.
//   - worker_test.go is a worker, fleet_test.go the driver's side of them.
//   - model_test.go says what a sandbox can be and what becomes of it by itself,
//     programs_test.go what each operation does to it, in atomic steps;
//     search_test.go looks for an interleaving of these steps that explains what
//     was observed. None is a failure.
//   - lifecycle_test.go runs sequences and looks for what they left behind.
//
// A failure prints the seed and all steps. The seed gives the same plan again:
//
//	SANDPIT_LIFECYCLE_SEED=n go test ./internal/lifecycle -run TestSequences
//
// though not the same timing: what depends on it may take some repetitions
// (-count). SANDPIT_LIFECYCLE_TRACE prints the steps of what passes too,
// SANDPIT_LIFECYCLE_COUNT runs as many seeds, one after the other.
package lifecycle
