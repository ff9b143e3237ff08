package settings

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// help prints the flags in groups, those of the configuration as the table has them, each with the field that it sets and its default.
func (f *flags) help(out io.Writer) {
	fmt.Fprint(out, "kubelet runs pods on this machine, from an apiserver, from files and from a URL.\n\n"+
		"Usage: kubelet [FLAGS], or kubelet COMMAND (below)\n\n"+
		"A flag with a field in brackets stands over the same field of the file of --config. Upstream such flags are deprecated in favour of the file,\n"+
		"but for -v, --vmodule, --provider-id and --fail-cgroupv1; here they stay.\n")
	const lessons, embedded, idle = "For lessons and debuggers", "The embedded runtime (--container-runtime-endpoint=embedded)", "Taken from upstream's command lines, without effect"
	order := []string{"The kubelet itself"}
	groups := map[string][]string{order[0]: {"  -h, --help\n        print this\n"}}
	var group string
	for _, field := range table {
		if field.Group != "" {
			group = field.Group
			order = append(order, group)
		}
		if field.Flag != "" {
			groups[group] = append(groups[group], f.line(field.Flag, fieldNote(field.Path, field.Default)))
		}
	}
	order = append(order, embedded, lessons, idle)
	f.set.VisitAll(func(flag *pflag.Flag) {
		switch {
		case slices.ContainsFunc(table, func(field Field) bool { return field.Flag == flag.Name }):
		case f.idle[flag.Name] != "": // below, by what holds instead
		case slices.Contains([]string{"chaos", "debug-hold", "step", "timeline"}, flag.Name):
			groups[lessons] = append(groups[lessons], f.line(flag.Name, ""))
		case f.embedded.Lookup(flag.Name) != nil:
			groups[embedded] = append(groups[embedded], f.line(flag.Name, defaultNote(flag.DefValue)))
		default:
			groups[order[0]] = append(groups[order[0]], f.line(flag.Name, defaultNote(flag.DefValue)))
		}
	})
	for _, i := range idleFlags {
		var names []string
		for name := range strings.FieldsSeq(i.flags + " " + i.switches) {
			names = append(names, "--"+name+lastRelease(name))
		}
		groups[idle] = append(groups[idle], fmt.Sprintf("  %s\n        %s\n", strings.Join(names, ", "), i.instead))
	}
	for _, name := range order {
		fmt.Fprintf(out, "\n%s:\n%s", name, strings.Join(groups[name], ""))
	}
}

// line describes a flag.
func (f *flags) line(name, note string) string {
	flag := f.set.Lookup(name)
	dashes := "--"
	if len(name) == 1 {
		dashes = "-"
	}
	kind := flag.Value.Type()
	if better := map[string]string{"stringSlice": "list", "func": "string"}[kind]; better != "" {
		kind = better
	}
	return fmt.Sprintf("  %s%s %s\n        %s%s\n", dashes, name, kind, strings.TrimPrefix(flag.Usage, embeddedPrefix), note)
}

func fieldNote(field string, value any) string {
	return " [" + field + "]" + defaultNote(flagForm(value))
}

// flagForm writes a value of the table as its flag takes it.
func flagForm(value any) string {
	var words []string
	switch value := value.(type) {
	case nil:
		return ""
	case []any:
		for _, word := range value {
			words = append(words, fmt.Sprint(word))
		}
	case map[string]any: // of thresholds
		for _, signal := range slices.Sorted(maps.Keys(value)) {
			words = append(words, fmt.Sprintf("%s<%v", signal, value[signal]))
		}
	default:
		return fmt.Sprint(value)
	}
	return strings.Join(words, ",")
}

func defaultNote(value string) string {
	if value == "" || value == "[]" || value == "false" {
		return ""
	}
	return " (default " + value + ")"
}
