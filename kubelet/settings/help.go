package settings

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// help prints the flags in groups, those of the configuration as the table has them, each with the field that it sets and its default.
func (f *flags) help(out io.Writer) {
	fmt.Fprint(out, "kubelet runs pods on this machine, from an apiserver, from files and from a URL.\n\n"+
		"A flag that names a field in brackets stands over the same field of the file of --config, where upstream wants it to be.\n")
	groups := map[string][]string{}
	order := []string{"The kubelet itself"}
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
	const embedded, idle = "The embedded runtime (--container-runtime-endpoint=embedded)", "Taken from upstream's command lines, without effect"
	order = append(order, embedded, idle)
	f.set.VisitAll(func(flag *pflag.Flag) {
		switch {
		case slices.ContainsFunc(table, func(field Field) bool { return field.Flag == flag.Name }):
		case f.idle[flag.Name] != "":
			groups[idle] = append(groups[idle], f.line(flag.Name, ""))
		case f.embedded.Lookup(flag.Name) != nil:
			groups[embedded] = append(groups[embedded], f.line(flag.Name, defaultNote(flag.DefValue)))
		default:
			groups[order[0]] = append(groups[order[0]], f.line(flag.Name, defaultNote(flag.DefValue)))
		}
	})
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
	return fmt.Sprintf("  %s%s %s\n        %s%s\n", dashes, name, flag.Value.Type(), flag.Usage, note)
}

func fieldNote(field string, value any) string {
	text := ""
	if value != nil {
		data, _ := json.Marshal(value) // the table's values come from JSON
		text = strings.Trim(string(data), `"`)
	}
	return " [" + field + "]" + defaultNote(text)
}

func defaultNote(value string) string {
	if value == "" || value == "[]" || value == "false" {
		return ""
	}
	return " (default " + value + ")"
}
