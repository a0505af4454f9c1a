// The rate limit service of Envoy's project (github.com/envoyproxy/ratelimit) with a Redis of its own inside: miniredis,
// which speaks the protocol and keeps everything in memory. All settings but Redis' address are the environment's, as the
// service reads them.
package main

import (
	"log"
	"os"

	"github.com/alicebob/miniredis/v2"
	"github.com/envoyproxy/ratelimit/src/service_cmd/runner"
	"github.com/envoyproxy/ratelimit/src/settings"
)

func main() {
	redis, err := miniredis.Run()
	if err != nil {
		log.Fatal(err)
	}
	defer redis.Close()
	for name, value := range map[string]string{
		"REDIS_SOCKET_TYPE": "tcp",
		"REDIS_URL":         redis.Addr(),
		"USE_STATSD":        "false",
	} {
		if err := os.Setenv(name, value); err != nil {
			log.Fatal(err)
		}
	}
	service := runner.NewRunner(settings.NewSettings())
	service.Run()
}
