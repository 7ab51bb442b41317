package page

import "fmt"

// The colours are classes c0 … c9 of page.css (after Okabe and Ito: told apart by the colour-blind,
// and of different lightness where they stand side by side). Baselines are grey, the paper is warm,
// ours is blue. The systems of the documents have a fixed one, so that two pages agree.
var fixed = map[string]int{"direct": 0, "plain": 1, "published": 2, "paper": 3, "ms-each": 4, "ms": 5}

const colours = 10

// legend gives every system of a page its colour.
type legend struct {
	slots   map[string]int
	entries []legendEntry
}

type legendEntry struct {
	Slot      int
	ID, About string
}

// newLegend takes the explained systems first and then the others as they appear.
func newLegend(p Page) (*legend, error) {
	l := &legend{slots: map[string]int{}}
	drawn := map[string]bool{}
	var order []string
	for _, s := range p.Sections {
		for _, c := range s.Charts {
			for _, g := range c.Groups {
				for _, b := range g.Bars {
					if !drawn[b.System] {
						drawn[b.System] = true
						order = append(order, b.System)
					}
				}
			}
		}
	}
	for _, s := range p.Systems {
		if drawn[s.ID] {
			l.add(s.ID, s.About)
		}
	}
	for _, id := range order {
		l.add(id, "")
	}
	if free := colours - len(fixed); len(l.slots) > colours || l.others() > free {
		return nil, fmt.Errorf("page: %d systems beside the usual ones, and colours for %d: make two pages", l.others(), free)
	}
	return l, nil
}

func (l *legend) add(id, about string) {
	if _, ok := l.slots[id]; ok {
		return
	}
	slot, ok := fixed[id]
	if !ok {
		slot = len(fixed) + l.others()
	}
	l.slots[id] = slot
	l.entries = append(l.entries, legendEntry{slot, id, about})
}

// others counts the systems without a fixed colour.
func (l *legend) others() int {
	n := 0
	for id := range l.slots {
		if _, ok := fixed[id]; !ok {
			n++
		}
	}
	return n
}
