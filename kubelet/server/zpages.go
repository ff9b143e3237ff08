package server

import (
	"encoding/json"
	"fmt"
	"maps"
	"mime"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"minikubelet/kubelet/settings"
)

const notForMachines = "Warning: This endpoint is not meant to be machine parseable, has no formatting compatibility guarantees and is for debugging purposes only."

// zpagesGroup is the API group of what a machine reads from /flagz and /statusz.
const zpagesGroup = "config.k8s.io"

// pageOf is what both pages have in their structured form.
type pageOf struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
}

func newPage(kind, version string) pageOf {
	return pageOf{metav1.TypeMeta{Kind: kind, APIVersion: zpagesGroup + "/" + version}, metav1.ObjectMeta{Name: "kubelet"}}
}

// flagz is the command line.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/server/flagz/api/v1beta1/types.go Flagz
type flagz struct {
	pageOf `json:",inline"`
	Flags  map[string]string `json:"flags,omitempty"`
}

// statusz is what the kubelet is and since when it runs.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/server/statusz/api/v1beta1/types.go Statusz
type statusz struct {
	pageOf        `json:",inline"`
	StartTime     metav1.Time `json:"startTime"`
	UptimeSeconds int64       `json:"uptimeSeconds"`
	GoVersion     string      `json:"goVersion"`
	BinaryVersion string      `json:"binaryVersion"`
	Paths         []string    `json:"paths"`
}

// getFlagz answers with the command line.
func (s *Server) getFlagz(w http.ResponseWriter, r *http.Request) error {
	flags := maps.Clone(s.settings.Flags)
	if flags["manifest-url-header"] != "" {
		flags["manifest-url-header"] = settings.Mask
	}
	if location := flags["manifest-url"]; location != "" {
		flags["manifest-url"] = settings.MaskURL(location)
	}
	form, err := pageForm(r.Header.Values("Accept"), "Flagz")
	if err != nil {
		return err
	}
	if form.version != "" {
		return form.write(w, flagz{newPage("Flagz", form.version), flags})
	}
	var text strings.Builder
	fmt.Fprintf(&text, "kubelet flagz\n%s\n\n", notForMachines)
	for _, name := range slices.Sorted(maps.Keys(flags)) {
		fmt.Fprintf(&text, "%s=%s\n", name, flags[name])
	}
	return writeText(w, text.String())
}

// getStatusz answers with what the kubelet is and since when it runs.
func (s *Server) getStatusz(w http.ResponseWriter, r *http.Request) error {
	form, err := pageForm(r.Header.Values("Accept"), "Statusz")
	if err != nil {
		return err
	}
	up := time.Since(s.started).Round(time.Second)
	if form.version != "" {
		return form.write(w, statusz{
			newPage("Statusz", form.version), metav1.NewTime(s.started), int64(up.Seconds()), runtime.Version(), s.settings.Version, s.paths,
		})
	}
	return writeText(w, fmt.Sprintf("kubelet statusz\n%s\n\nStarted: %s\nUp: %d hr %02d min %02d sec\nGo version: %s\nBinary version: %s\n\nPaths: %s\n",
		notForMachines, s.started.Format(time.RFC1123), int(up.Hours()), int(up.Minutes())%60, int(up.Seconds())%60,
		runtime.Version(), s.settings.Version, strings.Join(s.paths, " ")))
}

// form is how a page is written: as text, or, with a version, for machines.
type form struct {
	version, contentType string
	yaml                 bool
}

// pageForm reads an Accept header: the first of its forms that there is. For machines there is only what names the
// kind, its group and a version, so that none of them takes the text's layout for a promise.
func pageForm(accept []string, kind string) (form, error) {
	wanted := strings.Join(accept, ",")
	if strings.TrimSpace(wanted) == "" {
		return form{}, nil
	}
	for one := range strings.SplitSeq(wanted, ",") {
		media, parameters, err := mime.ParseMediaType(one)
		if err != nil {
			continue
		}
		switch media {
		case "*/*", "text/*", "text/plain":
			return form{}, nil
		case "application/json", "application/yaml":
			version := parameters["v"]
			if parameters["as"] == kind && parameters["g"] == zpagesGroup && (version == "v1beta1" || version == "v1alpha1") {
				return form{version, fmt.Sprintf("%s;g=%s;v=%s;as=%s", media, zpagesGroup, version, kind), media == "application/yaml"}, nil
			}
		}
	}
	return form{}, &httpError{http.StatusNotAcceptable, fmt.Sprintf("only text/plain and, of application/json and application/yaml, as=%s;v=v1beta1;g=%s are served", kind, zpagesGroup)}
}

func (f form) write(w http.ResponseWriter, value any) error {
	if f.version == "v1alpha1" {
		w.Header().Set("Warning", `299 - "v1alpha1 of this page is deprecated, ask for v1beta1"`)
	}
	marshal := json.Marshal
	if f.yaml {
		marshal = yaml.Marshal
	}
	data, err := marshal(value)
	if err != nil {
		return fmt.Errorf("write answer: %w", err)
	}
	w.Header().Set("Content-Type", f.contentType)
	_, err = w.Write(data)
	return err
}
