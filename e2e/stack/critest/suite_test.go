// Package critest is cri-tools' validation suite of CRI runtimes: a test binary that `make critest` runs against a
// runtime.
package critest

import (
	"flag"
	"fmt"
	"os"
	"testing"

	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/ginkgo/v2/types"
	"github.com/onsi/gomega"
	"sigs.k8s.io/cri-tools/pkg/framework"

	_ "sigs.k8s.io/cri-tools/pkg/validate"
)

// TestMain reads the framework's flags, which are the suite's interface.
func TestMain(m *testing.M) {
	framework.RegisterFlags()
	flag.Parse()
	os.Exit(m.Run())
}

// The name of each spec is printed before it runs; the mark that ginkgo prints at its end follows.
var (
	begun, total int

	_ = ginkgo.ReportBeforeSuite(func(suite ginkgo.Report) { total = suite.PreRunStats.SpecsThatWillRun })
	_ = ginkgo.ReportBeforeEach(func(spec ginkgo.SpecReport) {
		if !spec.State.Is(types.SpecStateSkipped | types.SpecStatePending) {
			begun++
			fmt.Printf("\n%d of %d: %s ", begun, total, spec.FullText())
		}
	})
)

func TestCRI(t *testing.T) {
	gomega.RegisterFailHandler(ginkgo.Fail)
	ginkgo.RunSpecs(t, "CRI validation")
}
