// Command image runs a line of Python in an image that has it, pulled from its
// registry unless the cache has it:
//
//	go run ./examples/image python:3
package main

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/sandpit-vm/sandpit/sandbox"
)

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: image REFERENCE")
	}
	ctx := context.Background()
	sb, err := sandbox.Create(ctx, "image", sandbox.Config{Image: os.Args[1], Ephemeral: true})
	if err != nil {
		log.Fatal(err)
	}
	defer sb.StopAndWait(ctx)
	out, err := sb.Command(ctx, "python3", "-c", "import sys; print('hello from Python', sys.version)").Output()
	fmt.Printf("%s%v\n", out, err)
}
