package sandbox

import "encoding/json"

// record is what is kept of a sandbox's making (config.json).
type record struct {
	// Config is complete: with its defaults and what the image says. Its
	// patches are done and not kept, its credentials never.
	Config Config `json:"config"`
	// ImageDigest pins the OCI image: a sandbox that is started again has the
	// root file system that it was created with.
	ImageDigest string `json:"image_digest,omitempty"`
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
