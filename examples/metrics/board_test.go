package main

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"

	"example.com/session/internal/program"
)

// series has the names of the labels of each metric, as Prometheus sees it.
type series map[string][]string

// exported returns what the example shows Prometheus once it has done what it can, with the names of histograms' parts.
func exported(t *testing.T) series {
	t.Helper()
	p := program.Start(t, program.Build(t), "-debug", "127.0.0.1:0")
	p.Address("metrics")
	page := p.Address("prometheus")
	b := program.NewBrowser(t, p.Base)
	b.Want("This is visit 1.\n", "GET", "/", nil)
	b.Want("Welcome.\n", "POST", "/login", url.Values{"user": {"ann"}})
	b.Want("Done.\n", "POST", "/work", nil)
	ended := b.Cookies()[0]
	b.Want("Good bye.\n", "POST", "/end", nil)
	b.SetCookie(ended)
	if status, text := b.Do("GET", "/", nil); status != http.StatusConflict {
		t.Errorf("with the cookie of a session that has ended: %d %q", status, text)
	}
	forged := program.NewBrowser(t, p.Base)
	forged.SetCookie(&http.Cookie{Name: ended.Name, Value: strings.Repeat("A", len(ended.Value))})
	forged.Want("This is visit 1.\n", "GET", "/", nil)
	_, text := program.NewBrowser(t, strings.TrimSuffix(page, "/metrics")).Do("GET", "/metrics", nil)
	if strings.Contains(text, ended.Value) || strings.Contains(text, "ann") {
		t.Error("a cookie, or a user, is shown")
	}
	parse := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parse.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatalf("%v:\n%s", err, text)
	}
	all := make(series)
	for name, family := range families {
		var names []string
		for _, m := range family.Metric {
			for _, l := range m.Label {
				names = append(names, l.GetName())
			}
		}
		if family.GetType().String() == "HISTOGRAM" {
			all[name+"_count"], all[name+"_sum"], all[name+"_bucket"] = names, names, append(names, "le")
		} else {
			all[name] = names
		}
	}
	p.Stop()
	return all
}

// Whatever the dashboard and the rules ask for is there, and is asked for in a way that Prometheus understands. error_type is
// there once the store has failed.
func TestDashboardAndAlerts(t *testing.T) {
	have := exported(t)
	used := make(map[string]bool)
	kinds := eventKinds(t)
	for where, queries := range map[string][]string{"dashboard.json": dashboard(t), "alerts.yaml": alerts(t)} {
		if len(queries) < 10 {
			t.Errorf("%s has %d queries", where, len(queries))
		}
		for _, query := range queries {
			expr, err := parser.NewParser(parser.Options{}).ParseExpr(query)
			if err != nil {
				t.Errorf("%s: %q: %v", where, query, err)
				continue
			}
			for _, selector := range parser.ExtractSelectors(expr) {
				check(t, where, selector, have, kinds, used)
			}
		}
	}
	for name := range have {
		if strings.HasPrefix(name, "session_") && !used[name] && !strings.HasSuffix(name, "_sum") {
			t.Errorf("%s is exported, and nobody looks at it", name)
		}
	}
}

// check checks the selector of one metric.
func check(t *testing.T, where string, selector []*labels.Matcher, have series, kinds []string, used map[string]bool) {
	t.Helper()
	name := ""
	for _, m := range selector {
		if m.Name == model.MetricNameLabel {
			name = m.Value
		}
	}
	used[name] = true
	names, ok := have[name]
	if !ok {
		t.Errorf("%s asks for %s, which is not exported", where, name)
		return
	}
	for _, m := range selector {
		switch {
		case m.Name == model.MetricNameLabel || m.Name == "job" || m.Name == "error_type":
		case !slices.Contains(names, m.Name):
			t.Errorf("%s asks for %s of %s, which has no such label, but %q", where, m.Name, name, names)
		case m.Name == "session_event_kind":
			for kind := range strings.SplitSeq(m.Value, "|") {
				if !slices.Contains(kinds, kind) {
					t.Errorf("%s asks for the kind %s, which there is not", where, kind)
				}
			}
		}
	}
}

// eventKinds returns those that EVENTS.md has a row for.
func eventKinds(t *testing.T) (kinds []string) {
	t.Helper()
	text, err := os.ReadFile("../../EVENTS.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\|").FindAllSubmatch(text, -1) {
		kinds = append(kinds, string(row[1]))
	}
	return kinds
}

// dashboard returns the queries of the dashboard, with a value for each of Grafana's variables.
func dashboard(t *testing.T) (queries []string) {
	t.Helper()
	text, err := os.ReadFile("dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(text, &board); err != nil {
		t.Fatal(err)
	}
	variables := strings.NewReplacer("$__rate_interval", "1m", "$job", ".*")
	for _, p := range board.Panels {
		if len(p.Targets) == 0 || p.Title == "" {
			t.Errorf("the panel %q asks for nothing", p.Title)
		}
		for _, target := range p.Targets {
			queries = append(queries, variables.Replace(target.Expr))
		}
	}
	return queries
}

// alerts returns the expressions of the rules, which Prometheus takes as they are, templates included.
func alerts(t *testing.T) (queries []string) {
	t.Helper()
	groups, errs := rulefmt.ParseFile("alerts.yaml", false, model.UTF8Validation, parser.NewParser(parser.Options{}), slog.Default())
	for _, err := range errs {
		t.Error(err)
	}
	if groups == nil {
		t.FailNow()
	}
	for _, group := range groups.Groups {
		for _, rule := range group.Rules {
			queries = append(queries, rule.Expr)
			if rule.Annotations["summary"] == "" || rule.Annotations["description"] == "" || rule.Labels["severity"] == "" {
				t.Errorf("%s has no summary, description or severity", rule.Alert)
			}
		}
	}
	return queries
}
