package settings

import (
	_ "embed"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// gateList has a line for every feature gate that upstream's kubelet has or had: its name, its default and its stage, or "- last-in"
// and the last release that had it.
//
// Upstream: pkg/features/kube_features.go defaultVersionedKubernetesFeatureGates, as of 1.37.
//
//go:embed gates.txt
var gateList string

// gate is what is known of one of upstream's feature gates.
type gate struct {
	enabled bool   // by default
	stage   string // alpha, beta, ga, deprecated, or locked to the default
	lastIn  string // the last release that had it; "" for one that 1.37 has
}

// knownGates reads gateList.
func knownGates() map[string]gate {
	gates := map[string]gate{}
	for line := range strings.Lines(gateList) {
		words := strings.Fields(line)
		if words[1] == "-" {
			gates[words[0]] = gate{lastIn: words[3]}
			continue
		}
		gates[words[0]] = gate{enabled: words[1] == "true", stage: words[2]}
	}
	return gates
}

// checkGates tells what is wrong with feature gates, and what those that are taken mean here. A gate at upstream's default is
// taken silently; MemoryQoS is the one that switches something; any other has no effect, which its warning says.
func checkGates(gates map[string]bool) (wrong []problem, warnings []string) {
	known := knownGates()
	for _, name := range slices.Sorted(maps.Keys(gates)) {
		g, ok := known[name]
		path := "featureGates[" + name + "]"
		switch {
		case !ok:
			err := fmt.Errorf("%s: unknown feature gate%s", path, didYouMean(name, slices.Sorted(maps.Keys(known))))
			wrong = append(wrong, problem{path, err})
		case name == allBeta && !gates[name]:
			warnings = append(warnings, path+"=false: no effect but on "+memoryQoS+": this kubelet acts as with upstream's defaults")
		case name == memoryQoS || g.lastIn == "" && gates[name] == g.enabled:
		case g.lastIn != "":
			warnings = append(warnings, fmt.Sprintf("%s=%t: no effect: Kubernetes %s was the last release that had this gate", path, gates[name], g.lastIn))
		default:
			warnings = append(warnings, fmt.Sprintf("%s=%t: no effect: this kubelet acts as with upstream's default, %t (%s)", path, gates[name], g.enabled, g.stage))
		}
	}
	return wrong, warnings
}

// didYouMean proposes the name that is the least number of edits away, if it is close.
func didYouMean(name string, names []string) string {
	best, least := "", len(name)/3+1
	for _, other := range names {
		if n := distance(strings.ToLower(name), strings.ToLower(other)); n < least {
			best, least = other, n
		}
	}
	if best == "" {
		return ""
	}
	return "; did you mean " + best + "?"
}

// distance is how many letters must be added, removed or replaced to make b of a.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(replaced, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
