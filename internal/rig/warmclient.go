package rig

import "github.com/sandpit-vm/sandpit/internal/rig/wire"

func dialWarm(c Config) (*wire.Conn, wire.Status, error) { return nil, wire.Status{}, ErrNotWarm }
