//go:build tools

// Package tools names the programs that the suites of deploy/ run, so that their modules are pinned beside this file.
package tools

import (
	_ "github.com/hashicorp/hcl/v2/cmd/hcldec"
	_ "github.com/prometheus/prometheus/cmd/promtool"
	_ "github.com/yuin/gopher-lua/cmd/glua"
	_ "helm.sh/helm/v3/cmd/helm"
	_ "sigs.k8s.io/kustomize/kustomize/v5"
)
