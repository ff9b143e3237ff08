package settings

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/spf13/pflag"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
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
	b.WriteString("| field | support | default | note |\n|---|---|---|---|\n")
	for _, f := range table {
		value := ""
		if f.Default != nil {
			data, _ := json.Marshal(f.Default)
			value = strings.Trim(string(data), `"`)
		}
		if f.Upstream != nil {
			value = fmt.Sprintf("**%s** (upstream: %v)", value, f.Upstream)
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", f.Path, f.Support, value, f.Note)
	}
	return b.String()
}

func flagTable() string {
	var b strings.Builder
	b.WriteString("| flag | field | meaning |\n|---|---|---|\n")
	fields := map[string]string{}
	for _, f := range fieldsWithFlag() {
		fields[f.Flag] = f.Path
	}
	newFlags(io.Discard).set.VisitAll(func(f *pflag.Flag) { fmt.Fprintf(&b, "| --%s | %s | %s |\n", f.Name, fields[f.Name], f.Usage) })
	return b.String()
}

// TestTableIsWhole: every field of the configuration's type is in the table once, itself or through one above it, and
// every path, default and flag of the table exists.
func TestTableIsWhole(t *testing.T) {
	seen := map[string]bool{}
	for _, f := range table {
		if seen[f.Path] {
			t.Errorf("%s is in the table twice", f.Path)
		}
		seen[f.Path] = true
		for _, value := range append([]any{f.Default, f.Upstream}, f.Also...) {
			if value != nil {
				typed(f.Path, value) // panics
			}
		}
		valueAt(&kubeletconfig.KubeletConfiguration{}, f.Path) // panics
	}
	var walk func(above string, typ reflect.Type)
	walk = func(above string, typ reflect.Type) {
		for f := range typ.Fields() {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if f.Type == reflect.TypeFor[metav1.TypeMeta]() || seen[above+name] {
				continue
			}
			if f.Type.Kind() != reflect.Struct {
				t.Errorf("%s is not in the table", above+name)
				continue
			}
			walk(above+name+".", f.Type)
		}
	}
	walk("", reflect.TypeFor[kubeletconfig.KubeletConfiguration]())
}
