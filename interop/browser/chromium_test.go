package browser

import (
	"bytes"
	"context"
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/makiuchi-d/gozxing"
	"github.com/makiuchi-d/gozxing/qrcode"
)

// patience bounds each step; a loaded machine takes its time.
const patience = time.Minute

// tab is a tab of a browser of its own.
type tab struct {
	t    *testing.T
	ctx  context.Context
	base string // of relative addresses
}

// openTab starts a browser. Whatever it complains about on its console is an error, and it says yes to every question.
func openTab(t *testing.T, base string) *tab {
	t.Helper()
	program, err := exec.LookPath("chromium")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("needs chromium")
		}
		t.Skip("this test needs chromium")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(program), chromedp.UserDataDir(t.TempDir()),
		chromedp.NoSandbox, chromedp.DisableGPU, chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-sync", true), chromedp.WSURLReadTimeout(patience))
	allocated, closeAllocator := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, closeTab := chromedp.NewContext(allocated)
	b := &tab{t, ctx, base}
	listening := make(chan struct{})
	t.Cleanup(func() {
		closeTab()
		closeAllocator()
		<-listening
	})
	if err := chromedp.Do(ctx, chromedp.Navigate("about:blank")); err != nil {
		t.Fatal(err)
	}
	if err := chromedp.Listen(ctx, b.answer); err != nil {
		t.Fatal(err)
	}
	messages := chromedp.Console(ctx)
	go func() {
		defer close(listening)
		for m := range messages {
			refused := m.Source == "network" && strings.Contains(m.Text, "401") // of a wrong token
			if !refused && (m.IsException() || m.Type == "error" || m.Type == "warning") {
				t.Errorf("the console says %s", m)
			}
		}
	}()
	return b
}

// answer says yes to the questions of the page.
func (b *tab) answer(event any) {
	if _, asked := event.(*page.EventJavascriptDialogOpening); asked {
		go func() {
			_, err := chromedp.Call(b.ctx, page.HandleJavaScriptDialog, page.HandleJavaScriptDialogParams{Accept: true})
			if err != nil && b.ctx.Err() == nil {
				b.t.Error(err)
			}
		}()
	}
}

// do takes steps, all of which have to succeed.
func (b *tab) do(steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		b.t.Fatalf("%v\n%s", err, b.text())
	}
}

// result takes a step that gives something.
func result[T any](b *tab, step chromedp.Action[T]) T {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	v, err := chromedp.Run(ctx, step)
	if err != nil {
		b.t.Fatal(err)
	}
	return v
}

func (b *tab) open(path string) {
	b.t.Helper()
	b.do(chromedp.Navigate(b.base + path))
}

// text is what a person can read in the page.
func (b *tab) text() string {
	text, err := chromedp.Run(b.ctx, chromedp.Evaluate[string]("document.body.innerText"))
	if err != nil {
		return err.Error()
	}
	return text
}

