package page

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/net/html"
)

func samplePage() Page {
	return Paper(sample(), Fact{"Round trip", "15 ms"}, Fact{"Receive timeout", "15.8 ms"}, Fact{"Pre-filter", "24 SYN/s"})
}

// TestWritesWholeFile writes the sample; PAGE_OUT names a folder where a person can look at it.
func TestWritesWholeFile(t *testing.T) {
	dir := os.Getenv("PAGE_OUT")
	if dir == "" {
		dir = t.TempDir()
	}
	name := filepath.Join(dir, "new", "paper.html")
	if err := samplePage().Write(name); err != nil {
		t.Fatal(err)
	}
	var want bytes.Buffer
	if err := samplePage().Render(&want); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want.Bytes()) {
		t.Error("the file is not what Render writes")
	}
	if _, err := os.Stat(name + ".new"); err == nil {
		t.Error("the half-written file stayed")
	}
}

// TestStandsAlone holds that a page asks nobody for anything and runs nothing.
func TestStandsAlone(t *testing.T) {
	d := render(t, samplePage())
	for n := range d.root.Descendants() {
		if n.Type != html.ElementNode {
			continue
		}
		switch n.Data {
		case "script", "link", "img", "image", "iframe", "object", "embed", "base", "use", "foreignobject", "foreignObject":
			t.Errorf("element <%s>", n.Data)
		}
		for _, a := range n.Attr {
			switch {
			case a.Key == "src", a.Key == "style", strings.HasPrefix(a.Key, "on"):
				t.Errorf("<%s %s=%q>", n.Data, a.Key, a.Val)
			case strings.HasSuffix(a.Key, "href") && !strings.HasPrefix(a.Val, "#"):
				t.Errorf("<%s> points outside: %q", n.Data, a.Val)
			}
		}
	}
	for _, bad := range []string{"http:", "https:", "url(", "@import", "ZgotmplZ", "<nil>", "NaN", "Inf", "%!"} {
		if strings.Contains(d.text, bad) {
			t.Errorf("the page holds %q", bad)
		}
	}
}

// TestIsWellFormed holds that a strict reader and a forgiving one see the same elements: what is
// opened is closed, in order, and every id is there once.
func TestIsWellFormed(t *testing.T) {
	d := render(t, samplePage())
	var open []string
	ids := map[string]bool{}
	z := html.NewTokenizer(strings.NewReader(d.text))
	for kind := z.Next(); kind != html.ErrorToken; kind = z.Next() {
		tok := z.Token()
		for _, a := range tok.Attr {
			if a.Key == "id" && ids[a.Val] {
				t.Errorf("id %q twice", a.Val)
			} else if a.Key == "id" {
				ids[a.Val] = true
			}
		}
		switch {
		case kind == html.StartTagToken && tok.Data != "meta":
			open = append(open, tok.Data)
		case kind == html.EndTagToken && (len(open) == 0 || open[len(open)-1] != tok.Data):
			t.Fatalf("</%s> closes %v", tok.Data, open)
		case kind == html.EndTagToken:
			open = open[:len(open)-1]
		}
	}
	if len(open) != 0 {
		t.Errorf("never closed: %v", open)
	}
	for _, a := range d.all("a", "") {
		if id := strings.TrimPrefix(attr(a, "href"), "#"); !ids[id] {
			t.Errorf("link to %q, which is not on the page", id)
		}
	}
}

// TestSaysEverythingInWords holds that each picture has a title, a description and its numbers.
func TestSaysEverythingInWords(t *testing.T) {
	d := render(t, samplePage())
	plots := d.all("svg", "plot")
	if charts := d.all("article", ""); len(plots) == 0 || len(plots) != len(charts) {
		t.Fatalf("%d plots in %d charts", len(plots), len(charts))
	}
	for _, f := range d.all("article", "") {
		sub := doc{t, "", f}
		svg := sub.all("svg", "plot")[0]
		if attr(svg, "role") != "img" || attr(svg, "aria-labelledby") == "" {
			t.Errorf("%s: the plot is no image with a name", attr(f, "id"))
		}
		for id := range strings.FieldsSeq(attr(svg, "aria-labelledby")) {
			if !strings.Contains(d.text, ` id="`+id+`">`) {
				t.Errorf("no element %q", id)
			}
		}
		rows := len((doc{t, "", sub.all("tbody", "")[0]}).all("tr", ""))
		if bars := len(sub.all("g", "row")); rows != bars {
			t.Errorf("%s: %d rows of numbers for %d bars", attr(f, "id"), rows, bars)
		}
	}
}

// TestHostileTexts puts mark-up into every text of a page.
func TestHostileTexts(t *testing.T) {
	const bad = `"><script>alert(1)</script><b onload='x'>&{{.}}</style></title></svg>`
	v := new(1.0)
	p := Page{
		Title: bad, Lead: bad, Facts: []Fact{{bad, bad}}, Systems: []System{{bad, bad}},
		Sections: []Section{{
			Number: bad, Title: bad, Note: []string{bad}, Table: &Table{Head: []string{bad}, Rows: [][]string{{bad}}},
			Charts: []Chart{{
				Title: bad, Unit: bad, Bar: bad, Whisker: bad, Mark: bad, Note: []string{bad},
				Groups: []Group{{bad, []Bar{
					{Label: bad, System: bad, Value: v, Mark: v, Whisker: &Range{0, 2}, Ratio: v, N: 1, Detail: bad},
					{Label: bad, System: bad, Missing: bad},
				}}},
			}},
		}},
	}
	d := render(t, p)
	if s := d.all("script", ""); len(s) > 0 {
		t.Errorf("%d scripts", len(s))
	}
	for n := range d.root.Descendants() {
		if attr(n, "onload") != "" {
			t.Errorf("<%s> has a handler", n.Data)
		}
	}
	// The text stays what it was, wherever it stands; where it is cut, its begin stays.
	if got := words(d.all("h1", "")[0]); got != bad {
		t.Errorf("title %q, want %q", got, bad)
	}
	if got := d.all("svg", "plot"); len(got) != 1 {
		t.Errorf("%d plots, want 1", len(got))
	}
	if strings.Contains(regexp.MustCompile(`(?s)<style>.*?</style>`).ReplaceAllString(d.text, ""), "<script") {
		t.Error("a script in the source")
	}
}
