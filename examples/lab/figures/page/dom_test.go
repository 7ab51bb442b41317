package page

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/html"
)

// doc is a rendered page, parsed.
type doc struct {
	t    *testing.T
	text string
	root *html.Node
}

func render(t *testing.T, p Page) doc {
	t.Helper()
	var b bytes.Buffer
	if err := p.Render(&b); err != nil {
		t.Fatal(err)
	}
	root, err := html.Parse(bytes.NewReader(b.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	return doc{t, b.String(), root}
}

// one renders a page with one chart.
func one(t *testing.T, c Chart) doc {
	t.Helper()
	return render(t, Page{Title: "t", Sections: []Section{{Title: "s", Charts: []Chart{c}}}})
}

// all finds the elements of a name, with a class if one is given.
func (d doc) all(name, class string) []*html.Node {
	var list []*html.Node
	for n := range d.root.Descendants() {
		if n.Type == html.ElementNode && n.Data == name && (class == "" || slices.Contains(strings.Fields(attr(n, "class")), class)) {
			list = append(list, n)
		}
	}
	return list
}

func attr(n *html.Node, key string) string {
	for _, a := range n.Attr {
		if a.Key == key {
			return a.Val
		}
	}
	return ""
}

// words is what is written in a node.
func words(n *html.Node) string {
	var b strings.Builder
	for c := range n.Descendants() {
		if c.Type == html.TextNode {
			b.WriteString(c.Data)
		}
	}
	return strings.TrimSpace(b.String())
}

func texts(nodes []*html.Node) []string {
	var list []string
	for _, n := range nodes {
		list = append(list, words(n))
	}
	return list
}
