package e2e

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
)

// looks are how a page is looked at.
var looks = []struct {
	name          string
	width, height int64
	phone         bool
	scheme        string
}{
	{"phone", 360, 740, true, "light"},
	{"phone-dark", 360, 740, true, "dark"},
	{"desktop", 1280, 800, false, "light"},
	{"desktop-dark", 1280, 800, false, "dark"},
}

// Each page, on a phone and on a desktop: nothing sticks out, every field has a label, every button a name, and
// there is a picture for a person to look at (see ArtifactDir in package testing).
func TestScreenshots(t *testing.T) {
	dir := t.ArtifactDir()
	login, stream := example(t, "login").site, example(t, "stream", "-every", "50ms").site

	b := newProfile(t, login)
	b.opens("/", "/login")
	b.look(dir, "login-1-login")
	b.do(chromedp.SendKeys(field("Name"), "ann"), chromedp.SendKeys(field("Password"), "guessed"))
	b.press("Log in", "/login", 403)
	b.look(dir, "login-2-refused")
	b.login(true)
	b.look(dir, "login-3-home")
	other := newProfile(t, login)
	other.login(false)
	newProfile(t, login).login(false)
	b.press("Devices", "/devices", 200)
	b.look(dir, "login-4-devices")
	b.press("Password", "/password", 200)
	b.look(dir, "login-5-password")
	b.open("/confirm")
	b.look(dir, "login-6-confirm")
	b.open("/devices")
	b.press("Log out all other devices", "/devices", 200)
	b.look(dir, "login-7-others-logged-out")
	other.press("Devices", "/login", 200)
	other.look(dir, "login-8-ended")

	b = newProfile(t, stream)
	b.open("/")
	b.look(dir, "stream-1-login")
	b.streamLogin()
	second := b.another()
	second.open("/")
	second.connected()
	b.do(chromedp.SendKeys(chromedp.CSS(draft), "Dear diary,\nthis is saved while I type, and shown below when it is."))
	b.waitFor(`document.querySelector("#shown").textContent.endsWith("when it is.")`)
	b.look(dir, "stream-2-draft")
	b.press("Log out", "/", 200)
	second.ended()
	second.look(dir, "stream-3-ended")
}

// look takes pictures of the page, and checks what can be checked.
func (b *tab) look(dir, name string) {
	b.t.Helper()
	for _, l := range looks {
		options := []chromedp.EmulateViewportOption{chromedp.EmulateScale(1)}
		if l.phone {
			options = []chromedp.EmulateViewportOption{chromedp.EmulateScale(2), chromedp.EmulateMobile, chromedp.EmulateTouch}
		}
		b.do(chromedp.EmulateViewport(l.width, l.height, options...))
		call(b, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: l.scheme}},
		})
		for _, fault := range get(b, chromedp.Evaluate[[]string](findFaults)) {
			b.t.Errorf("%s, %s: %s", name, l.name, fault)
		}
		file := filepath.Join(dir, name+"."+l.name+".png")
		if err := os.WriteFile(file, get(b, chromedp.CaptureScreenshot()), 0o644); err != nil {
			b.t.Fatal(err)
		}
	}
	b.do(chromedp.EmulateReset())
}

// findFaults lists what is wrong with the page as it is shown: its width, names, sizes and contrasts
// (WCAG 2.2: 1.4.3, 1.4.10, 2.5.8, 4.1.2).
const findFaults = `(() => {
	const faults = [];
	const shown = (e) => e.checkVisibility() && e.getClientRects().length > 0;
	const name = (e) => e.tagName.toLowerCase() + " " + JSON.stringify(e.textContent.trim() || e.id || e.name);
	const { scrollWidth, clientWidth } = document.documentElement; // innerWidth would be that of a phone zoomed out
	if (scrollWidth > clientWidth) faults.push("it is " + scrollWidth + " pixels wide, the window " + clientWidth);
	for (const e of document.querySelectorAll("input:not([type=hidden]), textarea"))
		if (shown(e) && e.labels.length === 0) faults.push(name(e) + " has no label");
	for (const e of document.querySelectorAll("button, a"))
		if (shown(e) && e.textContent.trim() === "") faults.push(name(e) + " has no text");
	for (const e of document.querySelectorAll("button, input:not([type=hidden]):not([type=checkbox])"))
		if (shown(e) && e.getBoundingClientRect().height < 40) faults.push(name(e) + " is too low for a finger");

	const parse = (color) => {
		const [r, g, b, a = 1] = color.match(/[\d.]+/g).map(Number);
		return { r, g, b, a };
	};
	const light = ({ r, g, b }) => {
		const [R, G, B] = [r, g, b].map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
		return 0.2126 * R + 0.7152 * G + 0.0722 * B;
	};
	const ground = (e) => {
		for (; e; e = e.parentElement) {
			const color = parse(getComputedStyle(e).backgroundColor);
			if (color.a === 1) return color;
		}
		return { r: 255, g: 255, b: 255 };
	};
	const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
	while (texts.nextNode()) {
		const e = texts.currentNode.parentElement;
		if (!texts.currentNode.data.trim() || !shown(e)) continue;
		const [a, b] = [light(parse(getComputedStyle(e).color)), light(ground(e))].sort((a, b) => b - a);
		const contrast = (a + 0.05) / (b + 0.05);
		if (contrast < 4.5) faults.push(name(e) + " has a contrast of " + contrast.toFixed(1));
	}
	return faults;
})()`
