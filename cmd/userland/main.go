// Command userland is the one binary of the default image: every command
// there is a link to it. See package guest/userland.
package main

import (
	"os"

	"github.com/sandpit-vm/sandpit/guest/userland"
)

func main() { os.Exit(userland.Main(os.Args)) }
