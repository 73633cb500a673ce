// Package suite runs the Gateway API's conformance suite as its authors wrote it. Which profiles and features, on which
// cluster and with which labels is said by flags; run.sh has them.
package suite

import (
	"testing"

	"sigs.k8s.io/gateway-api/conformance"
)

func TestConformance(t *testing.T) {
	conformance.RunConformance(t)
}
