package tables

import "migrationsensor/examples/lab/figures"

// source names a table of the paper.
func source(table string) string { return "Hsu et al. 2021, " + table }

// publishedTimes are the paper's cells with a time: mean, median and SD as printed, 1,000 connections
// or downloads each (section 6.1), all successful. overhead is the paper's own figure, of the means;
// a few differ in the last digit from what the printed means give.
var publishedTimes = []struct {
	table, id, when   string
	labels            map[string]string
	without, with     [3]float64 // mean, median, SD
	overhead, success string     // success is the id of its share
}{
	// §6.2: a public web site over the internet; no proxy in between.
	{"Table 2", "connect", unprotected, map[string]string{"app": "http"},
		[3]float64{6.5, 5.5, 5.5}, [3]float64{6.7, 5.5, 5.8}, "3.1 %", "success.connect"},
	{"Table 2", "download_760k", unprotected, map[string]string{"app": "http"},
		[3]float64{121.9, 117.3, 20.7}, [3]float64{124.3, 118.1, 26.2}, "1.9 %", "success.download"},
	// §6.3: an isolated LAN, no attack. The application of the connects is not named.
	{"Table 3", "connect", peace, map[string]string{"dest": "p1"},
		[3]float64{15.8, 14.5, 7.2}, [3]float64{47.4, 45.6, 9.9}, "199.9 %", "success.connect"},
	{"Table 3", "connect", peace, map[string]string{"dest": "p2"},
		[3]float64{14.1, 13.1, 6.6}, [3]float64{14.3, 13.1, 8.8}, "1.4 %", "success.connect"},
	// §6.3: the same, 760 KB over SSH.
	{"Table 4", "download_760k", peace, map[string]string{"dest": "p1", "app": "ssh"},
		[3]float64{1902.3, 1899.3, 35.1}, [3]float64{1956.0, 1947.9, 45.3}, "2.89 %", "success.download"},
	{"Table 4", "download_760k", peace, map[string]string{"dest": "p2", "app": "ssh"},
		[3]float64{1776.2, 1763.2, 87.1}, [3]float64{1789.0, 1760.7, 56.1}, "0.7 %", "success.download"},
}

// publishedShares are Table 5 (§6.4): one attacker, hping3, random sources, a SYN each 1,000 µs, on P1,
// at the values of p in shares. The number of trials is not given; of the downloads it says that
// the user may retry, and not how often.
var publishedShares = map[string][]float64{
	"success.connect":  {0.024, 0.022, 0.013, 0.003},
	"success.download": {0.037, 0.031, 0.021, 0.009},
}

// publishedTrials is the n of the paper's times.
const publishedTrials = 1000

// Published are the paper's own figures.
func Published() (out []figures.Figure) {
	add := func(f figures.Figure, table, client string, labels map[string]string) {
		f = f.Label("source", source(table)).Label("client", client)
		for k, v := range labels {
			f = f.Label(k, v)
		}
		out = append(out, f)
	}
	for _, c := range publishedTimes {
		for _, x := range []struct {
			client string
			v      [3]float64
		}{{"without", c.without}, {"with", c.with}} {
			f := figures.Published(c.id, c.when, "ms", publishedTrials, x.v[0], x.v[1], x.v[2])
			if x.client == "with" {
				f = f.Label("overhead", c.overhead)
			}
			add(f, c.table, x.client, c.labels)
			add(figures.PublishedShare(c.success, c.when, publishedTrials, 1), c.table, x.client, c.labels)
		}
	}
	for _, id := range []string{"success.connect", "success.download"} {
		for i, p := range shares {
			add(figures.PublishedShare(id, flooded, 0, publishedShares[id][i]), "Table 5", "with",
				map[string]string{"dest": "p1", "p": p, "rate": "1000", "attacker": "hping3"})
		}
	}
	for _, kind := range kinds { // §6.2, "with an appropriate threshold"
		add(figures.PublishedShare("detect.found", flooded, 0, 1), "§6.2", "with", map[string]string{"kind": kind})
	}
	return out
}
