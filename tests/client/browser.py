"""A real Chromium for page.py: the operations page in it, what it asks and complains about, and what is true of the whole page:
names and labels, headings, contrast, sizes of text, what the keyboard reaches. Needs playwright and Debian's chromium."""

import contextlib
import re
import shutil
import time
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import sync_playwright

from processes import Failed, equal, expect, until

WAIT_SECONDS = 30
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 740}
# Chromium's own line about an answer that is an error, or about none.
FAILED_REQUEST = re.compile(r"Failed to load resource: (the server responded with a status of (\d+)|net::ERR_)")

# Everything that is wrong with the page as it is shown, as sentences. Contrast as WCAG 2.2 computes it, over the ground that is
# really behind the text; opacity is none of the page's means while the service answers.
INSPECT = r"""
() => {
  const found = [], open = document.querySelector("dialog[open]"), root = open ?? document.body;
  const shown = (e) => e.checkVisibility({ visibilityProperty: true, opacityProperty: true }) && !e.closest(".visually-hidden, .skip");
  const named = (e) => (e.getAttribute("aria-label") ?? "").trim() || e.textContent.trim()
    || (e.getAttribute("aria-labelledby") ?? "").split(" ").map((id) => document.getElementById(id)?.textContent ?? "").join("").trim();
  const say = (what, e) => found.push(`${what}: ${e.outerHTML.slice(0, 160)}`);
  for (const e of root.querySelectorAll("input, select, textarea, progress"))
    if (!e.labels?.length && !named(e)) say("no label", e);
  for (const e of root.querySelectorAll("button, a[href], summary, [role=button], dialog, section, [role=region], nav"))
    if (e.checkVisibility() && !named(e)) say("no name", e);
  for (const e of document.querySelectorAll("table")) {
    if (!e.caption) say("no caption", e);
    for (const th of e.querySelectorAll("th")) if (!th.scope) say("no scope", th);
  }
  let level = 0;
  for (const e of root.querySelectorAll("h1, h2, h3, h4")) {
    if (!e.checkVisibility()) continue;
    const now = Number(e.tagName[1]);
    if (now > level + 1 && !open) say(`a heading of level ${now} after one of ${level}`, e);
    level = now;
  }
  const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
  for (const id of ids) if (ids.indexOf(id) !== ids.lastIndexOf(id)) found.push(`twice the id ${id}`);
  if (!document.documentElement.lang || !document.title) found.push("no language or title");
  for (const e of document.querySelectorAll("*")) {
    if (e.getAttribute("style")) say("a style attribute", e);
    for (const { name } of e.attributes) if (name.startsWith("on")) say("a handler attribute", e);
  }
  const parse = (text) => { const [r, g, b, a = 1] = text.match(/[\d.]+/g).map(Number); return { r, g, b, a }; };
  const mixed = (top, under, part) => top[part] * top.a + under[part] * (1 - top.a);
  const over = (top, under) => ({ r: mixed(top, under, "r"), g: mixed(top, under, "g"), b: mixed(top, under, "b"), a: 1 });
  const linear = (c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4);
  const light = ({ r, g, b }) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const ground = (e) => {
    const layers = [];
    for (let at = e; at; at = at.parentElement) {
      const color = parse(getComputedStyle(at).backgroundColor);
      if (color.a > 0) layers.push(color);
      if (color.a === 1) break;
    }
    return layers.reverse().reduce((under, top) => over(top, under), parse(getComputedStyle(document.body).backgroundColor));
  };
  let texts = 0;
  const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode, e = node.parentElement;
    if (!node.textContent.trim() || !shown(e) || e.closest("title, option, noscript") || e.closest(":disabled")) continue;
    const style = getComputedStyle(e), size = parseFloat(style.fontSize), isSvg = e.namespaceURI.endsWith("svg");
    texts += 1;
    if (size < 12) say(`text of ${size} px`, e);
    const [a, b] = [light(over(parse(isSvg ? style.fill : style.color), ground(e))), light(ground(e))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const isLarge = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    if (contrast < (isLarge ? 3 : 4.5)) say(`contrast ${contrast.toFixed(2)}`, e);
  }
  for (const e of root.querySelectorAll("button, select, input:not([type=checkbox], [type=radio])")) {
    const box = e.getBoundingClientRect();
    if (shown(e) && (box.width < 24 || box.height < 24)) say(`a target of ${Math.round(box.width)} × ${Math.round(box.height)} px`, e);
  }
  const page = document.documentElement;
  if (page.scrollWidth > page.clientWidth) {
    const wide = [...document.querySelectorAll("body *")]
      .filter((e) => e.getBoundingClientRect().right > page.clientWidth + 1 && !e.closest(".scroll, .visually-hidden, thead, caption"));
    found.push(`${page.scrollWidth} px wide on ${page.clientWidth}: ${wide.slice(0, 3).map((e) => e.outerHTML.slice(0, 120)).join(" ")}`);
  }
  if (open && open.scrollWidth > open.clientWidth) found.push(`the dialog is ${open.scrollWidth} px wide in ${open.clientWidth}`);
  return { found, texts };
}
"""

