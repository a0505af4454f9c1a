//go:build tools

// Package tools names what users come from, so that its modules are pinned beside this file.
package tools

import _ "github.com/envoyproxy/gateway/cmd/envoy-gateway"
