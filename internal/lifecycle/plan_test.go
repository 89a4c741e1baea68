package lifecycle

import "math/rand/v2"

// names are few, so that operations meet.
var names = []string{"a", "b"}

// plan is a sequence of steps. The operations of one step are begun together,
// each at its time; a step ends when all have.
type plan [][]op

const (
	planSteps = 36
	// planBoots is how many boots a plan is meant to cost. They are most of
	// the time that a sequence takes.
	planBoots = 3
)

// planner makes a plan. It keeps in mind what each name probably is, so that
// operations are seldom pointless; the model knows better.
type planner struct {
	rng    *rand.Rand
	boots  int
	nextID int
	likely map[string]*likely
}

type likely struct {
	phase phase
	held  [slots]bool
	eph   bool
}

func makePlan(seed uint64) plan {
	p := &planner{rng: rand.New(rand.NewPCG(seed, 0)), boots: planBoots, nextID: 1, likely: map[string]*likely{}}
	for _, n := range names {
		p.likely[n] = &likely{}
	}
	var steps plan
	for len(steps) < planSteps {
		switch r := p.rng.IntN(100); {
		case r < 4:
			steps = append(steps, []op{p.killWorker(0)})
		case r < 7:
			steps = append(steps, []op{p.killMonitor(p.name(), 0)})
		case r < 62:
			slot := p.rng.IntN(slots)
			steps = append(steps, []op{p.one(slot, p.name())})
		default:
			steps = append(steps, p.together())
		}
	}
	return steps
}

// name prefers the first one.
func (p *planner) name() string {
	return names[min(p.rng.IntN(len(names)), p.rng.IntN(len(names)))]
}

// together is several workers at once, mostly at one name, and sometimes a kill
// amid them.
func (p *planner) together() []op {
	name := p.name()
	var ops []op
	for _, slot := range p.rng.Perm(slots)[:2+p.rng.IntN(slots-1)] {
		n := name
		if p.rng.IntN(4) == 0 {
			n = p.name()
		}
		o := p.one(slot, n)
		o.At = p.when(o.Kind)
		ops = append(ops, o)
	}
	switch p.rng.IntN(6) {
	case 0:
		o := p.killWorker(p.rng.Float64() * 1.2)
		o.Slot = ops[p.rng.IntN(len(ops))].Slot
		ops = append(ops, o)
	case 1:
		ops = append(ops, p.killMonitor(name, p.rng.Float64()*1.2))
	}
	return ops
}

// when an operation begins: together with the others, shortly after, or while
// one of them boots.
func (p *planner) when(k kind) float64 {
	switch p.rng.IntN(3) {
	case 0:
		return p.rng.Float64() * 0.02
	case 1:
		if k != opCreate && k != opStart {
			return p.rng.Float64()
		}
	}
	return 0
}

func (p *planner) killWorker(at float64) op {
	slot := p.rng.IntN(slots)
	for _, l := range p.likely {
		l.held[slot] = false
	}
	return op{Kind: opKillWorker, Slot: slot, At: at}
}

func (p *planner) killMonitor(name string, at float64) op {
	if l := p.likely[name]; l.phase == running {
		l.phase = crashed
	}
	return op{Kind: opKillMonitor, Slot: nobody, Name: name, At: at}
}

// one is an operation that makes sense, most of the time.
func (p *planner) one(slot int, name string) op {
	l := p.likely[name]
	o := op{Slot: slot, Name: name}
	o.Kind = p.kind(l)
	if (o.Kind == opCreate && l.phase == absent) || (o.Kind == opStart && l.phase != running && l.phase != absent) {
		if p.boots == 0 {
			o.Kind = pick(p.rng, opStatus, opList, opRemove, opStop, opConnect)
		} else {
			p.boots--
		}
	}
	o.Held = l.held[slot] && p.rng.IntN(4) > 0
	switch o.Kind {
	case opCreate:
		o.ID = p.nextID
		p.nextID++
		o.Ephemeral = p.rng.IntN(4) == 0
		fallthrough
	case opStart:
		o.Held = false
		o.Detached = p.rng.IntN(3) == 0
		if o.Cancel = p.rng.IntN(8) == 0; o.Cancel {
			o.CancelAt = p.rng.Float64() * 1.1
		}
	case opConnect, opRemove, opStatus, opList, opRelease:
		o.Held = false
	case opDetach, opClose:
		o.Held = true
	}
	p.expect(o, l)
	return o
}

func pick(rng *rand.Rand, kinds ...kind) kind { return kinds[rng.IntN(len(kinds))] }

func (p *planner) kind(l *likely) kind {
	if p.rng.IntN(8) == 0 { // anything, however pointless
		return pick(p.rng, opCreate, opStart, opConnect, opDetach, opClose, opExec, opBusy, opRelease,
			opDrain, opStop, opKill, opRemove, opStatus, opList)
	}
	switch l.phase {
	case absent:
		return pick(p.rng, opCreate, opCreate, opCreate, opCreate, opStatus, opList)
	case running:
		if p.rng.IntN(3) == 0 {
			return pick(p.rng, opStop, opKill, opDrain, opClose)
		}
		return pick(p.rng, opExec, opExec, opExec, opConnect, opConnect, opDetach, opBusy, opRelease, opStatus, opList, opCreate, opStart, opRemove)
	}
	return pick(p.rng, opStart, opStart, opStart, opRemove, opRemove, opStatus, opList, opConnect, opExec, opCreate)
}

// expect notes what probably comes of o.
func (p *planner) expect(o op, l *likely) {
	over := stopped
	if l.eph {
		over = absent
	}
	switch o.Kind {
	case opCreate, opStart:
		if (o.Kind == opCreate) == (l.phase == absent) && l.phase != running && !o.Cancel {
			if o.Kind == opCreate {
				l.eph = o.Ephemeral
			}
			l.phase, l.held[o.Slot] = running, true
		}
	case opConnect:
		l.held[o.Slot] = l.held[o.Slot] || l.phase == running
	case opClose:
		l.held[o.Slot] = false
	case opStop, opKill, opDrain:
		if l.phase == running {
			l.phase = over
		}
	case opRemove:
		if l.phase != running {
			l.phase = absent
		}
	}
}
