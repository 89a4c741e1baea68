package lifecycle

import (
	"maps"
	"slices"
	"strings"
)

// worlds are the possible truths about a name.
type worlds map[world]struct{}

// closure adds what may have become of them by themselves.
func (ws worlds) closure() worlds {
	all := maps.Clone(ws)
	todo := slices.Collect(maps.Keys(ws))
	for len(todo) > 0 {
		w := todo[0]
		todo = todo[1:]
		for _, n := range w.byItself() {
			if _, seen := all[n]; !seen {
				all[n] = struct{}{}
				todo = append(todo, n)
			}
		}
	}
	return all
}

// only keeps those that f likes.
func (ws worlds) only(f func(world) bool) worlds {
	kept := worlds{}
	for w := range ws {
		if f(w) {
			kept[w] = struct{}{}
		}
	}
	return kept
}

func (ws worlds) all(f func(world) bool) bool { return len(ws.only(f)) == len(ws) }

func (ws worlds) String() string {
	var texts []string
	for w := range ws {
		if !slices.Contains(texts, w.String()) {
			texts = append(texts, w.String())
		}
	}
	slices.Sort(texts)
	return strings.Join(texts, " | ")
}

// observation is an operation and what was said of it.
type observation struct {
	op     op
	result string
}

func matches(result, observed string) bool {
	if prefix, any := strings.CutSuffix(result, "*"); any {
		return strings.HasPrefix(observed, prefix)
	}
	return result == observed
}

// maxOps is how many operations can go on at a time: the workers', a death of
// each, and that of a monitor.
const maxOps = 2*slots + 1

// node is a point of the search: a world, and how far each operation has come.
type node struct {
	w  world
	at [maxOps]progress
}

type progress struct {
	pc   int8
	boot uint16
	done bool
}

// explain returns the worlds that some interleaving of the operations, with the
// results observed, can lead to. All were begun after, and ended before,
// whatever else there was. No world: what was observed cannot be.
func explain(from worlds, obs []observation) worlds {
	if len(obs) > maxOps {
		panic("too many operations at a time")
	}
	seen := map[node]struct{}{}
	var todo []node
	visit := func(n node) {
		if _, ok := seen[n]; !ok {
			seen[n] = struct{}{}
			todo = append(todo, n)
		}
	}
	for w := range from {
		visit(node{w: w})
	}
	to := worlds{}
	for len(todo) > 0 {
		n := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		over := true
		for i, o := range obs {
			if !n.at[i].done {
				over = false
				advance(n, i, o, obs, visit)
			}
		}
		if over {
			to[n.w] = struct{}{}
		}
		for _, w := range n.w.byItself() {
			n.w = w
			visit(n)
		}
	}
	return to
}

// advance makes every possible next step of operation i.
func advance(n node, i int, o observation, obs []observation, visit func(node)) {
	if o.op.Kind == opKillWorker {
		n.w = n.w.killWorker(o.op.Slot)
		n.at[i].done = true
		for j, other := range obs {
			if n.at[j].done || !other.op.by(o.op.Slot) {
				continue
			}
			if other.result != rGone {
				return // it had an answer, so it was done before
			}
			n.at[j].done = true
		}
		visit(n)
		return
	}
	at := n.at[i]
	for _, out := range o.op.step(at.pc, at.boot, n.w) {
		m := n
		m.w = out.w
		m.at[i] = progress{pc: out.pc, boot: out.boot}
		if out.result != "" {
			if !matches(out.result, o.result) && o.result != rGone {
				continue
			}
			// The memory of what is over makes no difference.
			m.at[i] = progress{done: true}
		}
		visit(m)
	}
}

// by reports whether a worker does it.
func (o op) by(slot int) bool {
	return o.Slot == slot && o.Kind != opKillWorker && o.Kind != opKillMonitor
}
