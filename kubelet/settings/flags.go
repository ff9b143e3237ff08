package settings

import (
	"cmp"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	logsapi "k8s.io/component-base/logs/api/v1"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
)

// flags are the command line. Those that can stand in a configuration file as well are in the table; most others set a field
// of the settings.
type flags struct {
	*Settings
	set, embedded    *pflag.FlagSet
	hostnameOverride string
	nodeIP           string
	nodeLabels       flagText
	cloudProvider    string
	version          string
	idle             map[string]string // flags without effect, with what holds in their place
}

func newFlags(out io.Writer) *flags {
	f := &flags{Settings: &Settings{Version: Version, Flags: map[string]string{}}, set: pflag.NewFlagSet("kubelet", pflag.ContinueOnError)}
	f.set.SetOutput(out)
	f.set.StringVar(&f.config, "config", "", "configuration file: KubeletConfiguration, "+apiVersion)
	f.set.StringVar(&f.configDir, "config-dir", "", "directory of drop-ins (*.conf) laid over the configuration file in the order of their names")
	f.set.StringVar(&f.BootstrapKubeconfig, "bootstrap-kubeconfig", "", "file that leads to a first client certificate when --kubeconfig is not there; it is then written")
	f.set.StringVar(&f.CertDir, "cert-dir", "", "directory of the certificates that the kubelet is signed; pki below --root-dir by default")
	f.set.StringVar(&f.Kubeconfig, "kubeconfig", "", "file that leads to the apiserver; without it the kubelet runs standalone")
	f.set.StringVar(&f.hostnameOverride, "hostname-override", "", "the node's name; the machine's by default")
	f.set.StringVar(&f.nodeIP, "node-ip", "", "the node's address, or one of each family separated by a comma; 0.0.0.0 or :: for one of that family that the machine has")
	f.set.StringVar(&f.RootDir, "root-dir", "/var/lib/kubelet", "directory of pods' files")
	f.nodeLabels = flagText{kind: "pairs", many: true}
	f.set.Var(&f.nodeLabels, "node-labels", "labels to register the node with: key=value,key=value")
	f.set.StringVar(&f.cloudProvider, "cloud-provider", "", "external: the cluster's cloud controller initialises the node and finds its addresses")
	f.set.StringVar(&f.RuntimeCgroups, "runtime-cgroups", "", "cgroup that the container runtime runs in, for statistics")
	f.set.StringVar(&f.CredentialProviderConfig, "image-credential-provider-config", "", "configuration of the programs that provide credentials for images: a file, or a directory of them")
	f.set.StringVar(&f.CredentialProviderBinDir, "image-credential-provider-bin-dir", "", "directory of the programs that --image-credential-provider-config names")
	f.set.StringVar(&f.LockFile, "lock-file", "", "file to lock while the kubelet runs; it waits for the lock")
	f.set.BoolVar(&f.ExitOnLockContention, "exit-on-lock-contention", false, "end when another process opens --lock-file")
	f.set.StringVar(&f.version, "version", "", "print the version, with =raw all of it; =VERSION: report this version, which may differ behind the patch number only")
	f.set.Lookup("version").NoOptDefVal = "true"
	f.set.StringVar(&f.Timeline, "timeline", "", "show what is done for each pod, live, on a page on loopback whose link is logged: a port, or a loopback address and a port; without a value, any port")
	f.set.Lookup("timeline").NoOptDefVal = "0"
	f.set.StringVar(&f.Step, "step", "", "for lessons, with --timeline: hold steps until they are released on its page or with Enter: STEP, STEP@POD or STEP@NAMESPACE/POD, separated by commas, where STEP is a CRI method or a step of a pod, as in CreateContainer@default/web")
	f.set.StringVar(&f.Chaos, "chaos", "", "for lessons: let calls to the runtime fail, wait or hang: METHOD=KIND:PROBABILITY, separated by commas, where KIND is error, delay(DURATION) or hang, as in RunPodSandbox=error:0.3")
	f.set.BoolVar(&f.DebugHold, "debug-hold", false, "for debuggers: while one holds the kubelet a process beside it renews the node's lease, so that the cluster keeps the node's pods; calls to the runtime get an hour")
	f.set.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		return pflag.NormalizedName(strings.ReplaceAll(name, "_", "-"))
	})
	f.idle = addIdleFlags(f.set)
	f.embedded = pflag.NewFlagSet(Embedded, pflag.ContinueOnError)
	f.embedded.StringVar(&f.Embedded.State, "runtime-state-dir", "/run/minikubelet", embeddedPrefix+"directory of its socket, cri.sock, and of mounts and namespaces; empty after a reboot")
	f.Embedded.AddFlags(f.embedded, embeddedPrefix)
	f.set.AddFlagSet(f.embedded)
	for _, field := range fieldsWithFlag() {
		shorthand := ""
		if len(field.Flag) == 1 {
			shorthand = field.Flag
		}
		kind := field.goType().Kind()
		many := kind == reflect.Slice && field.Path != "registerWithTaints" || kind == reflect.Map
		value := &flagText{kind: cmp.Or(flagKinds[kind], "string"), many: many}
		if field.goType() == reflect.TypeFor[metav1.Duration]() {
			value.kind = "duration"
		}
		f.set.VarP(value, field.Flag, shorthand, field.usage())
		if kind == reflect.Bool {
			f.set.Lookup(field.Flag).NoOptDefVal = "true"
		}
	}
	f.set.Usage = func() { f.help(out) }
	return f
}

// embeddedPrefix begins the description of the embedded runtime's flags.
const embeddedPrefix = "embedded runtime: "

// flagText is a flag's value as it was given. One that has many parts grows each time that it is given.
type flagText struct {
	text string
	kind string // what --help calls the value
	many bool
}