# What the keyboard has to reach, each with a number to know it by.
REACHABLE = r"""
() => {
  const wanted = [...document.querySelectorAll("a[href], button, input, select, summary, [tabindex='0']")]
    .filter((e) => e.checkVisibility({ visibilityProperty: true }) && !e.disabled && !e.closest("dialog"));
  wanted.forEach((e, at) => { e.__stop = at; });
  return wanted.map((e) => e.outerHTML.slice(0, 120));
}
"""
STOP = r"""
() => {
  const e = document.activeElement, halo = e.querySelector?.(".halo");
  const style = getComputedStyle(e), ring = halo && getComputedStyle(halo);
  const isSeen = (style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2)
    || (ring && ring.stroke !== "none" && parseFloat(ring.strokeWidth) >= 2);
  return { stop: e.__stop ?? null, isSeen, html: e.outerHTML.slice(0, 120) };
}
"""
FIND_TEXT = r"""
([selector, wanted]) => [...document.querySelectorAll(selector)].map((e) => e.innerText.replace(/\s+/g, " ").trim())
  .find((text) => text.includes(wanted))
"""
LEFT_BEHIND = r"""
() => [localStorage.length, sessionStorage.length, document.cookie, document.querySelectorAll("img, iframe, object").length]
"""


class Chromium:
    """The browser; its windows do not know of each other."""

    def __enter__(self):
        path = shutil.which("chromium") or shutil.which("chromium-browser")
        expect(path is not None, "no chromium: apt-get install chromium")
        self.playwright = sync_playwright().start()
        self.browser = self.playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        return self

    def __exit__(self, *_) -> None:
        self.browser.close()
        self.playwright.stop()

    @contextlib.contextmanager
    def window(self, url: str, allowed: tuple = (), key: str | None = None, **settings):
        """The page at the address in a window of its own; at its end nothing may have been wrong with it. `allowed`: the
        statuses of errors that the page is expected to be answered, 0 for no answer. `key`: what the password prompt was told."""
        credentials = {"http_credentials": {"username": "page", "password": key}} if key else {}
        context = self.browser.new_context(viewport=settings.pop("viewport", DESKTOP), **credentials, **settings)
        window = Window(context, url)
        try:
            window.page.goto(url)
            window.wait("the health of the service", "() => document.querySelector('#tiles').children.length > 0")
            yield window
            window.check(allowed)
        finally:
            context.close()


