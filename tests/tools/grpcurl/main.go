// Package main writes Envoy's client status discovery service as a set of descriptors, with all that it is made of: what
// grpcurl needs to ask a server that has no reflection.
package main

import (
	"os"

	status "github.com/envoyproxy/go-control-plane/envoy/service/status/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
)

func main() {
	var set descriptorpb.FileDescriptorSet
	known := map[string]bool{}
	var add func(file protoreflect.FileDescriptor)
	add = func(file protoreflect.FileDescriptor) {
		if known[file.Path()] {
			return
		}
		known[file.Path()] = true
		imports := file.Imports()
		for at := range imports.Len() {
			add(imports.Get(at).FileDescriptor)
		}
		set.File = append(set.File, protodesc.ToFileDescriptorProto(file))
	}
	add(status.File_envoy_service_status_v3_csds_proto)
	bytes, err := proto.Marshal(&set)
	if err == nil {
		_, err = os.Stdout.Write(bytes)
	}
	if err != nil {
		os.Stderr.WriteString(err.Error() + "\n")
		os.Exit(1)
	}
}
