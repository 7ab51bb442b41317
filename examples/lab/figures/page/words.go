package page

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// The sentences under the charts are true for any result: their numbers are computed, and "longer"
// or "shorter" is chosen by comparing.

// longer says a change in percent, or the two ends of several.
func longer(low, high float64) string {
	const still = 0.05 // less is nothing at one decimal
	switch {
	case max(math.Abs(low), math.Abs(high)) < still:
		return "the same time"
	case low >= still:
		return fromTo(low, high) + " % longer"
	case high <= -still:
		return fromTo(-high, -low) + " % less time"
	}
	return "between " + signed(low) + " % and " + signed(high) + " % of it more"
}

// fromTo is one number where both ends look the same.
func fromTo(low, high float64) string {
	a, b := decimals(low, 1), decimals(high, 1)
	if a == b {
		return a
	}
	return a + " to " + b
}

func percentage(low, high float64) string { return fromTo(100*low, 100*high) + " %" }

// span is the values of one system in a group: its rows differ by what the agent remembers. One that
// knows no proxy yet makes more round trips, so it is told apart.
type span struct {
	system    string
	fresh     bool
	low, high float64
}

func spans(g Group) []span {
	var list []span
	for _, b := range g.Bars {
		if b.Value == nil {
			continue
		}
		v, fresh := *b.Value, strings.HasSuffix(b.Label, ", fresh")
		if i := slices.IndexFunc(list, func(s span) bool { return s.system == b.System && s.fresh == fresh }); i >= 0 {
			list[i].low, list[i].high = min(list[i].low, v), max(list[i].high, v)
		} else {
			list = append(list, span{b.System, fresh, v, v})
		}
	}
	return list
}

// who names a system in a sentence.
func who(system string) string {
	switch system {
	case "published":
		return "as published"
	case "paper":
		return "with the paper's handshake re-created here"
	}
	return "with " + system
}

// and joins a list.
func and(list []string) string {
	if len(list) < 2 {
		return strings.Join(list, "")
	}
	return strings.Join(list[:len(list)-1], ", ") + " and " + list[len(list)-1]
}

// takes says what the chart of the overheads found for some of its groups.
func takes(what string, groups ...Group) string {
	var parts []string
	for _, g := range groups {
		if list := inWords(g, longer); list != "" {
			parts = append(parts, what+" to "+g.Name+" takes "+list)
		}
	}
	if len(parts) == 0 {
		return ""
	}
	return strings.Join(parts, ". ") + " (by the means, each against its own base)."
}

// inWords is one group: each system's span and its name.
func inWords(g Group, say func(low, high float64) string) string {
	var list []string
	for _, s := range spans(g) {
		text := say(s.low, s.high) + " " + who(s.system)
		if s.fresh {
			text += " when fresh"
		}
		list = append(list, text)
	}
	return and(list)
}

// noise says which of the changes cannot be told from none.
func noise(c Chart) string {
	var list []string
	for _, g := range c.Groups {
		for _, b := range g.Bars {
			if b.Value != nil && b.Whisker != nil && b.Whisker.Low <= 0 && b.Whisker.High >= 0 {
				list = append(list, b.Label+" ("+g.Name+")")
			}
		}
	}
	if len(list) == 0 {
		return ""
	}
	return "The interval holds zero for " + and(list) + ": that many samples cannot tell such a change from none."
}

// machines says why the milliseconds are not to be compared, with the two bases.
func machines(what string, rows []row) string {
	s := "The paper's machines and network are not ours: compare the percentages, not the milliseconds"
	var there, here string
	for _, x := range rows[0].cells {
		if !x.base || missing(x.figure) != "" {
			continue
		}
		text := number("ms", mean(x.figure))
		if x.system == "published" {
			there = text
		} else {
			here = text
		}
	}
	if there != "" && here != "" {
		s += fmt.Sprintf(" (%s takes %s there and %s here)", what, there, here)
	}
	return s + "."
}

// timeout is what the paper's own means leave for the wait it does not give.
func timeout(r row) string {
	var s strings.Builder
	s.WriteString("The paper does not give the time for which its client waits for a notification")
	for _, x := range r.cells {
		if x.system != "published" || x.base || missing(x.figure) != "" || missing(x.against) != "" {
			continue
		}
		if left := mean(x.figure) - 2*mean(x.against); left > 0 {
			fmt.Fprintf(&s, "; its means leave %s if both handshakes cost the same", number("ms", left))
		}
	}
	return s.String() + ". Ours is assumed, and the re-created client pays it on every connection to a P1 in peace."
}

