// Package conformance runs the Gateway API's own conformance suite, unmodified, against the cluster that KUBECONFIG
// names. What it runs, and where it writes its report, are the suite's own flags.
package conformance

import (
	"testing"

	"sigs.k8s.io/gateway-api/conformance"
)

// TestConformance is the whole suite: each of its tests is a subtest.
func TestConformance(t *testing.T) {
	conformance.RunConformance(t)
}
