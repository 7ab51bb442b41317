# Reads `go test -json`: prints each package's result, the output of what failed, why tests were skipped, and a last line of counts.
function field(name,   m) {
	if (match($0, "\"" name "\":\"([^\"\\\\]|\\\\.)*\"")) {
		m = substr($0, RSTART + length(name) + 4, RLENGTH - length(name) - 5)
		return m
	}
	return ""
}
function plain(s) {
	gsub(/\\n/, "\n", s); gsub(/\\t/, "\t", s); gsub(/\\"/, "\"", s)
	gsub(/\\u003c/, "<", s); gsub(/\\u003e/, ">", s); gsub(/\\u0026/, "\\&", s); gsub(/\\\\/, "\\", s)
	return s
}
{
	action = field("Action"); pkg = field("Package"); test = field("Test"); key = pkg " " test
	if (action == "output") { text[key] = text[key] plain(field("Output")); next }
	if (action == "build-output") { printf "%s", plain(field("Output")); next }
	if (action !~ /^(pass|fail|skip)$/) next
	if (test != "") {
		n[action]++
		if (only) next
		if (action == "fail") printf "FAIL %s\n%s", key, text[key]
		if (action == "skip") { why = text[key]; gsub(/=== RUN[^\n]*\n|--- SKIP[^\n]*\n|=== [A-Z]+ [^\n]*\n/, "", why); gsub(/\n+$/, "", why); printf "SKIP %s:%s\n", key, why }
	} else {
		if (action == "fail") { broken++; if (!only) printf "FAIL %s\n%s", pkg, text[pkg " "] }
		else if (!only) { t = $0; sub(/.*"Elapsed":/, "", t); sub(/[^0-9.].*/, "", t); printf "%-4s %s %ss\n", (action == "skip" ? "-" : "ok"), pkg, t }
	}
}
END {
	if (only) {
		if (broken > 0 && n["fail"] == 0) n["fail"] = broken
		printf "%d passed, %d failed, %d skipped\n", n["pass"], n["fail"], n["skip"]
	}
}