class Window:
    def __init__(self, context, url: str) -> None:
        self.context, self.url = context, url
        self.complaints: list[str] = []
        # Method, path, and when it began and ended.
        self.requests: list[dict] = []
        self.foreign: list[str] = []
        self.page = context.new_page()
        self.page.set_default_timeout(WAIT_SECONDS * 1000)
        self.page.on("console", lambda message: message.type in ("error", "warning") and self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(f"an exception: {error}"))
        self.page.on("dialog", lambda dialog: (self.complaints.append(f"a dialog of the browser: {dialog.message}"), dialog.dismiss()))
        self.page.on("request", self.began)
        self.page.on("requestfinished", self.ended)
        self.page.on("requestfailed", self.ended)

    def began(self, request) -> None:
        if request.url.startswith("data:"):
            return
        if not request.url.startswith(self.url.rstrip("/") + "/"):
            self.foreign.append(request.url)
        self.requests.append({"request": request, "method": request.method, "path": request.url.removeprefix(self.url.rstrip("/")),
                              "began": time.monotonic(), "ended": None, "headers": request.headers})

    def ended(self, request) -> None:
        for known in reversed(self.requests):
            if known["request"] is request:
                known["ended"] = time.monotonic()

    def asked(self, method: str, start: str, since: int = 0) -> list[dict]:
        return [each for each in self.requests[since:] if each["method"] == method and each["path"].startswith(start)]

    def js(self, script: str, argument=None):
        return self.page.evaluate(script, argument)

    def wait(self, what: str, script: str, argument=None, seconds: float = WAIT_SECONDS):
        """What a script gives as soon as that is something. (Playwright's own wait evaluates text, which the page's policy forbids.)"""
        try:
            return until(what, seconds, lambda: self.js(script, argument))
        except Failed as error:
            raise Failed(f"{error}; the page says {self.page.locator('body').inner_text()[:3000]!r}") from None

    def text(self, selector: str) -> str:
        return " ".join(self.page.locator(selector).first.inner_text().split())

    def texts(self, selector: str) -> list[str]:
        return [" ".join(text.split()) for text in self.page.locator(selector).all_inner_texts()]

    def until_text(self, selector: str, wanted: str, seconds: float = WAIT_SECONDS) -> str:
        """The text of the first such element once it contains that."""
        return self.wait(f"{wanted!r} in {selector}", FIND_TEXT, [selector, wanted], seconds)

    def focused(self, attribute: str = "data-focus") -> str | None:
        return self.js("(name) => document.activeElement.getAttribute(name)", attribute)

    def tab_to(self, what: str, script: str, most: int = 400) -> None:
        """Presses Tab until the script says that this is it."""
        for _ in range(most):
            self.page.keyboard.press("Tab")
            if self.js(script):
                return
        raise Failed(f"Tab does not reach {what}")

    def inspect(self, where: str) -> int:
        """That nothing is wrong with what is shown; how many texts were looked at."""
        result = self.js(INSPECT)
        equal(result["found"], [], f"what is wrong with {where}")
        expect(result["texts"] > 20, f"{where}: only {result['texts']} texts were looked at")
        return result["texts"]

    def tab_through(self) -> int:
        """That Tab reaches everything that can be operated, and that one sees where it is."""
        wanted = self.js(REACHABLE)
        reached, unseen = set(), []
        self.js("() => { document.activeElement.blur(); scrollTo(0, 0); }")
        for _ in range(len(wanted) + 40):
            self.page.keyboard.press("Tab")
            stop = self.js(STOP)
            if stop["stop"] in reached:
                break
            if stop["stop"] is not None:
                reached.add(stop["stop"])
                if not stop["isSeen"]:
                    unseen.append(stop["html"])
        missing = [html for at, html in enumerate(wanted) if at not in reached]
        equal((missing, unseen), ([], []), "what Tab does not reach, and where the focus is not seen")
        return len(wanted)

    def check(self, allowed: tuple) -> None:
        """What nobody may do in any window."""
        wrong = []
        for text in self.complaints:
            failed = FAILED_REQUEST.match(text)
            if not failed or int(failed[2] or 0) not in allowed:
                wrong.append(text)
        equal(wrong, [], "complaints of the browser")
        equal(self.foreign, [], f"requests to others than {urlsplit(self.url).netloc}")
        equal(self.js(LEFT_BEHIND), [0, 0, "", 0], "what is stored, and elements that nobody made")

    def shoot(self, directory: Path | None, name: str, full: bool = False) -> None:
        if directory is not None:
            if full:
                self.js("() => scrollTo(0, 0)")
            self.page.screenshot(path=directory / f"{name}.png", full_page=full)
