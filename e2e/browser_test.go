package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// patience is how long a step may take before the test gives up, on a machine that is busy with other things.
const patience = time.Minute

// startBrowser starts Chromium with a directory for its data, and returns its context. close ends it in such a way
// that it saves what it keeps.
func startBrowser(dir string) (ctx context.Context, close func() error, err error) {
	c, err := makeCertificate()
	if err != nil {
		return nil, nil, err
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath("chromium"),
		chromedp.UserDataDir(dir),
		chromedp.Flag("host-resolver-rules", "MAP *.example.test 127.0.0.1, MAP example.test 127.0.0.1, MAP * ^NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1"),
		chromedp.Flag("ignore-certificate-errors-spki-list", c.hash),
		chromedp.Flag("enable-features", "NetworkService,NetworkServiceInProcess,"+deviceFeatures),
		chromedp.Flag("disable-component-update", true),
		chromedp.Flag("hide-scrollbars", true),
		chromedp.Flag("lang", "en"),
	)
	if os.Geteuid() == 0 { // whom Chromium's sandbox is not for
		options = append(options, chromedp.NoSandbox)
	}
	allocator, cancel := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, _ = chromedp.NewContext(allocator)
	if err := chromedp.Do(ctx); err != nil {
		cancel()
		return nil, nil, err
	}
	return ctx, func() error {
		defer cancel()
		limited, stop := context.WithTimeout(ctx, patience)
		defer stop()
		return chromedp.Cancel(limited)
	}, nil
}

// The browser that tests share, each with profiles of its own.
var shared struct {
	sync.Mutex
	ctx   context.Context
	close func() error
}

func sharedBrowser(t *testing.T) context.Context {
	t.Helper()
	need(t, "chromium")
	shared.Lock()
	defer shared.Unlock()
	if shared.ctx == nil {
		var err error
		shared.ctx, shared.close, err = startBrowser(filepath.Join(scratch, "browser"))
		if err != nil {
			t.Fatalf("chromium: %v", err)
		}
	}
	return shared.ctx
}

func closeSharedBrowser() {
	if shared.close == nil {
		return
	}
	if err := shared.close(); err != nil {
		fmt.Fprintln(os.Stderr, "chromium:", err)
	}
}

// A tab is one of a profile's. Tabs of one profile share cookies, others do not.
type tab struct {
	t    *testing.T
	ctx  context.Context
	site site
}

// newProfile returns the first tab of a profile without cookies.
func newProfile(t *testing.T, s site) *tab {
	t.Helper()
	return newTab(t, sharedBrowser(t), s, chromedp.WithNewBrowserContext())
}

// another returns another tab of the profile.
func (b *tab) another() *tab {
	b.t.Helper()
	return newTab(b.t, b.ctx, b.site)
}

func newTab(t *testing.T, parent context.Context, s site, options ...chromedp.ContextOption) *tab {
	t.Helper()
	ctx, cancel := chromedp.NewContext(parent, options...)
	t.Cleanup(cancel)
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("a tab: %v", err)
	}
	var mu sync.Mutex
	var faults []string
	err := chromedp.Listen(ctx, func(event any) {
		mu.Lock()
		defer mu.Unlock()
		switch e := event.(type) {
		case *runtime.EventExceptionThrown:
			faults = append(faults, fmt.Sprintf("%+v", e.ExceptionDetails))
		case *log.EventEntryAdded:
			if e.Entry.Source == log.EntrySourceSecurity {
				faults = append(faults, e.Entry.Text)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		mu.Lock()
		defer mu.Unlock()
		for _, fault := range faults {
			t.Errorf("the browser reports: %s", fault)
		}
	})
	return &tab{t, ctx, s}
}

// do takes steps in the tab.
func (b *tab) do(steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		b.t.Fatalf("%v\n%s", err, b.describe())
	}
}

// get takes a step that has a result.
func get[T any](b *tab, step chromedp.Action[T]) T {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	result, err := chromedp.Run(ctx, step)
	if err != nil {
		b.t.Fatalf("%v\n%s", err, b.describe())
	}
	return result
}

// call sends a command to the browser.
func call[P, R any](b *tab, command cdp.Command[P, R], params P) R {
	b.t.Helper()
	return get(b, func(ctx context.Context, target *chromedp.Target) (R, error) {
		return cdp.Call(ctx, target, command, params)
	})
}

