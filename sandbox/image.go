package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/sandpit-vm/sandpit/internal/state"
	"github.com/sandpit-vm/sandpit/ociroot"
	"github.com/sandpit-vm/sandpit/ociroot/flatten"
)

// The image cache's own types. They are part of this package's promise.
type (
	// Image is an OCI image in the cache, whose root file system is ready.
	Image = ociroot.Image
	// ImageConfig is what an image says about the processes that run in it.
	ImageConfig = ociroot.Config
	// PullPolicy says when a registry is asked. The zero value is
	// PullIfMissing.
	PullPolicy = ociroot.PullPolicy
	// RegistryAuth are credentials. They are never written to disk.
	RegistryAuth = ociroot.Auth
	// Platform picks an image of a multi-platform index.
	Platform = ociroot.Platform
	// ImageLimits bound what a root file system may hold; zero fields are
	// defaults.
	ImageLimits = flatten.Limits
	// PullEvent tells of a pull's progress.
	PullEvent = ociroot.Event
	// PullOptions are options of PullImage.
	PullOptions = ociroot.PullOptions
	// LoadOptions are options of LoadImages.
	LoadOptions = ociroot.LoadOptions
	// ImportOptions are options of ImportImage.
	ImportOptions = ociroot.ImportOptions
	// ArchiveFormat is a format of SaveImages.
	ArchiveFormat = ociroot.Format
	// Pruned is what PruneImages and RemoveImage deleted.
	Pruned = ociroot.Pruned
)

// Pull policies.
const (
	PullIfMissing = ociroot.PullIfMissing // the cache first
	PullAlways    = ociroot.PullAlways    // the registry is asked what the reference means
	PullNever     = ociroot.PullNever     // the cache only; ErrNotCached
)

// Kinds of a PullEvent.
const (
	EventWaiting    = ociroot.EventWaiting
	EventResolved   = ociroot.EventResolved
	EventCached     = ociroot.EventCached
	EventDownload   = ociroot.EventDownload
	EventDownloaded = ociroot.EventDownloaded
	EventConvert    = ociroot.EventConvert
	EventDone       = ociroot.EventDone
)

// Archive formats.
const (
	FormatOCI    = ociroot.FormatOCI
	FormatDocker = ociroot.FormatDocker // what "docker load" takes
)

// Conditions of images to branch on with errors.Is.
var (
	ErrNotCached    = ociroot.ErrNotCached
	ErrNoImage      = ociroot.ErrNoImage
	ErrImageInUse   = ociroot.ErrInUse
	ErrUnauthorized = ociroot.ErrUnauthorized
	// ErrImageContent is an image, or a registry's answer, that is corrupt or
	// hostile, or over a limit.
	ErrImageContent = ociroot.ErrContent
)

// ParsePlatform reads "os/architecture" or "os/architecture/variant".
func ParsePlatform(s string) (Platform, error) { return ociroot.ParsePlatform(s) }

// imageStore opens the image cache of the home directory.
func imageStore() (*ociroot.Store, state.Home, error) {
	home, err := state.DefaultHome()
	if err != nil {
		return nil, home, err
	}
	store, err := openImages(home)
	return store, home, err
}

func openImages(home state.Home) (*ociroot.Store, error) {
	return ociroot.OpenStore(filepath.Join(home.Cache, "images"), ociroot.Options{})
}

// PullImage brings an image into the cache, as the options' policy says, and
// makes its root file system.
func PullImage(ctx context.Context, ref string, o PullOptions) (*Image, error) {
	store, _, err := imageStore()
	if err != nil {
		return nil, &Error{"", "pull", err}
	}
	im, err := store.Pull(ctx, ref, o)
	if err != nil {
		return nil, &Error{"", "pull", err}
	}
	return im, nil
}

// Images lists the images of the cache. One that cannot be read does not hide
// the others: the error joins what went wrong.
func Images(ctx context.Context) ([]*Image, error) {
	store, _, err := imageStore()
	if err != nil {
		return nil, &Error{"", "list images", err}
	}
	images, err := store.List(ctx)
	if err != nil {
		return images, &Error{"", "list images", err}
	}
	return images, nil
}