// warm explains downloads that beat the plain client, and says whether there were any.
func warm(c Chart) string {
	var faster []string
	for _, g := range c.Groups {
		for _, s := range spans(g) {
			if (s.system == "ms" || s.system == "ms-each") && s.low < 0 && !slices.Contains(faster, s.system) {
				faster = append(faster, s.system)
			}
		}
	}
	s := "A download through a link that is already open can use that link's grown congestion window, where a plain client's new TCP connection begins with a small one: part of a gain may be the link and not the method."
	if len(faster) == 0 {
		return s + " In this run none of ours is faster than its base."
	}
	return s + " In this run that concerns " + and(faster) + "."
}

// prefilter compares the published shares with a constant loss before the sampler.
func prefilter(c Chart, ps []string) string {
	s := "The paper needs a pre-filter before its SYN Checker and does not give its rate; ours is assumed, and the share of the re-created paper follows from it."
	var base float64 // the share at p = 1
	var line, times []string
	for i, g := range c.Groups {
		p, err := strconv.ParseFloat(ps[i], 64)
		for _, b := range g.Bars {
			if b.System != "published" || b.Value == nil || err != nil {
				continue
			}
			if p == 1 {
				base = *b.Value
			}
			line = append(line, decimals(100**b.Value, 1))
			times = append(times, decimals(100*base*p, 1))
		}
	}
	if base == 0 || len(line) != 4 {
		return s
	}
	return s + fmt.Sprintf(" The published shares (%s %%) beside the first times p (%s %%) suggest that most of that loss comes before the sampler; sampling alone, with three SYNs in three seconds, would let 100, 98, 88 and 58 %% through.",
		strings.Join(line, ", "), strings.Join(times, ", "))
}

// second says which medians lie within the second in which the paper counts.
func second(c Chart) string {
	var within, over []string
	for _, g := range c.Groups {
		for _, b := range g.Bars {
			switch {
			case b.Mark == nil:
			case *b.Mark <= 1000:
				within = append(within, g.Name)
			default:
				over = append(over, g.Name)
			}
		}
	}
	var s []string
	if len(within) > 0 {
		s = append(s, "Within the paper's second, by the median: "+and(within)+".")
	}
	if len(over) > 0 {
		s = append(s, "Over the paper's second, by the median: "+and(over)+".")
	}
	return strings.Join(s, " ")
}

// succeeded says how many attempts of a table succeeded, from the figures of its shares.
func (d *deck) succeeded(k key) string {
	n, failed := 0, Group{}
	for _, f := range d.all {
		if !k.matches(f) || f.System == "published" || missing(&f) != "" {
			continue
		}
		n++
		if *f.Value < 1 {
			failed.Bars = append(failed.Bars, Bar{System: f.System, Value: f.Value})
		}
	}
	switch {
	case n == 0:
		return ""
	case len(failed.Bars) == 0:
		return "Every attempt of this run succeeded (one that fails has no time)."
	}
	return "Only attempts that succeeded have a time; some failed, where these shares succeeded: " + inWords(failed, percentage) + "."
}

// thinnest names the bar with the fewest samples.
func thinnest(c Chart) string {
	var text string
	least := 0
	for _, g := range c.Groups {
		for _, b := range g.Bars {
			if b.Value != nil && (text == "" || b.N < least) {
				least, text = b.N, b.Label+" at "+g.Name
			}
		}
	}
	if text == "" {
		return ""
	}
	return "The fewest samples: " + text + ", n = " + decimals(float64(least), 0) + "."
}

// noise is how far direct is from direct, where the run has measured it, beside the agent. The figure
// itself stands in the table at the end.
func (d *deck) noise(id string, r row) string {
	i := slices.IndexFunc(d.all, key{id: id + ".noise", when: "unprotected"}.matches)
	if i < 0 || missing(&d.all[i]) != "" {
		return ""
	}
	apart := func(ms float64) string { return decimals(math.Abs(ms), 3) + " ms" }
	s := "By the medians, direct differs from direct by up to " + apart(*d.all[i].Value) + " in the same run"
	if x := r.cells[len(r.cells)-1]; missing(x.figure) == "" && missing(x.against) == "" {
		s += ", and " + x.label + " from direct by " + apart(*x.figure.Value-*x.against.Value)
	}
	return s + "."
}

// digests says whether the files were the same.
func (d *deck) digests() string {
	whole, wrong := 0, 0.0
	for _, f := range d.all {
		if f.ID == "digest.mismatch" && missing(&f) == "" {
			whole, wrong = whole+f.N, wrong+*f.Value
		}
	}
	if whole == 0 {
		return ""
	}
	return fmt.Sprintf("Of the %s whole files of the run, compared by digest, %s differed.", decimals(float64(whole), 0), decimals(wrong, 0))
}

// keep drops the sentences that have nothing to say.
func keep(sentences ...string) []string {
	var list []string
	for _, s := range sentences {
		if s != "" {
			list = append(list, s)
		}
	}
	return list
}