// goes takes steps that lead to another page, and wants the page to have that path and status.
func (b *tab) goes(path string, status int64, steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	response, err := chromedp.RunResponse(ctx, steps...)
	if err != nil {
		b.t.Fatalf("%v\n%s", err, b.describe())
	}
	b.until(`document.readyState === "complete"`) // that of the page before was, too, and its events can be late
	if response.Status != status || b.path() != path {
		b.t.Fatalf("%d at %s, want %d at %s\n%s", response.Status, b.path(), status, path, b.describe())
	}
}

// open goes to a page of the site, and wants to arrive at it.
func (b *tab) open(path string) { b.t.Helper(); b.opens(path, path) }

// opens goes to a page of the site, and wants to arrive at another.
func (b *tab) opens(path, at string) {
	b.t.Helper()
	b.goes(at, 200, chromedp.Navigate(b.site.home()+path))
}

// press presses the button or link with that text, which leads to another page.
func (b *tab) press(text, path string, status int64) {
	b.t.Helper()
	b.goes(path, status, chromedp.Click(labelled(text)))
}

// labelled selects the button or link with that text.
func labelled(text string) chromedp.Search {
	return chromedp.Search(fmt.Sprintf(`//*[self::button or self::a][normalize-space()=%q]`, text))
}

// field selects what the label with that text is for.
func field(label string) chromedp.Search {
	return chromedp.Search(fmt.Sprintf(`//*[@id=//label[normalize-space()=%q]/@for] | //label[normalize-space()=%[1]q]/input`, label))
}

// login logs the profile in at examples/login.
func (b *tab) login(remember bool) {
	b.t.Helper()
	b.open("/login")
	b.do(chromedp.SendKeys(field("Name"), "ann"), chromedp.SendKeys(field("Password"), password))
	if remember {
		b.do(chromedp.Click(field("Stay logged in on this device")))
	}
	b.press("Log in", "/", 200)
	b.sees("Welcome, ann.")
}

// text returns what the page shows.
func (b *tab) text() string {
	b.t.Helper()
	return get(b, chromedp.Evaluate[string]("document.body.innerText"))
}

// path returns where the tab is.
func (b *tab) path() string {
	b.t.Helper()
	return get(b, chromedp.Evaluate[string]("location.pathname"))
}

// sees wants the page to show the texts.
func (b *tab) sees(texts ...string) {
	b.t.Helper()
	page := b.text()
	for _, text := range texts {
		if !strings.Contains(page, text) {
			b.t.Fatalf("%s does not show %q:\n%s", b.path(), text, page)
		}
	}
}

// waitFor waits until the JavaScript expression is true, on the page as it is.
func (b *tab) waitFor(expression string) {
	b.t.Helper()
	get(b, chromedp.Poll[bool](expression, chromedp.WithPollingTimeout(0)))
}

// until waits until the JavaScript expression is true, whatever pages come and go meanwhile.
func (b *tab) until(expression string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	for {
		_, err := chromedp.Run(ctx, chromedp.Poll[bool](expression, chromedp.WithPollingTimeout(0)))
		if err == nil {
			return
		}
		if ctx.Err() != nil { // else the page has gone
			b.t.Fatalf("%s: %v\n%s", expression, err, b.describe())
		}
	}
}

// cookies returns the cookies that the browser would send to the site.
func (b *tab) cookies() []*network.Cookie {
	b.t.Helper()
	return call(b, network.GetCookies, network.GetCookiesParams{URLs: []string{b.site.home() + "/devices/"}}).Cookies
}

// tokens returns those of the cookies that lead to a session. Beside each there can be one that proves which device it is
// on: it comes once the browser has made a key for that.
func (b *tab) tokens() []*network.Cookie {
	b.t.Helper()
	return slices.DeleteFunc(b.cookies(), func(c *network.Cookie) bool { return strings.HasSuffix(c.Name, "-device") })
}

// cookie returns the session cookie, which is the only one.
func (b *tab) cookie() *network.Cookie {
	b.t.Helper()
	cookies := b.tokens()
	if len(cookies) != 1 {
		b.t.Fatalf("%d cookies, want 1: %+v", len(cookies), cookies)
	}
	return cookies[0]
}

// describe says what the tab shows, for a test that failed.
func (b *tab) describe() string {
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	text, err := chromedp.Run(ctx, chromedp.Evaluate[string]("location.href + '\\n' + document.body.innerText"))
	if err != nil {
		return fmt.Sprintf("(the page cannot be read: %v)", err)
	}
	return text
}

// cookieValue returns the value of the session cookie, empty if there is none.
func (b *tab) cookieValue() string {
	b.t.Helper()
	if len(b.tokens()) == 0 {
		return ""
	}
	return b.cookie().Value
}
