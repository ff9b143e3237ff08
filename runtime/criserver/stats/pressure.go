package stats

import (
	"strconv"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// PSI reads a pressure file: a line each for some and for all tasks having waited.
func PSI(text string) *runtimeapi.PsiStats {
	if text == "" {
		return nil
	}
	psi := &runtimeapi.PsiStats{Some: &runtimeapi.PsiData{}, Full: &runtimeapi.PsiData{}}
	for line := range strings.Lines(text) {
		kind, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		data := psi.Some
		if kind == "full" {
			data = psi.Full
		} else if kind != "some" {
			continue
		}
		for field := range strings.FieldsSeq(rest) {
			name, value, _ := strings.Cut(field, "=")
			number, _ := strconv.ParseFloat(value, 64)
			switch name {
			case "avg10":
				data.Avg10 = number
			case "avg60":
				data.Avg60 = number
			case "avg300":
				data.Avg300 = number
			case "total": // in microseconds
				total, _ := strconv.ParseUint(value, 10, 64)
				data.Total = total * 1000
			}
		}
	}
	return psi
}
