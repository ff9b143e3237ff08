package settings

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
)

// EvictionSignals are the resources whose shortage can be a reason to evict pods.
//
// Upstream: pkg/kubelet/eviction/api/types.go Signal.
var EvictionSignals = []string{
	"memory.available", "nodefs.available", "nodefs.inodesFree", "imagefs.available", "imagefs.inodesFree",
	"containerfs.available", "containerfs.inodesFree", "pid.available",
}

// Amount is a quantity, or a part of a total.
type Amount struct {
	Quantity int64
	Percent  float64
}

// Of is the amount out of a total. A percentage is as exact as upstream's, so that the same is allocatable.
//
// Upstream: pkg/kubelet/eviction/helpers.go parsePercentage, pkg/kubelet/eviction/api/types.go GetThresholdQuantity.
func (a Amount) Of(total int64) int64 {
	if a.Percent > 0 {
		return int64(float64(total) * float64(float32(a.Percent)/100))
	}
	return a.Quantity
}

// EvictionThreshold is how much of a resource must stay free. Without a grace period it is a hard one.
//
// Upstream: pkg/kubelet/eviction/api/types.go Threshold.
type EvictionThreshold struct {
	Signal      string
	Value       Amount
	GracePeriod time.Duration
	// MinReclaim is how much more must be free before an eviction was enough.
	MinReclaim Amount
}

// EvictionThresholds are the thresholds of evictionHard and evictionSoft, in the order of EvictionSignals, hard ones
// first. 0% and 100% mean none.
func (s *Settings) EvictionThresholds() []EvictionThreshold {
	list, _ := evictionThresholds(&s.KubeletConfiguration)
	return list
}

func evictionThresholds(c *kubeletconfig.KubeletConfiguration) (list []EvictionThreshold, wrong []problem) {
	p := &problems{}
	reclaim := map[string]Amount{}
	for signal, text := range c.EvictionMinimumReclaim {
		amount, err := parseAmount(text)
		p.signal("evictionMinimumReclaim", signal, text, err)
		reclaim[signal] = amount
	}
	grace := map[string]time.Duration{}
	for signal, text := range c.EvictionSoftGracePeriod {
		period, err := time.ParseDuration(text)
		if err == nil && period < 0 {
			err = fmt.Errorf("%q: must not be negative", text)
		}
		p.signal("evictionSoftGracePeriod", signal, text, err)
		grace[signal] = period
	}
	add := func(field, signal, text string, period time.Duration) {
		amount, err := parseAmount(text)
		if err == nil && amount == (Amount{}) && !strings.HasSuffix(text, "%") {
			err = fmt.Errorf("%q: must be greater than 0; 0%% is for none", text)
		}
		p.signal(field, signal, text, err)
		if err == nil && amount != (Amount{}) && amount.Percent != 100 {
			list = append(list, EvictionThreshold{Signal: signal, Value: amount, GracePeriod: period, MinReclaim: reclaim[signal]})
		}
	}
	for signal, text := range c.EvictionHard {
		add("evictionHard", signal, text, 0)
	}
	for signal, text := range c.EvictionSoft {
		period, given := grace[signal]
		p.add(!given, "evictionSoft["+signal+"]", text, "needs a grace period in evictionSoftGracePeriod")
		add("evictionSoft", signal, text, period)
	}
	slices.SortFunc(list, func(a, b EvictionThreshold) int {
		return cmp.Or(cmp.Compare(a.GracePeriod, b.GracePeriod), slices.Index(EvictionSignals, a.Signal)-slices.Index(EvictionSignals, b.Signal))
	})
	return list, p.list
}

// signal checks an entry of a map of signals.
func (p *problems) signal(field, signal, text string, err error) {
	path := field + "[" + signal + "]"
	p.add(!slices.Contains(EvictionSignals, signal), path, text, "must be one of "+strings.Join(EvictionSignals, ", "))
	p.add(err != nil, path, text, fmt.Sprint(err))
}

// parseAmount reads 10% or a quantity.
func parseAmount(text string) (Amount, error) {
	if number, ok := strings.CutSuffix(text, "%"); ok {
		percent, err := strconv.ParseFloat(number, 64)
		if err == nil && !(percent >= 0 && percent <= 100) {
			err = fmt.Errorf("%q: must be between 0%% and 100%%", text)
		}
		return Amount{Percent: percent}, err
	}
	q, err := resource.ParseQuantity(text)
	if err == nil && q.Sign() < 0 {
		err = fmt.Errorf("%q: must not be negative", text)
	}
	return Amount{Quantity: q.Value()}, err
}

// mergeEviction adds the default thresholds of the signals that evictionHard leaves out, where that is asked for.
func mergeEviction(c *kubeletconfig.KubeletConfiguration) {
	if c.MergeDefaultEvictionSettings == nil || !*c.MergeDefaultEvictionSettings {
		return
	}
	merged := map[string]string{}
	for signal, text := range defaultEviction {
		merged[signal], _ = text.(string)
	}
	maps.Copy(merged, c.EvictionHard)
	c.EvictionHard = merged
}
