package sandbox

import (
	"encoding/json"

	"github.com/sandpit-vm/sandpit/internal/state"
)

// record is what is kept of a sandbox's making (config.json).
type record struct {
	// Config is complete: with its defaults and what the image says. Its
	// patches are done and not kept, its credentials never.
	Config Config `json:"config"`
	// ImageDigest pins the OCI image: a sandbox that is started again has the
	// root file system that it was created with.
	ImageDigest string `json:"image_digest,omitempty"`
	// DefaultImage is the digest of the embedded default image, if that is the
	// root: another version of this program has another.
	DefaultImage string `json:"default_image,omitempty"`
}

// maxRecord leaves room for the image's digest.
const maxRecord = state.MaxJSON - 4<<10

// checkRecord refuses a configuration that could be written down and not be
// read again, by Start, by Connect and by those who ask what images are in use.
func checkRecord(bad *ConfigError, c *Config) {
	data, err := json.MarshalIndent(record{Config: *c}, "", "\t")
	if err != nil {
		bad.add("Config", "%v", err)
	} else if len(data) > maxRecord {
		bad.add("Config", "%d bytes when written down, labels and all: want at most %d", len(data), maxRecord)
	}
}

// plainConfig has Config's fields and none of its methods.
type plainConfig Config

// MarshalJSON implements json.Marshaler.
func (c Config) MarshalJSON() ([]byte, error) {
	out := struct {
		plainConfig
		Root *storedRoot `json:"root,omitempty"`
	}{plainConfig: plainConfig(c)}
	if c.Root != nil {
		out.Root = &storedRoot{c.Root}
	}
	return json.Marshal(out)
}

// UnmarshalJSON implements json.Unmarshaler.
func (c *Config) UnmarshalJSON(data []byte) error {
	in := struct {
		plainConfig
		Root *storedRoot `json:"root"`
	}{plainConfig: plainConfig(*c)}
	if err := json.Unmarshal(data, &in); err != nil {
		return err
	}
	*c = Config(in.plainConfig)
	if in.Root != nil {
		c.Root = in.Root.RootSource
	}
	return nil
}