func (f *flagText) String() string { return f.text }

func (f *flagText) Type() string { return f.kind }

// Set is called for every time that the flag is given.
func (f *flagText) Set(text string) error {
	if f.many && f.text != "" {
		text = f.text + "," + text
	}
	f.text = text
	return nil
}

// flagKinds are what --help calls the values of fields; others are strings.
var flagKinds = map[reflect.Kind]string{
	reflect.Bool: "bool", reflect.Int32: "int", reflect.Int64: "int", reflect.Uint32: "int", reflect.Slice: "list", reflect.Map: "pairs",
}

// goType is the type of the field's value.
func (f Field) goType() reflect.Type {
	v, _ := fieldAt(reflect.ValueOf(&kubeletconfig.KubeletConfiguration{}).Elem(), f.Path)
	if v.Kind() == reflect.Pointer {
		return v.Type().Elem()
	}
	return v.Type()
}

// convert reads the text of the field's flag.
func (f Field) convert(text string) (any, error) {
	typ := f.goType()
	switch {
	case f.Path == "evictionHard", f.Path == "evictionSoft":
		return split(text, "<")
	case typ == reflect.TypeFor[map[string]bool]():
		return gates(text)
	case typ == reflect.TypeFor[map[string][]string]():
		return headers(text)
	case typ == reflect.TypeFor[[]corev1.Taint]():
		return taints(text)
	case typ == reflect.TypeFor[logsapi.VModuleConfiguration]():
		return modules(text)
	}
	switch flagKinds[typ.Kind()] {
	case "bool":
		return yesNo(text)
	case "int":
		return number(text)
	case "list":
		return words(text), nil
	case "pairs":
		return split(text, "=")
	}
	return text, nil
}

// apply puts the configuration's flags over what the files said.
func (f *flags) apply(g *given) (wrong []error) {
	for _, c := range fieldsWithFlag() {
		flag := f.set.Lookup(c.Flag)
		if !flag.Changed {
			continue
		}
		value, err := c.convert(flag.Value.String())
		if err == nil {
			alone := map[string]any{}
			put(alone, c.Path, value)
			_, err = toConfig(alone)
		}
		if err != nil {
			wrong = append(wrong, fmt.Errorf("--%s: %w", c.Flag, err))
			continue
		}
		if gates, ok := g.document[c.Path].(map[string]any); ok && c.Path == "featureGates" {
			value = mergePatch(gates, value.(map[string]any)) // the one map whose entries in the file stay
		}
		put(g.document, c.Path, value)
		g.origins[c.Path] = "--" + c.Flag
	}
	return wrong
}

func number(s string) (any, error) {
	n, err := strconv.ParseInt(s, 0, 64)
	if err != nil {
		return nil, fmt.Errorf("%q is not a number", s)
	}
	return n, nil
}

func yesNo(s string) (any, error) {
	b, err := strconv.ParseBool(s)
	if err != nil {
		return nil, fmt.Errorf("%q is neither true nor false", s)
	}
	return b, nil
}

// words reads a list; "" is an empty one.
func words(s string) []any {
	list := []any{}
	for word := range strings.SplitSeq(s, ",") {
		if word = strings.TrimSpace(word); word != "" {
			list = append(list, word)
		}
	}
	return list
}

// split reads name=value,name=value, with this separator in place of =.
func split(s, separator string) (map[string]any, error) {
	all := map[string]any{}
	for _, word := range words(s) {
		name, value, ok := strings.Cut(word.(string), separator)
		if name = strings.TrimSpace(name); !ok || name == "" {
			return nil, fmt.Errorf("%q: want name%svalue", word, separator)
		}
		all[name] = strings.TrimSpace(value)
	}
	return all, nil
}

// modules reads pattern=N,pattern=N.
func modules(s string) (any, error) {
	all := []any{}
	for _, word := range words(s) {
		pattern, level, ok := strings.Cut(word.(string), "=")
		n, err := strconv.ParseUint(level, 10, 31)
		if !ok || pattern == "" || err != nil {
			return nil, fmt.Errorf("%q: want pattern=N", word)
		}
		all = append(all, map[string]any{"filePattern": pattern, "verbosity": n})
	}
	return all, nil
}

// labels reads key=value,key=value; a key alone is a label without a value, and what is empty is none.
func labels(s string) map[string]string {
	all := map[string]string{}
	for part := range strings.SplitSeq(s, ",") {
		key, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		if key = strings.TrimSpace(key); key != "" {
			all[key] = strings.TrimSpace(value)
		}
	}
	return all
}

// gates reads name=true,name=false.
func gates(s string) (any, error) {
	all, err := split(s, "=")
	for name, value := range all {
		if all[name], err = yesNo(value.(string)); err != nil {
			return nil, err
		}
	}
	return all, err
}

// headers reads name:value,name:value, a name as often as it has values.
func headers(s string) (any, error) {
	all := map[string]any{}
	for _, pair := range words(s) {
		name, value, ok := strings.Cut(pair.(string), ":")
		if name = strings.TrimSpace(name); !ok || name == "" {
			return nil, fmt.Errorf("%q: want name:value", pair)
		}
		values, _ := all[name].([]any)
		all[name] = append(values, strings.TrimSpace(value))
	}
	return all, nil
}

// taints reads key=value:effect or key:effect, separated by commas.
func taints(s string) (any, error) {
	all := []any{}
	for _, word := range words(s) {
		rest, effect, ok := strings.Cut(word.(string), ":")
		key, value, _ := strings.Cut(rest, "=")
		if !ok || key == "" {
			return nil, fmt.Errorf("%q: want key=value:effect", word)
		}
		all = append(all, map[string]any{"key": key, "value": value, "effect": effect})
	}
	return all, nil
}
