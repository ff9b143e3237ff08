package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"
)

// runtimeRow is one figure of the comparison of runtimes. Where less is better the ratio is turned around, so that
// more than 1 is always in favour of the last one.
type runtimeRow struct {
	name  string
	value func(*contestant) float64
	less  bool
}

func runtimeRows(f flags) []runtimeRow {
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	pods := float64(f.runtimePods)
	rows := []runtimeRow{
		{"started pods/s, 1 at once", func(c *contestant) float64 { return median(c.startRate[1]) }, false},
		{fmt.Sprintf("started pods/s, %d at once", f.concurrency), func(c *contestant) float64 { return median(c.startRate[f.concurrency]) }, false},
		{"removed pods/s, 1 at once", func(c *contestant) float64 { return median(c.removeRate[1]) }, false},
		{fmt.Sprintf("removed pods/s, %d at once", f.concurrency), func(c *contestant) float64 { return median(c.removeRate[f.concurrency]) }, false},
		{"a pod's start, p50, ms", func(c *contestant) float64 { return ms(median(c.whole)) }, true},
	}
	for step, name := range stepNames {
		rows = append(rows, runtimeRow{name + ", p50, ms", func(c *contestant) float64 { return ms(median(c.steps[step])) }, true})
	}
	return append(rows, []runtimeRow{
		{"CPU of a start, ms", func(c *contestant) float64 { return 1000 * median(c.startCPU) }, true},
		{"CPU of a removal, ms", func(c *contestant) float64 { return 1000 * median(c.removeCPU) }, true},
		{"RSS without pods, MiB", func(c *contestant) float64 { return c.empty.rss }, true},
		{"RSS a pod, MiB", func(c *contestant) float64 { return (c.full.rss - c.empty.rss) / pods }, true},
		{"PSS a pod, MiB", func(c *contestant) float64 { return (c.full.pss - c.empty.pss) / pods }, true},
		{"idle CPU, cores", func(c *contestant) float64 { return c.idle }, true},
	}...)
}

// reportRuntimes prints the comparison; ratios are of the last runtime to the first one.
func reportRuntimes(w io.Writer, f flags, contestants []*contestant) {
	load, _ := os.ReadFile("/proc/loadavg")
	fmt.Fprintf(w, "\nCRI runtimes in turn: %d rounds of %d pods, medians; memory and CPU beside the pods' own (load of the machine: %s)\n",
		f.runtimeRounds, f.runtimePods, strings.TrimSpace(string(load)))
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, c := range contestants {
		fmt.Fprintf(t, "\t%s", c.name)
	}
	fmt.Fprintf(t, "\ttimes better\t\n")
	for _, row := range runtimeRows(f) {
		fmt.Fprint(t, row.name)
		for _, c := range contestants {
			fmt.Fprintf(t, "\t%s", number(row.value(c), true))
		}
		first, last := row.value(contestants[0]), row.value(contestants[len(contestants)-1])
		if row.less {
			first, last = last, first
		}
		fmt.Fprintf(t, "\t%s\t\n", number(last/first, len(contestants) > 1 && first > 0))
	}
	_ = t.Flush()
}
