package bench

import (
	"io"
	"strings"
	"text/template"
)

// A chart is a set of horizontal bars in groups, one group a case, one bar a contestant.
type chart struct {
	Title  string
	Note   string
	Groups []chartGroup
}

type chartGroup struct {
	Name string
	Bars []chartBar
}

type chartBar struct {
	Contestant string
	Value      float64
}

// chartNames are what charts call a kind of request.
var chartNames = map[work]string{
	unused: "session not used", read: "read", write: "write", create: "new session", regenerate: "login", renew: "renewal",
}

// charts returns the charts of a report by file name, those for which it has figures.
func charts(r *report) map[string]chart {
	all := map[string]chart{"memory.svg": memoryChart(r), "servers.svg": serversChart(r)}
	for name, c := range all {
		if len(c.Groups) == 0 {
			delete(all, name)
		}
	}
	return all
}

func memoryChart(r *report) chart {
	c := chart{
		Title: "Processor time of a request, in µs: shorter is better",
		Note:  "sessions in memory, three short values",
	}
	for _, w := range allWorks {
		c.add(chartNames[w], r.bars(caseName("memory", w, small), "ns/op", 1000))
	}
	return c
}

func serversChart(r *report) chart {
	c := chart{
		Title: "Processor time of a request, in µs: shorter is better",
		Note:  "sessions on a server, three short values; net/http and its client included, the store's server not",
	}
	for _, b := range allBackends {
		for _, w := range allWorks[1:] {
			c.add(b.name+", "+chartNames[w], r.bars(caseName(b.name, w, small), "µs CPU/request", 1))
		}
	}
	return c
}

// bars returns a bar for each library that has a figure of the case in that unit, divided by scale.
func (r *report) bars(name, unit string, scale float64) []chartBar {
	var bars []chartBar
	for _, l := range r.Lines {
		if l.Case != name || l.Unit != unit {
			continue
		}
		if bars == nil {
			bars = append(bars, chartBar{"session", l.Ours / scale})
		}
		if l.Other != bareHandlerName && l.Other != scsWithoutIdle {
			bars = append(bars, chartBar{l.Other, l.Their / scale})
		}
	}
	return bars
}

// family returns the library that a contestant belongs to, which gives a bar its colour.
func (b chartBar) family() string { name, _, _ := strings.Cut(b.Contestant, " "); return name }

func (c *chart) add(name string, bars []chartBar) {
	if len(bars) > 0 {
		c.Groups = append(c.Groups, chartGroup{name, bars})
	}
}

// The geometry of a chart, in pixels.
const (
	chartWidth  = 760
	chartLeft   = 150 // of the bars; before it is the name of the group
	chartRight  = 190 // beyond the longest bar, for its value and contestant
	chartTop    = 60
	chartBottom = 16
	barHeight   = 13
	barStep     = 17
	groupGap    = 12
)

// writeSVG draws the chart. Its colours follow the reader's choice of a light or dark scheme.
func (c chart) writeSVG(w io.Writer) error {
	longest := 0.0
	for _, g := range c.Groups {
		for _, b := range g.Bars {
			longest = max(longest, b.Value)
		}
	}
	scale := (chartWidth - chartLeft - chartRight) / max(longest, 1e-9)
	type bar struct {
		Y, TextY      int
		Width, ValueX float64
		Family, Text  string
	}
	type name struct {
		Y    int
		Text string
	}
	var bars []bar
	var names []name
	y := chartTop
	for _, g := range c.Groups {
		names = append(names, name{y + barHeight - 3, g.Name})
		for _, b := range g.Bars {
			width := max(1, b.Value*scale)
			text := digits(b.Value) + "  " + b.Contestant
			bars = append(bars, bar{y, y + barHeight - 3, width, chartLeft + width + 6, b.family(), text})
			y += barStep
		}
		y += groupGap
	}
	return chartTemplate.Execute(w, map[string]any{
		"Title": c.Title, "Note": c.Note, "Bars": bars, "Names": names, "Left": chartLeft, "NameX": chartLeft - 10,
		"BarHeight": barHeight, "Width": chartWidth, "Height": y + chartBottom, "Bottom": y,
		"Top": chartTop - 6,
	})
}

var chartTemplate = template.Must(template.New("chart").Parse(`<svg xmlns="http://www.w3.org/2000/svg" width="{{.Width}}" height="{{.Height}}" viewBox="0 0 {{.Width}} {{.Height}}" role="img" aria-label="{{html .Title}}">
<style>
text { font: 12px system-ui, sans-serif; fill: #1f2328 }
.title { font-size: 15px; font-weight: 600 }
.note { fill: #59636e }
.name { text-anchor: end }
.axis { stroke: #8b949e; stroke-width: 1 }
.session { fill: #1f6feb }
.scs { fill: #d4843e }
.gorilla { fill: #7d8590 }
.gin { fill: #3fa7a0 }
.bare { fill: #c9d1d9 }
text.session { fill: #1f2328; font-weight: 600 }
@media (prefers-color-scheme: dark) {
text, text.session { fill: #e6edf3 }
.note { fill: #9198a1 }
.session { fill: #4c8dff }
.bare { fill: #484f58 }
}
</style>
<text class="title" x="{{.Left}}" y="20">{{html .Title}}</text>
<text class="note" x="{{.Left}}" y="38">{{html .Note}}</text>
{{range .Names}}<text class="name" x="{{$.NameX}}" y="{{.Y}}">{{html .Text}}</text>
{{end}}{{range .Bars}}<rect class="{{.Family}}" x="{{$.Left}}" y="{{.Y}}" width="{{printf "%.1f" .Width}}" height="{{$.BarHeight}}"/>
<text{{if eq .Family "session"}} class="session"{{end}} x="{{printf "%.1f" .ValueX}}" y="{{.TextY}}">{{html .Text}}</text>
{{end}}<line class="axis" x1="{{.Left}}" y1="{{.Top}}" x2="{{.Left}}" y2="{{.Bottom}}"/>
</svg>
`))
