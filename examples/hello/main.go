// Command hello creates a sandbox, runs a command in it and prints what it
// wrote: the whole of the library in a few lines.
package main

import (
	"context"
	"fmt"
	"log"

	"github.com/sandpit-vm/sandpit/sandbox"
)

func main() {
	ctx := context.Background()
	sb, err := sandbox.Create(ctx, "hello", sandbox.Config{Ephemeral: true})
	if err != nil {
		log.Fatal(err)
	}
	defer sb.StopAndWait(ctx)
	out, err := sb.Command(ctx, "echo", "hello from a microVM").Output()
	fmt.Printf("%s%v\n", out, err)
}
