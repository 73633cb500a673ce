// Echo is the program in the pods of the conformance suite's mesh tests. The suite's manifests start it as a server, and
// the suite starts it as `client URL` inside of the same container and reads what it prints (utils/echo/parse.go of the
// suite). The image that the manifests name is a test program of another mesh that can't be had as a Go module; this one
// takes the same arguments and prints the same lines, and knows nothing of any mesh.
package main

import (
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	run, args := serve, os.Args[1:]
	if filepath.Base(os.Args[0]) == "client" {
		run = call
	}
	if err := run(args); err != nil {
		fmt.Fprintln(os.Stderr, "echo:", err)
		os.Exit(1)
	}
}
