// Command peer is the snapshot cache of go-control-plane behind a Unix socket, as its users run it: what `make
// bench-relay` compares the relay with.
//
//	peer -socket PATH -control PATH -resources FILE
//
// FILE holds a DiscoveryResponse with the clusters to serve. A line "change FILE" on the control socket replaces the
// clusters that FILE holds, by name, in a new snapshot; "done" is answered when the cache has taken it.
package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/protobuf/proto"
)

// fleet gives every client the same snapshot.
type fleet struct{}

func (fleet) ID(*core.Node) string { return "fleet" }

type peer struct {
	cache    cache.SnapshotCache
	clusters []types.Resource
	places   map[string]int
	version  int
}

func clusters(file string) ([]*cluster.Cluster, error) {
	bytes, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var response discovery.DiscoveryResponse
	if err := proto.Unmarshal(bytes, &response); err != nil {
		return nil, err
	}
	var found []*cluster.Cluster
	for _, any := range response.Resources {
		var one cluster.Cluster
		if err := any.UnmarshalTo(&one); err != nil {
			return nil, err
		}
		found = append(found, &one)
	}
	return found, nil
}

func (p *peer) take(file string) error {
	changed, err := clusters(file)
	if err != nil {
		return err
	}
	for _, one := range changed {
		place, known := p.places[one.Name]
		if !known {
			place = len(p.clusters)
			p.places[one.Name] = place
			p.clusters = append(p.clusters, nil)
		}
		p.clusters[place] = one
	}
	p.version++
	snapshot, err := cache.NewSnapshot(strconv.Itoa(p.version), map[resource.Type][]types.Resource{
		resource.ClusterType: p.clusters,
	})
	if err != nil {
		return err
	}
	return p.cache.SetSnapshot(context.Background(), "fleet", snapshot)
}

func (p *peer) obey(listener net.Listener) {
	for {
		connection, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		lines := bufio.NewScanner(connection)
		for lines.Scan() {
			answer := "done"
			if file, ok := strings.CutPrefix(lines.Text(), "change "); !ok {
				answer = "unknown command"
			} else if err := p.take(file); err != nil {
				answer = err.Error()
			}
			if _, err := fmt.Fprintln(connection, answer); err != nil {
				break
			}
		}
		connection.Close()
	}
}

func main() {
	socket := flag.String("socket", "", "where clients connect")
	control := flag.String("control", "", "where changes are told")
	resources := flag.String("resources", "", "the first clusters")
	flag.Parse()
	p := &peer{cache: cache.NewSnapshotCache(true, fleet{}, nil), places: map[string]int{}}
	if err := p.take(*resources); err != nil {
		log.Fatal(err)
	}
	commands, err := net.Listen("unix", *control)
	if err != nil {
		log.Fatal(err)
	}
	go p.obey(commands)
	clients, err := net.Listen("unix", *socket)
	if err != nil {
		log.Fatal(err)
	}
	// The options of go-control-plane's own example server.
	served := grpc.NewServer(
		grpc.MaxConcurrentStreams(1000000),
		grpc.MaxRecvMsgSize(32<<20),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 5 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{
			MinTime: 30 * time.Second, PermitWithoutStream: true,
		}),
	)
	discovery.RegisterAggregatedDiscoveryServiceServer(served, server.NewServer(context.Background(), p.cache, nil))
	log.Fatal(served.Serve(clients))
}
