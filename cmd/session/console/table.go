package console

import (
	"io"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/rivo/uniseg"
)

// lineWidth is how many columns of a terminal a line of a table has at most.
const lineWidth = 100

// A column of a table is as wide as its widest cell, but not wider than max. The last one has what the others leave.
type column struct {
	head string
	max  int
}

// A table is text in columns. A cell that does not fit is cut, and ends with "…".
type table struct {
	columns []column
	rows    [][]string
}

func newTable(columns ...column) *table {
	t := &table{columns: columns}
	var head []string
	for _, c := range columns {
		head = append(head, c.head)
	}
	t.add(head...)
	return t
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

func (t *table) print(w io.Writer) error {
	last := len(t.columns) - 1
	widths := make([]int, last+1)
	widths[last] = lineWidth
	for i := range last {
		for _, row := range t.rows {
			widths[i] = max(widths[i], min(uniseg.StringWidth(row[i]), t.columns[i].max))
		}
		widths[last] -= widths[i] + 2
	}
	var b strings.Builder
	for _, row := range t.rows {
		var line strings.Builder
		for i, cell := range row {
			cell = fit(cell, widths[i])
			line.WriteString(cell + strings.Repeat(" ", widths[i]-uniseg.StringWidth(cell)+2))
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// fit returns s, or as much of it as has room in that many columns.
func fit(s string, width int) string {
	if uniseg.StringWidth(s) <= width {
		return s
	}
	var b strings.Builder
	for used := 1; ; { // 1 for the "…"
		cluster, rest, w, _ := uniseg.FirstGraphemeClusterInString(s, -1)
		if used += w; used > width {
			return b.String() + "…"
		}
		b.WriteString(cluster)
		s = rest
	}
}

// span returns how long it is from one time to the other, in one unit; "-" if one of them is unknown.
func span(from, to time.Time) string {
	if from.IsZero() || to.IsZero() {
		return "-"
	}
	return strings.TrimSpace(humanize.CustomRelTime(from, to, "", "", magnitudes))
}

// magnitudes are those of span.
var magnitudes = []humanize.RelTimeMagnitude{
	{D: time.Second, Format: "0s", DivBy: 1},
	{D: time.Minute, Format: "%ds", DivBy: time.Second},
	{D: time.Hour, Format: "%dm", DivBy: time.Minute},
	{D: 48 * time.Hour, Format: "%dh", DivBy: time.Hour},
	{D: 1<<63 - 1, Format: "%dd", DivBy: 24 * time.Hour},
}
