//go:build tools

package conformance

// The program that the suite's backends run.
import _ "sigs.k8s.io/gateway-api-conformance-images/echo-basic"
