// The rate limit service of Envoy's project (github.com/envoyproxy/ratelimit), set up by its environment as published. With
// `redis ADDRESS` a server of Redis' protocol in memory (miniredis), for machines for which no Redis is at hand.
package main

import (
	"log"
	"os"

	"github.com/alicebob/miniredis/v2"
	"github.com/envoyproxy/ratelimit/src/service_cmd/runner"
	"github.com/envoyproxy/ratelimit/src/settings"
)

func main() {
	if len(os.Args) == 3 && os.Args[1] == "redis" {
		if err := miniredis.NewMiniRedis().StartAddr(os.Args[2]); err != nil {
			log.Fatal(err)
		}
		select {}
	}
	service := runner.NewRunner(settings.NewSettings())
	service.Run()
}
