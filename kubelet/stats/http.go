package stats

import (
	"encoding/json"
	"net/http"

	"k8s.io/klog/v2"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// Summary answers /stats/summary, of CPU and memory alone with ?only_cpu_and_memory=true.
//
// Upstream: pkg/kubelet/server/stats/handler.go handleSummary
func (p *Provider) Summary() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		get := p.Get
		if only := r.URL.Query()["only_cpu_and_memory"]; len(only) == 1 && only[0] == "true" {
			get = p.GetCPUAndMemory
		}
		summary, err := get(r.Context())
		if err != nil {
			http.Error(w, "Internal Error: "+err.Error(), http.StatusInternalServerError)
			return
		}
		writeJSON(w, r, summary)
	})
}

func writeJSON(w http.ResponseWriter, r *http.Request, summary *statsapi.Summary) {
	body, err := json.Marshal(summary)
	if err != nil {
		http.Error(w, "Internal Error: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if _, err := w.Write(append(body, '\n')); err != nil {
		klog.FromContext(r.Context()).V(4).Info("The client of /stats/summary went away", "err", err)
	}
}
