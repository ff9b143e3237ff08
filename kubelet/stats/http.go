package stats

import (
	"encoding/json"
	"net/http"
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
		var body []byte
		if err == nil {
			body, err = json.Marshal(summary)
		}
		if err != nil {
			http.Error(w, "Internal Error: "+err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(append(body, '\n')) // a client that has gone misses it
	})
}