// InspectImage finds an image by reference or by digest ("sha256:" and at least
// twelve digits). ErrNoImage if the cache has none.
func InspectImage(ctx context.Context, name string) (*Image, error) {
	store, _, err := imageStore()
	if err != nil {
		return nil, &Error{"", "inspect image", err}
	}
	im, err := store.Inspect(ctx, name)
	if err != nil {
		return nil, &Error{"", "inspect image", err}
	}
	return im, nil
}

// RemoveImage deletes a name from the cache and, with its last name, the image.
// ErrImageInUse if a sandbox, running or not, has it, unless force is set.
func RemoveImage(ctx context.Context, name string, force bool) (Pruned, error) {
	store, home, err := imageStore()
	if err != nil {
		return Pruned{}, &Error{"", "remove image", err}
	}
	keep, err := imagesOfSandboxes(home)
	if err != nil && !force {
		return Pruned{}, &Error{"", "remove image", err}
	}
	out, err := store.Remove(ctx, name, ociroot.RemoveOptions{Keep: keep, Force: force})
	if err != nil {
		return out, &Error{"", "remove image", err}
	}
	return out, nil
}

// PruneImages deletes what nothing refers to: unfinished downloads, blobs and
// root file systems without a name. With all set it deletes every image that no
// sandbox, running or not, has.
func PruneImages(ctx context.Context, all bool) (Pruned, error) {
	store, home, err := imageStore()
	if err != nil {
		return Pruned{}, &Error{"", "prune images", err}
	}
	keep, err := imagesOfSandboxes(home)
	if err != nil {
		return Pruned{}, &Error{"", "prune images", err}
	}
	out, err := store.Prune(ctx, ociroot.PruneOptions{Keep: keep, All: all})
	if err != nil {
		return out, &Error{"", "prune images", err}
	}
	return out, nil
}

// imagesOfSandboxes are the digests that sandboxes were created with. A
// sandbox that cannot be read is an error: its image might be taken away.
func imagesOfSandboxes(home state.Home) ([]string, error) {
	names, err := home.List()
	if err != nil {
		return nil, err
	}
	var keep []string
	for _, name := range names {
		dir, err := home.Open(name)
		var r record
		if err == nil {
			err = dir.ReadConfig(&r)
		}
		switch {
		case err != nil && errors.Is(err, ErrNotFound):
		case err != nil:
			return nil, fmt.Errorf("what image sandbox %s has is not known (remove the sandbox to go on): %w", name, err)
		case r.ImageDigest != "":
			keep = append(keep, r.ImageDigest)
		}
	}
	return keep, nil
}

// LoadImages reads an archive of images, compressed or not, as SaveImages,
// "docker save" and other tools write it.
func LoadImages(ctx context.Context, r io.Reader, o LoadOptions) ([]*Image, error) {
	store, _, err := imageStore()
	if err != nil {
		return nil, &Error{"", "load images", err}
	}
	images, err := store.Load(ctx, r, o)
	if err != nil {
		return images, &Error{"", "load images", err}
	}
	return images, nil
}

// SaveImages writes images of the cache as one archive.
func SaveImages(ctx context.Context, w io.Writer, format ArchiveFormat, names ...string) error {
	store, _, err := imageStore()
	if err != nil {
		return &Error{"", "save images", err}
	}
	if err := store.Save(ctx, w, format, names...); err != nil {
		return &Error{"", "save images", err}
	}
	return nil
}

// ImportImage makes an image of one layer from an archive of a root file
// system (tar, compressed or not), and names it.
func ImportImage(ctx context.Context, r io.Reader, name string, o ImportOptions) (*Image, error) {
	store, _, err := imageStore()
	if err != nil {
		return nil, &Error{"", "import image", err}
	}
	im, err := store.Import(ctx, r, name, o)
	if err != nil {
		return nil, &Error{"", "import image", err}
	}
	return im, nil
}
