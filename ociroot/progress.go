package ociroot

import (
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// EventKind says what an Event is about.
type EventKind string

// The kinds of events, in the order in which they come.
const (
	EventWaiting    EventKind = "waiting"    // for another process that does the same; may come at any time
	EventResolved   EventKind = "resolved"   // Digest is the manifest's, Total the layers' compressed size
	EventCached     EventKind = "cached"     // the layer Digest is there already
	EventDownload   EventKind = "download"   // Done of Total bytes of the layer Digest have come
	EventDownloaded EventKind = "downloaded" // the layer Digest is complete and verified
	EventConvert    EventKind = "convert"    // Done of Total compressed bytes have become part of the root
	EventDone       EventKind = "done"       // Digest is the manifest's, Total the root's size
)

// Event is a step of a pull or a load.
type Event struct {
	Kind   EventKind `json:"kind"`
	Ref    string    `json:"ref,omitempty"`
	Digest string    `json:"digest,omitempty"`
	Layer  int       `json:"layer,omitempty"` // from 1
	Layers int       `json:"layers,omitempty"`
	Done   int64     `json:"done,omitempty"`
	Total  int64     `json:"total,omitempty"`
}

// progress hands events to one function, one at a time. A nil progress is
// silent.
type progress struct {
	ref    string
	layers map[v1.Hash]int

	mu   sync.Mutex
	last map[v1.Hash]time.Time // of the layer's last event
	f    func(Event)
}

// eventGap is how often a layer's progress is told.
const eventGap = 50 * time.Millisecond

func newProgress(ref string, f func(Event)) *progress {
	if f == nil {
		return nil
	}
	return &progress{ref: ref, f: f, layers: map[v1.Hash]int{}, last: map[v1.Hash]time.Time{}}
}

func (p *progress) tell(e Event) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	e.Ref, e.Layers = p.ref, len(p.layers)
	p.f(e)
}

func (p *progress) waiting() { p.tell(Event{Kind: EventWaiting}) }

func (p *progress) resolved(m *manifest) {
	if p == nil {
		return
	}
	p.mu.Lock()
	for _, l := range m.layers {
		if p.layers[l.Digest] == 0 {
			p.layers[l.Digest] = len(p.layers) + 1
		}
	}
	p.mu.Unlock()
	p.tell(Event{Kind: EventResolved, Digest: m.desc.Digest.String(), Total: m.compressedSize()})
}

// layer tells of bytes that came, but not of each.
func (p *progress) layer(h v1.Hash, done, total int64) {
	p.step(EventDownload, h, done, total, done < total)
}

func (p *progress) layerState(d descriptor, state blobState) {
	kind := EventDownloaded
	if state == blobCached {
		kind = EventCached
	}
	p.step(kind, d.Digest, d.Size, d.Size, false)
}

// step tells of one layer; what may wait is told now and then only.
func (p *progress) step(kind EventKind, h v1.Hash, done, total int64, mayWait bool) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	number := p.layers[h]
	if number == 0 && kind != EventConvert {
		return // the configuration is no layer
	}
	now := time.Now()
	if mayWait && now.Sub(p.last[h]) < eventGap {
		return
	}
	p.last[h] = now
	p.f(Event{Kind: kind, Ref: p.ref, Digest: h.String(), Layer: number, Layers: len(p.layers), Done: done, Total: total})
}
