package page

import (
	"math"
	"strconv"
	"strings"
)

// number is a value with its unit, as it stands beside a bar.
func number(unit string, v float64) string {
	switch unit {
	case "ms":
		return decimals(v, 1) + " ms"
	case "share":
		return decimals(100*v, 1) + " %"
	case "percent":
		return signed(v) + " %"
	case "count", "":
		return short(v)
	}
	return short(v) + " " + unit
}

// tick is a value at the axis; the last one carries the unit.
func tick(unit string, v float64, last bool) string {
	if unit == "share" {
		v *= 100
	}
	s := short(v)
	if !last {
		return s
	}
	switch unit {
	case "share", "percent":
		return s + " %"
	case "count", "":
		return s
	}
	return s + " " + unit
}

// signed is a change: +3.1, −2.0 or ±0.0.
func signed(v float64) string {
	s := decimals(v, 1)
	switch {
	case s == "0.0":
		return "±" + s
	case v > 0:
		return "+" + s
	}
	return s
}

// short has as many digits as it needs, at most six.
func short(v float64) string {
	digits := 0
	if a := math.Abs(v); a > 0 && a < 1e5 {
		digits = max(0, 5-int(math.Floor(math.Log10(a))))
	}
	s := decimals(v, min(digits, 9))
	if strings.Contains(s, ".") {
		s = strings.TrimRight(strings.TrimRight(s, "0"), ".")
	}
	return s
}

// decimals groups thousands and writes a true minus; there is no −0.
func decimals(v float64, digits int) string {
	s := strconv.FormatFloat(math.Abs(v), 'f', digits, 64)
	whole, rest, _ := strings.Cut(s, ".")
	for i := len(whole) - 3; i > 0; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	if rest != "" {
		whole += "." + rest
	}
	if v < 0 && strings.Trim(s, "0.") != "" {
		return "−" + whole
	}
	return whole
}
