package main

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"testing"

	"example.com/session/internal/program"
)

func TestFrameworks(t *testing.T) {
	bin := program.Build(t)
	for framework := range frameworks {
		if framework == "connect" { // see TestConnect
			continue
		}
		t.Run(framework, func(t *testing.T) {
			p := program.Start(t, bin, "-framework", framework)
			b := program.NewBrowser(t, p.Base)
			b.Want("Hello stranger, this is visit 1.\n", "GET", "/", nil)
			before := b.Cookies()
			b.Want("Hello ann, this is visit 2.\n", "POST", "/login", url.Values{"user": {"ann"}})
			cookies := b.Cookies()
			if len(before) != 1 || len(cookies) != 1 || before[0].Value == cookies[0].Value {
				t.Fatalf("before the login the browser has %v, and then %v", before, cookies)
			}

			// Requests at the same time all count.
			const parallel = 8
			pages := make([]string, parallel)
			var all sync.WaitGroup
			for i := range pages {
				all.Go(func() { _, pages[i] = b.Do("GET", "/", nil) })
			}
			all.Wait()
			b.Want(fmt.Sprintf("Hello ann, this is visit %d.\n", 2+parallel+1), "GET", "/", nil)

			b.Want("Hello stranger, this is visit 1.\n", "POST", "/logout", nil)
			for _, old := range slices.Concat(before, cookies) { // of a session that has another ID, or has ended
				alone := program.NewBrowser(t, p.Base)
				alone.SetCookie(old)
				if status, page := alone.Do("GET", "/", nil); status != http.StatusConflict {
					t.Errorf("a cookie from before: %d %q", status, page)
				}
			}
			if status, _ := b.Do("GET", "/nowhere", nil); status != http.StatusNotFound {
				t.Errorf("/nowhere: %d", status)
			}
			p.Stop()
		})
	}
}
