package settings

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

var rewrite = flag.Bool("rewrite", false, "write the generated parts of docs/compatibility.md")

const compatibility = "../../docs/compatibility.md"

// TestCompatibilityDocument keeps the tables of docs/compatibility.md what the code says.
func TestCompatibilityDocument(t *testing.T) {
	data, err := os.ReadFile(compatibility)
	if err != nil {
		t.Fatal(err)
	}
	document := string(data)
	for name, table := range map[string]string{"config": fieldTable(), "flags": flagTable()} {
		begin, end := "<!-- "+name+":begin -->\n", "<!-- "+name+":end -->"
		before, rest, ok := strings.Cut(document, begin)
		have, after, closed := strings.Cut(rest, end)
		if !ok || !closed {
			t.Fatalf("%s has no part %s", compatibility, name)
		}
		if have != table && !*rewrite {
			t.Errorf("the part %s of docs/compatibility.md is not what the code says: go test ./kubelet/settings -rewrite", name)
		}
		document = before + begin + table + end + after
	}
	if *rewrite {
		if err := os.WriteFile(compatibility, []byte(document), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func fieldTable() string {
	var b strings.Builder
	b.WriteString("| field | support | note |\n|---|---|---|\n")
	for _, f := range Fields() {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", f.Path, f.Support, f.Note)
	}
	return b.String()
}

func flagTable() string {
	var b strings.Builder
	b.WriteString("| flag | meaning |\n|---|---|\n")
	newFlags().set.VisitAll(func(f *pflag.Flag) { fmt.Fprintf(&b, "| --%s | %s |\n", f.Name, f.Usage) })
	return b.String()
}
