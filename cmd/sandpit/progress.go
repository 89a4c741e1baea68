package main

import (
	"fmt"
	"io"
	"os"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/sandpit-vm/sandpit/sandbox"
)

// progress shows a pull: bars on a terminal, a line for each thing done
// elsewhere.
type progress interface {
	event(sandbox.PullEvent)
	// end leaves the terminal in order. It is called once, after the last
	// event.
	end()
}

func newProgress(quiet bool) progress {
	switch {
	case quiet:
		return silent{}
	case isTerminal(os.Stderr):
		return &bars{layers: map[string]*mpb.Bar{}}
	}
	return &lines{w: os.Stderr}
}

type silent struct{}

func (silent) event(sandbox.PullEvent) {}
func (silent) end()                    {}

// lines is progress for logs. An image that is there already is not mentioned.
type lines struct {
	w      io.Writer
	active bool
}

func (l *lines) event(e sandbox.PullEvent) {
	switch e.Kind {
	case sandbox.EventWaiting:
		fmt.Fprintf(l.w, "%s: waiting for another process that pulls it\n", e.Ref)
	case sandbox.EventResolved:
		l.active = true
		fmt.Fprintf(l.w, "%s: %s, %d layers, %s\n", e.Ref, shortDigest(e.Digest), e.Layers, size(e.Total))
	case sandbox.EventCached:
		fmt.Fprintf(l.w, "layer %d/%d %s: cached\n", e.Layer, e.Layers, shortDigest(e.Digest))
	case sandbox.EventDownloaded:
		fmt.Fprintf(l.w, "layer %d/%d %s: downloaded, %s\n", e.Layer, e.Layers, shortDigest(e.Digest), size(e.Total))
	case sandbox.EventDone:
		if l.active {
			fmt.Fprintf(l.w, "%s: ready, %s\n", e.Ref, size(e.Total))
		}
	}
}

func (*lines) end() {}

// bars is progress for people: a bar for each layer and one for the root file
// system that is made of them.
type bars struct {
	p       *mpb.Progress
	layers  map[string]*mpb.Bar
	convert *mpb.Bar
}

func (b *bars) bar(name string, total int64) *mpb.Bar {
	if b.p == nil {
		b.p = mpb.New(mpb.WithOutput(os.Stderr), mpb.WithWidth(40))
	}
	return b.p.AddBar(total,
		mpb.PrependDecorators(decor.Name(name, decor.WCSyncSpaceR)),
		mpb.AppendDecorators(decor.CountersKibiByte("% .1f / % .1f", decor.WCSyncSpace)))
}

func (b *bars) event(e sandbox.PullEvent) {
	switch e.Kind {
	case sandbox.EventDownload, sandbox.EventDownloaded, sandbox.EventCached:
		bar := b.layers[e.Digest]
		if bar == nil {
			bar = b.bar(fmt.Sprintf("layer %d/%d %s", e.Layer, e.Layers, shortDigest(e.Digest)), e.Total)
			b.layers[e.Digest] = bar
		}
		bar.SetCurrent(e.Done)
	case sandbox.EventConvert:
		if b.convert == nil {
			b.convert = b.bar("root file system", e.Total)
		}
		b.convert.SetCurrent(e.Done)
	}
}

func (b *bars) end() {
	if b.p == nil {
		return
	}
	// A bar that was not filled is one of a pull that failed.
	for _, bar := range b.layers {
		bar.Abort(false)
	}
	if b.convert != nil {
		b.convert.Abort(false)
	}
	b.p.Wait()
}

// shortDigest is enough of a digest for people.
func shortDigest(d string) string {
	const prefix, digits = len("sha256:"), 12
	if len(d) <= prefix+digits {
		return d
	}
	return d[prefix : prefix+digits]
}

// size is a number of bytes for people, in powers of 1000.
func size(n int64) string {
	units := []string{"B", "kB", "MB", "GB", "TB"}
	v, i := float64(n), 0
	for ; v >= 1000 && i < len(units)-1; i++ {
		v /= 1000
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", v, units[i])
}
