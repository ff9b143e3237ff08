package stats

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// The kernel's files are read in whole; none of those read here is ever near this long.
const maxFile = 1 << 20

// parseNumber reads a file of one number. "max", as cgroup v2 writes a limit that is none, is math.MaxUint64.
func parseNumber(text string) (uint64, error) {
	text = strings.TrimSpace(text)
	if text == "max" {
		return math.MaxUint64, nil
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%.40q is not a number", text)
	}
	return n, nil
}

// parseKeyed reads lines of "key value", with or without a colon and a unit: cpu.stat, memory.stat, /proc/meminfo,
// /proc/vmstat. Values in kB come out in bytes. Lines that are something else are left out.
func parseKeyed(text string) map[string]uint64 {
	out := map[string]uint64{}
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) != 2 && (len(fields) != 3 || fields[2] != "kB") {
			continue
		}
		n, err := strconv.ParseUint(fields[1], 10, 64)
		if err != nil {
			continue
		}
		if len(fields) == 3 {
			if n > math.MaxUint64/1024 {
				continue
			}
			n *= 1024
		}
		out[strings.TrimSuffix(fields[0], ":")] = n
	}
	return out
}

var errPressure = errors.New("no line of the form: some avg10=0.00 avg60=0.00 avg300=0.00 total=0")

// parsePressure reads cpu.pressure, memory.pressure, io.pressure and their like in /proc/pressure. Totals are in
// microseconds there; the API's are in nanoseconds.
//
// Upstream: vendor/github.com/opencontainers/cgroups/fs2/psi.go statPSI
func parsePressure(text string) (*statsapi.PSIStats, error) {
	out, found := &statsapi.PSIStats{}, false
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		var data *statsapi.PSIData
		switch fields[0] {
		case "some":
			data = &out.Some
		case "full":
			data = &out.Full
		default:
			continue
		}
		if err := parsePressureFields(data, fields[1:]); err != nil {
			return nil, err
		}
		found = true
	}
	if !found {
		return nil, errPressure
	}
	return out, nil
}

func parsePressureFields(data *statsapi.PSIData, fields []string) error {
	for _, field := range fields {
		key, value, _ := strings.Cut(field, "=")
		if key == "total" {
			n, err := strconv.ParseUint(value, 10, 64)
			if err != nil || n > math.MaxUint64/1000 {
				return fmt.Errorf("pressure: total=%.40q is not a number", value)
			}
			data.Total = n * 1000
			continue
		}
		into := map[string]*float64{"avg10": &data.Avg10, "avg60": &data.Avg60, "avg300": &data.Avg300}[key]
		if into == nil {
			continue
		}
		f, err := strconv.ParseFloat(value, 64)
		if err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
			return fmt.Errorf("pressure: %s=%.40q is not a number", key, value)
		}
		*into = f
	}
	return nil
}

// maxInterfaces is how many network interfaces of one namespace are reported.
const maxInterfaces = 1000

// parseNetDev reads /proc/net/dev. The loopback interface and the host's ends of pods' interfaces are left out: what
// goes through them has been counted elsewhere.
//
// Upstream: vendor/github.com/google/cadvisor/container/libcontainer/handler.go scanInterfaceStats
func parseNetDev(text string) []statsapi.InterfaceStats {
	var out []statsapi.InterfaceStats
	for line := range strings.Lines(text) {
		name, counters, ok := strings.Cut(line, ":")
		name = strings.TrimSpace(name)
		if !ok || name == "" || name == "lo" || strings.HasPrefix(name, "veth") || len(out) == maxInterfaces {
			continue
		}
		fields := strings.Fields(counters)
		if len(fields) < 11 { // bytes, packets, errors and five more received, then sent
			continue
		}
		i := statsapi.InterfaceStats{Name: name}
		bad := false
		for at, into := range map[int]**uint64{0: &i.RxBytes, 2: &i.RxErrors, 8: &i.TxBytes, 10: &i.TxErrors} {
			n, err := strconv.ParseUint(fields[at], 10, 64)
			bad = bad || err != nil
			*into = &n
		}
		if !bad {
			out = append(out, i)
		}
	}
	return out
}

// parseDefaultRoute finds the interface of the default route in /proc/net/route, "" if there is none.
func parseDefaultRoute(text string) string {
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) >= 8 && fields[1] == "00000000" && fields[7] == "00000000" {
			return fields[0]
		}
	}
	return ""
}

// parseLoadavg reads the number of tasks, the second of "1/234", from /proc/loadavg.
//
// Upstream: pkg/kubelet/stats/pidlimit/pidlimit_linux.go runningTaskCount
func parseLoadavg(text string) (int64, error) {
	fields := strings.Fields(text)
	if len(fields) < 4 {
		return 0, fmt.Errorf("loadavg: %.80q has no fourth field", text)
	}
	_, all, _ := strings.Cut(fields[3], "/")
	n, err := strconv.ParseInt(all, 10, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("loadavg: %.40q are not tasks", fields[3])
	}
	return n, nil
}

// parseProcStat reads the time that all CPUs were busy, in nanoseconds, and the time of boot from /proc/stat. The
// kernel's clock tick is 1/100 s in all files that users see.
func parseProcStat(text string) (busy uint64, boot int64) {
	const tick = 10_000_000
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		switch {
		case len(fields) >= 9 && fields[0] == "cpu":
			for i, field := range fields[1:9] {
				if n, err := strconv.ParseUint(field, 10, 64); err == nil && i != 3 && i != 4 && n < math.MaxUint64/tick/16 { // idle, iowait
					busy += n * tick
				}
			}
		case len(fields) == 2 && fields[0] == "btime":
			if n, err := strconv.ParseInt(fields[1], 10, 64); err == nil && n > 0 {
				boot = n
			}
		}
	}
	return busy, boot
}

// parseProcCgroup reads /proc/PID/cgroup: the path by controller, and under "" that of cgroup v2.
func parseProcCgroup(text string) map[string]string {
	out := map[string]string{}
	for line := range strings.Lines(text) {
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(parts) != 3 || !strings.HasPrefix(parts[2], "/") {
			continue
		}
		for controller := range strings.SplitSeq(parts[1], ",") {
			out[controller] = parts[2]
		}
	}
	return out
}
