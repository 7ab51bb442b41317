package page

import (
	"math/rand/v2"
	"time"

	"migrationsensor/examples/lab/figures"
)

// sample is a file as the bench of the paper writes it, with invented figures: no result of any run.
func sample() *figures.File {
	f := figures.New("make bench-paper", "kernel")
	f.Version, f.Time = "v0.0.0-sample", time.Date(2026, 11, 27, 15, 0, 0, 0, time.UTC)
	r := rand.New(rand.NewPCG(1, 2))
	ms := func(id, system, when string, mean, sd float64, n int) figures.Figure {
		var s []time.Duration
		for range n {
			s = append(s, time.Duration((mean+sd*r.ExpFloat64()-sd)*float64(time.Millisecond)))
		}
		return figures.Times(id, system, when, s)
	}
	sampleUnprotected(f, ms)
	samplePeace(f, ms)
	sampleFlood(f, ms)
	sampleSecondEntry(f, ms)
	for _, kind := range []string{"syn", "icmp"} {
		f.Add(
			figures.Share("detect.found", "published", "flood", 1, 1).Label("kind", kind),
			figures.Share("detect.found", "ms", "flood", 20, 20).Label("kind", kind).AtLeast(1),
			ms("detect.delay", "ms", "flood", 430, 60, 20).Label("kind", kind),
			figures.Count("detect.false", "ms", "peace", 0, 20).Label("kind", kind).AtMost(0),
		)
	}
	f.Add(figures.Count("digest.mismatch", "", "", 0, 4000).AtMost(0))
	noise := figures.Times("connect.noise", "direct", "unprotected", []time.Duration{50 * time.Microsecond})
	noise.Spread = nil
	f.Add(noise)
	f.Decide(true)
	return f
}

type timer func(id, system, when string, mean, sd float64, n int) figures.Figure

func published(id, when, client string, mean, median, sd float64) figures.Figure {
	f := figures.Figure{ID: id, System: "published", When: when, Unit: "ms", N: 1000, Value: &median}
	f.Spread = &figures.Spread{Mean: mean, P50: median, SD: sd}
	return f.Label("client", client).Label("source", "Hsu et al. 2021, Table 2–4")
}

func sampleUnprotected(f *figures.File, ms timer) {
	f.Add(
		published("connect", "unprotected", "without", 6.5, 5.5, 5.5), published("connect", "unprotected", "with", 6.7, 5.5, 5.8),
		published("download_760k", "unprotected", "without", 121.9, 117.3, 20.7), published("download_760k", "unprotected", "with", 124.3, 118.1, 26.2),
		ms("connect", "direct", "unprotected", 5.8, .2, 200).Label("app", "http"), ms("connect", "ms", "unprotected", 5.8, .2, 200).Label("app", "http"),
		ms("download_760k", "direct", "unprotected", 61, 3, 200).Label("app", "http"), ms("download_760k", "ms", "unprotected", 61.2, 3, 200).Label("app", "http"),
		figures.Share("success.connect", "ms", "unprotected", 200, 200).Label("app", "http"),
	)
}

