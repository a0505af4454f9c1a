// Package main is a client that finds its service by xDS, with nothing but gRPC's own resolver and balancers. It makes
// one call for each line of standard input and prints how it ended: the address that answered, or the status.
//
//	grpc xds:///NAME < lines
package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	_ "google.golang.org/grpc/xds"
)

func main() {
	connection, err := grpc.NewClient(os.Args[1], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(3)
	}
	client := grpc_health_v1.NewHealthClient(connection)
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		fmt.Println(call(client, lines.Text()))
	}
}

// call asks for the health of a service, and says who answered.
func call(client grpc_health_v1.HealthClient, service string) string {
	limited, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var who peer.Peer
	request := &grpc_health_v1.HealthCheckRequest{Service: service}
	answer, err := client.Check(limited, request, grpc.WaitForReady(true), grpc.Peer(&who))
	if err != nil {
		return fmt.Sprintf("error %s: %s", status.Code(err), status.Convert(err).Message())
	}
	return fmt.Sprintf("%s %s", answer.GetStatus(), who.Addr)
}
