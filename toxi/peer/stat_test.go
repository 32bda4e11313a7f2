package peer_test

import (
	"cmp"
	"slices"
)

// median returns the middle of values, which it leaves in their order.
func median(values []float64) float64 {
	s := slices.Sorted(slices.Values(values))
	switch n := len(s); {
	case n == 0:
		return 0
	case n%2 == 1:
		return s[n/2]
	default:
		return (s[n/2-1] + s[n/2]) / 2
	}
}

// percentile returns the value that p of 100 of the sorted values don't exceed.
func percentile[T cmp.Ordered](sorted []T, p float64) T {
	i := int(float64(len(sorted))*p/100+0.999999) - 1
	return sorted[min(max(i, 0), len(sorted)-1)]
}