func samplePeace(f *figures.File, ms timer) {
	pub := func(id, app, dest, client string, mean, median, sd float64) {
		f.Add(published(id, "peace", client, mean, median, sd).Label("app", app).Label("dest", dest))
	}
	pub("connect", "http", "p1", "without", 15.8, 14.5, 7.2)
	pub("connect", "http", "p1", "with", 47.4, 45.6, 9.9)
	pub("connect", "http", "p2", "without", 14.1, 13.1, 6.6)
	pub("connect", "http", "p2", "with", 14.3, 13.1, 8.8)
	pub("download_760k", "ssh", "p1", "without", 1902.3, 1899.3, 35.1)
	pub("download_760k", "ssh", "p1", "with", 1956.0, 1947.9, 45.3)
	pub("download_760k", "ssh", "p2", "without", 1776.2, 1763.2, 87.1)
	pub("download_760k", "ssh", "p2", "with", 1789.0, 1760.7, 56.1)
	for _, app := range []string{"http", "ssh"} {
		base := map[string]float64{"http": 124, "ssh": 410}[app]
		f.Add(ms("connect", "direct", "peace", 15.2, .2, 100).Label("dest", "site").Label("app", app))
		f.Add(ms("download_760k", "direct", "peace", base-2, 3, 100).Label("dest", "site").Label("app", app))
		for _, dest := range []string{"p1", "p2"} {
			add := func(system, memory string, connect, download float64) {
				c, d := ms("connect", system, "peace", connect, .4, 100), ms("download_760k", system, "peace", download, 4, 100)
				for _, x := range []figures.Figure{c, d} {
					x = x.Label("dest", dest).Label("app", app)
					if memory != "" {
						x = x.Label("memory", memory)
					}
					if system == "ms" && x.ID == "connect" {
						x.Baseline = &figures.Baseline{System: "plain", Value: 15.3, Ratio: 1.059}
						x = x.RatioAtMost(1.03)
					}
					f.Add(x)
				}
			}
			add("plain", "", 15.3, base)
			if app == "ssh" && dest == "p2" {
				f.Add(figures.Skip("connect", "paper", "peace", "no sshd on this machine: install openssh-server and run again").Label("dest", dest).Label("app", app))
				f.Add(figures.Skip("download_760k", "paper", "peace", "no sshd here").Label("dest", dest).Label("app", app))
			} else {
				add("paper", "", map[string]float64{"p1": 46.8, "p2": 15.6}[dest], base+32)
			}
			add("ms-each", "", 31.9, base+15)
			add("ms", "", 15.7, base*.52)
			if dest == "p1" {
				add("ms", "fresh", 15.9, base*.52)
			}
		}
	}
	f.Add(figures.Share("success.connect", "plain", "peace", 400, 400).Label("app", "http"), figures.Share("success.connect", "ms", "peace", 399, 400).Label("app", "http"))
}

// sampleSecondEntry is P2 while P1 is flooded: measured once, because p does not matter to it.
func sampleSecondEntry(f *figures.File, ms timer) {
	for _, system := range []string{"plain", "paper", "ms-each", "ms"} {
		for _, x := range []figures.Figure{
			figures.Share("success.connect", system, "flood", 40, 40), ms("connect", system, "flood", 16, 1, 40),
		} {
			f.Add(x.Label("dest", "p2").Label("p", "1").Label("attacker", "own").Label("retries", "0"))
		}
	}
}

func sampleFlood(f *figures.File, ms timer) {
	ps := []string{"1", "0.75", "0.5", "0.25"}
	for i, v := range []float64{.024, .022, .013, .003} {
		x := figures.Share("success.connect", "published", "flood", 0, 0).Label("p", ps[i]).Label("attacker", "hping3").Label("dest", "p1")
		x.Value = &v
		f.Add(x)
	}
	for i, v := range []float64{.037, .031, .021, .009} {
		x := figures.Share("success.download", "published", "flood", 0, 0).Label("p", ps[i])
		x.Value = &v
		f.Add(x)
	}
	for i, p := range ps {
		for _, attacker := range []string{"own", "hping3"} {
			add := func(x figures.Figure, retries, memory string) {
				x = x.Label("dest", "p1").Label("p", p).Label("rate", "1000").Label("attacker", attacker).Label("retries", retries)
				if memory != "" {
					x = x.Label("memory", memory)
				}
				f.Add(x)
			}
			for _, id := range []string{"success.connect", "success.download"} {
				for j, retries := range []string{"0", "2"} {
					add(figures.Share(id, "plain", "flood", 2+2*j, 40), retries, "")
					add(figures.Share(id, "paper", "flood", (4-i)*(1+j)/2, 40), retries, "")
					add(figures.Share(id, "ms-each", "flood", 40, 40), retries, "")
					add(figures.Share(id, "ms", "flood", 39+j, 40), retries, "fresh")
					add(figures.Share(id, "ms", "flood", 40, 40), retries, "remembers")
				}
			}
			add(figures.Times("connect", "paper", "flood", nil), "0", "")
			add(ms("connect", "plain", "flood", 1900, 900, 4), "0", "")
			add(ms("connect", "ms-each", "flood", 80, 20, 40), "0", "")
			add(ms("connect", "ms", "flood", 1060, 300, 40), "0", "fresh")
			add(ms("connect", "ms", "flood", 17, 2, 40), "0", "remembers")
			add(ms("connect", "ms", "flood", 18, 2, 40), "2", "remembers")
		}
	}
}
