// A registry of images that keeps them in memory: the one of the CNCF, told by a file of its own configuration.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry"
	_ "github.com/distribution/distribution/v3/registry/auth/htpasswd"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/inmemory"
)

func main() {
	fmt.Fprintln(os.Stderr, run())
	os.Exit(1)
}

func run() error {
	file, err := os.Open(os.Args[1])
	if err != nil {
		return err
	}
	config, err := configuration.Parse(file)
	if err != nil {
		return err
	}
	served, err := registry.NewRegistry(context.Background(), config)
	if err != nil {
		return err
	}
	return served.ListenAndServe()
}