// sees waits until the page has a text. It looks again and again, because a page that is being left cannot be asked.
func (b *tab) sees(text string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	expression := "document.body.innerText.includes(" + quote(text) + ")"
	for ctx.Err() == nil {
		if there, err := chromedp.Run(ctx, chromedp.Evaluate[bool](expression)); err == nil && there {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	b.t.Fatalf("there is no %q in\n%s", text, b.text())
}

func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

// click presses the mouse button on an element, once it is there and nothing covers it. It asks the page where that is, as a
// person's eye does: the page replaces what it keeps up to date.
func (b *tab) click(selector string) {
	b.t.Helper()
	find := `(() => {
		const element = document.querySelector(` + quote(selector) + `);
		if (!element) return [];
		element.scrollIntoView({block: "center", behavior: "instant"});
		const box = element.getBoundingClientRect(), x = box.x + box.width / 2, y = box.y + box.height / 2;
		return box.width > 0 && element.contains(document.elementFromPoint(x, y)) ? [x, y] : [];
	})()`
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	for ctx.Err() == nil {
		if at, err := chromedp.Run(ctx, chromedp.Evaluate[[]float64](find)); err == nil && len(at) == 2 {
			b.do(chromedp.MouseClickXY(at[0], at[1]))
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	b.t.Fatalf("there is no %s to click on in\n%s", selector, b.text())
}

// enter types a text into a field and presses the enter key.
func (b *tab) enter(selector, text string) {
	b.t.Helper()
	b.click(selector)
	b.do(chromedp.KeyEvent(text + "\r"))
}

// screen is what a person has in front of him.
type screen struct {
	name          string
	width, height int64
	scheme        string
}

var screens = []screen{
	{"desktop-light", 1280, 800, "light"}, {"desktop-dark", 1280, 800, "dark"},
	{"phone-light", 390, 844, "light"}, {"phone-dark", 390, 844, "dark"}, {"phone-small", 320, 568, "light"},
}

func (b *tab) use(s screen) {
	b.t.Helper()
	b.do(chromedp.Func(func(ctx context.Context, _ *chromedp.Target) error {
		if _, err := chromedp.Call(ctx, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{
			Width: s.width, Height: s.height, DeviceScaleFactor: 1, Mobile: s.width < 600,
		}); err != nil {
			return err
		}
		_, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{
			{Name: "prefers-color-scheme", Value: s.scheme}, {Name: "prefers-reduced-motion", Value: "reduce"},
		}})
		return err
	}))
}

// looks checks what is open on every screen: that it fits, and that people who see, point or read otherwise can use it. With
// SCREENSHOTS in the environment, a picture of each is kept in that folder.
func (b *tab) looks(name string) {
	b.t.Helper()
	axe, err := os.ReadFile(filepath.Join("..", "node_modules", "axe-core", "axe.min.js"))
	if err != nil && os.Getenv("CI") == "true" {
		b.t.Fatal(err)
	}
	for _, s := range screens {
		b.use(s)
		if over := result(b, chromedp.Evaluate[int]("document.documentElement.scrollWidth - innerWidth")); over > 0 {
			b.t.Errorf("%s is %d pixels too wide on %s", name, over, s.name)
		}
		if axe != nil {
			b.accessible(name+" on "+s.name, string(axe))
		}
		if dir := os.Getenv("SCREENSHOTS"); dir != "" {
			picture := result(b, chromedp.FullScreenshot(100))
			if err := os.WriteFile(filepath.Join(dir, name+"-"+s.name+".png"), picture, 0o644); err != nil {
				b.t.Fatal(err)
			}
		}
	}
	b.use(screens[0])
}

// accessible asks axe-core what is wrong with the page.
func (b *tab) accessible(where, axe string) {
	b.t.Helper()
	result(b, chromedp.Evaluate[any](axe+"; null"))
	const ask = `axe.run(document, {resultTypes: ["violations"]}).then(found =>
		found.violations.map(v => v.id + ": " + v.help + " " + v.nodes.map(n => n.html).join(" ")))`
	for _, problem := range result(b, chromedp.Evaluate[[]string](ask, chromedp.EvalAwaitPromise)) {
		b.t.Errorf("%s: %s", where, problem)
	}
}

// readQR reads the code in a picture of an element. A camera gets many pictures, so this takes some, of several sizes.
func (b *tab) readQR(selector string) string {
	b.t.Helper()
	var problems []error
	for scale := 2.0; scale <= 4; scale += 0.5 {
		picture, err := png.Decode(bytes.NewReader(result(b, chromedp.ScreenshotScale(selector, scale))))
		if err != nil {
			b.t.Fatal(err)
		}
		for _, hint := range []gozxing.DecodeHintType{gozxing.DecodeHintType_PURE_BARCODE, gozxing.DecodeHintType_TRY_HARDER} {
			bitmap, err := gozxing.NewBinaryBitmapFromImage(picture)
			if err != nil {
				b.t.Fatal(err)
			}
			text, err := qrcode.NewQRCodeReader().Decode(bitmap, map[gozxing.DecodeHintType]any{hint: true})
			if err == nil {
				return text.GetText()
			}
			problems = append(problems, err)
		}
	}
	b.t.Fatalf("the code cannot be read: %v", problems)
	return ""
}
