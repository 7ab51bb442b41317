package tables

import (
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"testing"
)

// TestPublishedMeansGiveThePublishedOverhead checks the numbers against each other: a wrong digit in a mean
// or an overhead shows. The paper itself is off by up to 0.1 in the last digit.
func TestPublishedMeansGiveThePublishedOverhead(t *testing.T) {
	for _, c := range publishedTimes {
		given, err := strconv.ParseFloat(strings.TrimSuffix(c.overhead, " %"), 64)
		if err != nil {
			t.Fatal(err)
		}
		if got := 100 * (c.with[0]/c.without[0] - 1); math.Abs(got-given) > 0.11 {
			t.Errorf("%s %s %v: the means give %.2f %%, the paper %s", c.table, c.id, c.labels, got, c.overhead)
		}
		for _, v := range [][3]float64{c.without, c.with} {
			if mean, median, sd := v[0], v[1], v[2]; math.Abs(mean-median) > sd {
				t.Errorf("%s %s: mean %g and median %g are farther apart than one SD %g, which no sample can be", c.table, c.id, mean, median, sd)
			}
		}
	}
}

func TestPublishedFigures(t *testing.T) {
	all := Published()
	if want := len(publishedTimes)*4 + 2*len(shares) + len(kinds); len(all) != want {
		t.Errorf("%d published figures, want %d", len(all), want)
	}
	for _, f := range all {
		b, err := json.Marshal(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, invented := range []string{"p95", "p99", `"min"`, `"max"`, "rtt_ms", "retries"} {
			if strings.Contains(string(b), invented) {
				t.Errorf("the paper gives no %s: %s", invented, b)
			}
		}
		if f.System != "published" || !strings.HasPrefix(f.Labels["source"], "Hsu et al. 2021, ") || f.Goal != "" || f.Value == nil {
			t.Errorf("%s", b)
		}
		if f.When == flooded && f.N != 0 {
			t.Errorf("the paper does not say of how many: %s", b)
		}
	}
}
