package stats

import (
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

func TestParseNumber(t *testing.T) {
	for text, want := range map[string]uint64{"12\n": 12, "max\n": math.MaxUint64, "18446744073709551615": math.MaxUint64} {
		if got, err := parseNumber(text); err != nil || got != want {
			t.Errorf("parseNumber(%q) = %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "-1", "1 2", "18446744073709551616"} {
		if got, err := parseNumber(text); err == nil {
			t.Errorf("parseNumber(%q) = %d, want an error", text, got)
		}
	}
}

func TestParseKeyed(t *testing.T) {
	got := parseKeyed("usage_usec 5\nMemTotal:   2 kB\nMemHuge: 99999999999999999999 kB\nover: 18446744073709551615 kB\nbad\nx y\nInactive(file): 3 kB")
	if diff := cmp.Diff(map[string]uint64{"usage_usec": 5, "MemTotal": 2048, "Inactive(file)": 3072}, got); diff != "" {
		t.Error(diff)
	}
}

func TestParsePressure(t *testing.T) {
	got, err := parsePressure("some avg10=1.50 avg60=0.25 avg300=0.00 total=12\nfull avg10=0.50 avg60=0.00 avg300=0.00 total=3\n")
	want := &statsapi.PSIStats{Some: statsapi.PSIData{Avg10: 1.5, Avg60: 0.25, Total: 12000}, Full: statsapi.PSIData{Avg10: 0.5, Total: 3000}}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Error(err, diff)
	}
	for _, bad := range []string{"", "nothing", "some total=-1", "some avg10=NaN", "full avg60=x", "some total=18446744073709551615"} {
		if got, err := parsePressure(bad); err == nil {
			t.Errorf("parsePressure(%q) = %v, want an error", bad, got)
		}
	}
}

const netDev = `Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     100       1    0    0    0     0          0         0      100       1    0    0    0     0       0          0
  eth0:    2000      20    3    0    0     0          0         0     4000      40    5    0    0     0       0          0
veth12:       7       1    0    0    0     0          0         0        7       1    0    0    0     0       0          0
 short:       7       1    0
   bad:       x       1    0    0    0     0          0         0        7       1    0    0    0     0       0          0
`

func TestParseNetDev(t *testing.T) {
	want := []statsapi.InterfaceStats{{Name: "eth0", RxBytes: new(uint64(2000)), RxErrors: new(uint64(3)), TxBytes: new(uint64(4000)), TxErrors: new(uint64(5))}}
	if diff := cmp.Diff(want, parseNetDev(netDev)); diff != "" {
		t.Error(diff)
	}
}

func TestParseDefaultRoute(t *testing.T) {
	text := "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n" +
		"br0\t0000000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\nens3\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
	if got := parseDefaultRoute(text); got != "ens3" {
		t.Errorf("the default route goes through %q", got)
	}
	if got := parseDefaultRoute("x\n"); got != "" {
		t.Errorf("without one it goes through %q", got)
	}
}

func TestParseLoadavg(t *testing.T) {
	if n, err := parseLoadavg("0.20 0.18 0.12 1/234 5678\n"); err != nil || n != 234 {
		t.Errorf("%d tasks, %v", n, err)
	}
	for _, bad := range []string{"", "1 2 3", "1 2 3 4", "1 2 3 1/-4"} {
		if n, err := parseLoadavg(bad); err == nil {
			t.Errorf("parseLoadavg(%q) = %d, want an error", bad, n)
		}
	}
}

func TestParseProcStat(t *testing.T) {
	busy, boot := parseProcStat("cpu  10 20 30 1000 2000 1 2 3 4 5\ncpu0 1 2 3 4 5 6 7 8\nbtime 1700000000\n")
	if busy != 66*10_000_000 || boot != 1700000000 {
		t.Errorf("busy %d, boot %d", busy, boot)
	}
}

func TestParseProcCgroup(t *testing.T) {
	got := parseProcCgroup("12:cpu,cpuacct:/a\n4:memory:/b:c\n1:name=systemd:/\n0::/d\nbroken\n3:pids:relative\n")
	if diff := cmp.Diff(map[string]string{"cpu": "/a", "cpuacct": "/a", "memory": "/b:c", "name=systemd": "/", "": "/d"}, got); diff != "" {
		t.Error(diff)
	}
}

// FuzzParsers: the files come from the kernel, but a container chooses names in some of them.
func FuzzParsers(f *testing.F) {
	for _, seed := range []string{"max", "12", "some avg10=1.5 total=3", netDev, "a 1\nb: 2 kB\n", "0.1 0.1 0.1 1/2 3", "cpu 1 2 3 4 5 6 7 8\nbtime 3", "1:a,b:/c\n"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		_, _ = parseNumber(text)
		parseKeyed(text)
		if psi, err := parsePressure(text); err == nil {
			for _, f := range []float64{psi.Some.Avg10, psi.Full.Avg300} {
				if math.IsNaN(f) || math.IsInf(f, 0) {
					t.Errorf("%q: %v is no JSON number", text, f)
				}
			}
		}
		interfaces := parseNetDev(text)
		if len(interfaces) > maxInterfaces {
			t.Errorf("%d interfaces", len(interfaces))
		}
		for _, i := range interfaces {
			if i.Name == "" || i.RxBytes == nil || i.TxErrors == nil {
				t.Errorf("%q: incomplete: %+v", text, i)
			}
		}
		parseDefaultRoute(text)
		if n, err := parseLoadavg(text); err == nil && n < 0 {
			t.Errorf("%q: %d tasks", text, n)
		}
		if _, boot := parseProcStat(text); boot < 0 {
			t.Errorf("%q: booted at %d", text, boot)
		}
		for _, path := range parseProcCgroup(text) {
			if path == "" || path[0] != '/' {
				t.Errorf("%q: cgroup %q", text, path)
			}
		}
	})
}
