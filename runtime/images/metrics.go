package images

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// newPullDuration times pulls.
func newPullDuration(registerer prometheus.Registerer) *prometheus.HistogramVec {
	return promauto.With(registerer).NewHistogramVec(prometheus.HistogramOpts{
		Name: "kubelet_image_pull_duration_seconds", Help: "Seconds that pulling an image took, by its size.",
		Buckets: []float64{1, 5, 10, 20, 30, 60, 120, 180, 240, 300, 360, 480, 600, 900, 1200, 1800, 2700, 3600},
	}, []string{"image_size_in_bytes"})
}

// sizeLabel is the bucket of an image's size.
func sizeLabel(bytes uint64) string {
	const mb, gb = 1 << 20, 1 << 30
	for _, bucket := range []struct {
		below uint64
		label string
	}{
		{10 * mb, "0-10MB"}, {100 * mb, "10MB-100MB"}, {500 * mb, "100MB-500MB"}, {gb, "500MB-1GB"}, {5 * gb, "1GB-5GB"},
		{10 * gb, "5GB-10GB"}, {20 * gb, "10GB-20GB"}, {30 * gb, "20GB-30GB"}, {40 * gb, "30GB-40GB"}, {60 * gb, "40GB-60GB"},
		{100 * gb, "60GB-100GB"},
	} {
		if bytes < bucket.below {
			return bucket.label
		}
	}
	return "GT100GB"
}
