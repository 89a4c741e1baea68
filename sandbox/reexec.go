package sandbox

import "github.com/sandpit-vm/sandpit/internal/monitor"

// A process started as a monitor becomes one here, before main.
func init() { monitor.RunIfMonitor() }
