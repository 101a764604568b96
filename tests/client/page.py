#!/usr/bin/env python3
"""page.py BINARY [--screenshots DIR]
page.py --base-url URL [--screenshots DIR]

The operations page (GET /) in a real Chromium, held against what the service's own answers say, which are asked for beside it:

 * collections with counts and digests; the same as in the newest backup, or changed since; thousands, page by page
 * a backup by keyboard alone: the job appears and ends, the backup stands in the list and on the time line
 * verify and drill by buttons; a byte that was flipped in a pack, and in a manifest, is damage in the list and on the line
 * restore: the preview has the numbers of the dry run, goes with any change of the choice, and nothing is confirmed before a
   name is typed; what was restored has the backup's digest; a conflict is said; Escape leads back to where one was
 * a job's progress by its events, by asking where there are none, and its cancelation
 * one question at a time, a pause between rounds and of Retry-After, none while nobody looks
 * a service that stops: said, counted, and over by itself when it is back
 * keys: what a reader, a limited key and an operator see; another key is kept in memory only
 * names that are markup, long, or of another direction stay text; nothing breaks the policy, nothing is asked of others
 * names, headings, contrast (light, dark), sizes of text, width of a phone, reach of the keyboard (browser.py)

It writes to the service that it is pointed at. With --base-url what needs its process or its files is left out, loudly. Needs
playwright and Debian's chromium. Exits 1 at the first thing that is wrong.
"""

import argparse
import base64
import json
import os
import random
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import quote, urlsplit

from browser import PHONE, Chromium, Window
from page_jobs import ROUND_SECONDS, WATCH_JOBS, check_gentleness, check_progress, check_silence
from page_restore import check_restore
from processes import START_SECONDS, Failed, Process, equal, expect, free_ports, http_call, until

TENANT, DATABASE = "default_tenant", "default_database"
BATCH, MANY = 5_000, 230
# Between the phone and the desktop, where the layout changes.
WIDTHS = (320, 600, 769, 900, 1024)
# Markup, quotes, an override of the direction, Arabic, and as long as it may be.
MARKUP = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>'\"&lt;"
STRANGE_TENANT = f"{MARKUP} \u202eabc/\u0645\u0631\u062d\u0628\u0627 ../{'x' * 300}"

ALL_THE_SAME = "() => [...document.querySelectorAll('#collection-rows > tr')].every((row) => row.innerText.includes('same as in'))"
MARK = r"""
(id) => {
  const mark = document.querySelector(`.mark[data-backup="${id}"]`);
  return mark && { state: mark.classList[1], label: mark.ariaLabel };
}
"""
# Where the marks stand, in the order of time.
PLACES = r"""
() => [...document.querySelectorAll("#line .mark")].map((mark) => {
  const { x, y, width, height } = mark.querySelector(".shape").getBoundingClientRect();
  return [x + width / 2, y + height / 2];
})
"""
ROWS = r"""
(id) => [...document.querySelectorAll(`#${id} tr`)].filter((row) => row.checkVisibility()).map((row) => ({
  ...Object.fromEntries([...row.children].map((cell) => [cell.dataset.label, cell.innerText.replace(/\s+/g, " ").trim()])),
  digest: row.querySelector(".digest")?.title.split("\n")[0] ?? null,
}))
"""


class Service(Process):
    """The service under test, or one that is there."""

    def __init__(self, binary: Path | None, home: Path, base_url: str | None = None, **settings) -> None:
        super().__init__(home / "log")
        self.binary, self.home = binary, home
        self.port = urlsplit(base_url).port if base_url else free_ports(1)[0]
        self.headers = {"Content-Type": "application/json"}
        foreign = ("VECTORKEEP", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
        self.environment = {key: value for key, value in os.environ.items() if not key.upper().startswith(foreign)}
        settings = {"SERVER__LISTEN": f"127.0.0.1:{self.port}", "STORAGE__DATA_DIR": home / "store",
                    "REPOSITORY__URL": home / "backups"} | settings
        self.environment |= {f"VECTORKEEP__{key}": str(value) for key, value in settings.items()}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def start(self) -> None:
        self.spawn([self.binary, "serve"], self.environment)
        until("the service", START_SECONDS, lambda: self.alive() and http_call(self.port, "GET", "/health/ready")[0] == 200)

    def send(self, method: str, path: str, body=None, headers: dict | None = None):
        data = None if body is None else json.dumps(body).encode()
        status, answered, raw = http_call(self.port, method, path, data, headers or self.headers)
        return status, answered, json.loads(raw) if raw else None

    def call(self, method: str, path: str, body=None, wanted: int = 200):
        status, _, answer = self.send(method, path, body)
        equal(status, wanted, f"status of {method} {path} ({str(answer)[:600]})")
        return answer

    def backup(self, **body) -> dict:
        return self.call("POST", "/backups?wait=true", body, 201)["result"]

    def backups(self) -> list[dict]:
        return self.call("GET", "/backups?limit=1000")["backups"]

    def collections(self) -> list[dict]:
        return self.call("GET", "/collections?limit=1000")["collections"]

    def digest(self, name: str) -> str:
        [found] = [each["digest"] for each in self.collections() if (each["tenant"], each["name"]) == (TENANT, name)]
        return found

    def make(self, name: str, tenant: str = TENANT) -> str:
        """The path of a collection, which is made where it is not there."""
        database = f"/api/v2/tenants/{quote(tenant, safe='')}/databases/{DATABASE}"
        made = self.call("POST", f"{database}/collections", {"name": name, "get_or_create": True})
        return f"{database}/collections/{made['id']}"

    def fill(self, name: str, numbers: range, dimension: int, tenant: str = TENANT, seed: int = 0) -> None:
        path, chance = self.make(name, tenant), random.Random(f"{name} {seed}")
        for start in range(numbers.start, numbers.stop, BATCH):
            ids = [f"{name}-{number}" for number in range(start, min(start + BATCH, numbers.stop))]
            embeddings = [base64.b64encode(struct.pack(f"<{dimension}f", *chance.randbytes(dimension))).decode() for _ in ids]
            documents = [f"document {seed} of {each}" for each in ids]
            self.call("POST", f"{path}/upsert", {"ids": ids, "embeddings": embeddings, "documents": documents})

    def delete(self, name: str, numbers: range) -> None:
        self.call("POST", f"{self.make(name)}/delete", {"ids": [f"{name}-{number}" for number in numbers]})


class World:
    def __init__(self, chromium: Chromium, service: Service, screenshots: Path | None) -> None:
        self.chromium, self.service, self.screenshots = chromium, service, screenshots

    def shoot(self, window: Window, name: str, full: bool = False) -> None:
        window.shoot(self.screenshots, name, full)


def row_of(window: Window, backup: str, contains: str) -> str:
    return window.until_text(f"tbody[data-backup='{backup}']", contains)


def mark_of(window: Window, backup: str) -> dict:
    return window.wait(f"the mark of {backup}", MARK, backup)


# ---------------- what is stored


def check_contents(world: World) -> None:
    service = world.service
    service.fill("articles", range(300), 8)
    service.fill("notes", range(40), 4)
    service.make("empty")
    service.call("POST", "/api/v2/tenants", {"name": STRANGE_TENANT})
    service.call("POST", f"/api/v2/tenants/{quote(STRANGE_TENANT, safe='')}/databases", {"name": DATABASE})
    service.fill("strange", range(3), 2, STRANGE_TENANT)
    with world.chromium.window(service.url) as window:
        same_collections(world, window)
        health = service.call("GET", "/health")
        equal(window.text("#overall").split()[-1], health["status"], "the overall status")
        records = health["checks"]["collections:records"][0]["observed_value"]
        expect(f"{records:,} records" in window.text("#tiles"), f"{records} records in {window.text('#tiles')}")
        window.until_text("#checks-summary", f"{sum(map(len, health['checks'].values()))}, all pass")
        window.page.click("#check-all")
        window.wait("the deep checks", "() => document.querySelectorAll('#deep details').length === 3")
        deep = window.texts("#deep .check > p")
        found = service.call("GET", "/health/collections")["checks"]["collections:integrity"]
        looked = sum(each["observed_value"]["checked_records"] for each in found)
        expect(f"{looked:,} records of" in deep[0] and looked == records, f"{looked} records looked at, in {deep[0]}")
        expect("written, synced and read back" in deep[1] and "looked at" in deep[2], f"deep checks: {deep}")
        print(f"contents: {len(service.collections())} collections, {records} records, digests as the service says; {deep[0]}", flush=True)


def same_collections(world: World, window: Window) -> None:
    wanted = [{"Tenant": " ".join(each["tenant"].split()), "Database": each["database"], "Name": each["name"],
               "Records": f"{each['records']:,}", "Dimension": "—" if each["dimension"] is None else f"{each['dimension']:,}",
               "Space": each["space"], "digest": each["digest"]} for each in world.service.collections()]
    window.wait("the collections", "(n) => document.querySelectorAll('#collection-rows > tr').length === n", len(wanted))
    equal([{name: row[name] for name in wanted[0]} for row in window.js(ROWS, "collection-rows")], wanted, "the collections that are shown")


def check_many(world: World) -> None:
    service = world.service
    before = len(service.collections())
    for number in range(MANY):
        service.make(f"many-{number:04}")
    with world.chromium.window(service.url) as window:
        window.wait("a page", "() => document.querySelectorAll('#collection-rows > tr').length === 100")
        window.page.click("#more-collections")
        window.wait("all", "(n) => document.querySelectorAll('#collection-rows > tr').length === n", before + MANY)
        expect(not window.page.is_visible("#more-collections"), "there are no more")
        since = len(window.requests)
        until("a round with all", 3 * ROUND_SECONDS,
              lambda: window.asked("GET", f"/collections?limit={before + MANY}", since) or window.page.wait_for_timeout(200))
        equal(window.js("() => document.querySelectorAll('#collection-rows > tr').length"), before + MANY, "collections after a round")
        window.page.fill("#filter", "MANY-010")
        left = [row["Name"] for row in window.js(ROWS, "collection-rows")]
        equal(left, [f"many-010{digit}" for digit in range(10)], "what the filter leaves")
        window.page.fill("#filter", "nothing has this name")
        window.until_text("#collections-count", f"0 of {before + MANY} collections")
    print(f"many: {before + MANY} collections by pages; the filter finds", flush=True)


# ---------------- backups


def check_backup_by_keyboard(world: World) -> str:
    service = world.service
    with world.chromium.window(service.url) as window:
        window.until_text("#backups-count", "No backup yet.")
        window.until_text("#collection-rows tr", "in no backup")
        window.js(WATCH_JOBS)
        window.tab_to("the reason", "() => document.activeElement.id === 'reason'")
        window.page.keyboard.type(MARKUP)
        window.tab_to("the button", "() => document.activeElement.textContent === 'Back up now'", 1)
        window.page.keyboard.press("Enter")
        window.until_text("#finished-rows tr", "succeeded")
        expect(any(MARKUP in text for text in window.js("() => window.seen.texts")), "the job appeared while it ran")
        equal(window.js("() => document.querySelectorAll('#running > li').length"), 0, "jobs that run, at the end")
        [made] = service.backups()
        window.until_text("#messages [role=status]", made["id"])
        row = row_of(window, made["id"], "not verified")
        expect(made["kind"] in row and f"{made['records']:,}" in row and MARKUP in row, f"{made} in {row}")
        equal(window.texts(f"tbody[data-backup='{made['id']}'] .label bdi"), ["reason", MARKUP], "the label")
        mark = mark_of(window, made["id"])
        expect(mark["state"] == "none" and "full" in mark["label"] and "not verified" in mark["label"], f"the mark: {mark}")
        # From its mark one comes to its details, by keyboard as well.
        window.tab_to("the time line", "() => document.activeElement.closest('.line') !== null")
        window.page.keyboard.press("Enter")
        equal(window.focused(), f"details {made['id']}", "where the mark leads")
        details = window.text(f"tbody[data-backup='{made['id']}'] .facts")
        expect(made["collections"][0]["digest"] in window.js("() => document.querySelector('.opened').innerHTML"), "digests in the details")
        expect(f"{made['records']:,} restored by it" in details and f"{made['tombstones']} tombstones" in details, f"details: {details}")
        for each in service.collections():
            window.until_text("#collection-rows tr", f"{each['name']} {each['records']}")
        window.wait("all the same", ALL_THE_SAME)
    print(f"backup by keyboard: {made['id']}, in the list and on the line; the label {MARKUP[:20]}… is text", flush=True)
    return made["id"]


def check_changed_since(world: World) -> None:
    service = world.service
    newest = service.backups()[0]["id"]
    with world.chromium.window(service.url, (0,)) as window:
        window.wait("all the same", ALL_THE_SAME)
        service.fill("notes", range(40, 41), 4)
        window.until_text("[data-collection=notes]", f"changed since {newest}")
        window.until_text("[data-collection=articles]", f"same as in {newest}")
        [notes] = [row for row in window.js(ROWS, "collection-rows") if row["Name"] == "notes"]
        equal((notes["Records"], notes["digest"]), ("41", service.digest("notes")), "records and digest after a write")
        service.call("DELETE", f"/api/v2/tenants/{TENANT}/databases/{DATABASE}/collections/empty")
        window.until_text("#gone", f"Not here any more, but in {newest}: empty")
        # What is not known yet is not said to be missing.
        window.page.route("**/collections?*", lambda route: route.abort())
        window.page.reload()
        row_of(window, newest, "not verified")
        shown = [part for part in ("#gone", "#collection-list", "#collections-count") if window.page.is_visible(part)]
        equal(shown, [], "what is shown of collections before an answer")
    print("changed since: a write shows within a round, so does a collection that was dropped", flush=True)


def check_verify_and_drill(world: World, backup: str) -> None:
    service = world.service
    with world.chromium.window(service.url) as window:
        for verb, level, text, state in (("verify", "records", "verified: records", "pass"), ("drill", "drill", "drill ok", "drill")):
            window.page.click(f"[data-focus='{verb} {backup}']")
            row = row_of(window, backup, text)
            equal(window.focused(), f"{verb} {backup}", f"the focus after {verb}, when the row was made anew")
            found = service.call("GET", f"/backups/{backup}")["verification"]
            equal((found["level"], found["ok"]), (level, True), f"verification after {verb}")
            expect(f"{found['checked_records']:,} records" in row, f"{found} in {row}")
            mark = mark_of(window, backup)
            expect(mark["state"] == state and text in mark["label"], f"the mark after {verb}: {mark}")
        window.until_text("#tiles", f"old {backup}", 3 * ROUND_SECONDS + 10)
    print(f"verify and drill: {text}, in the list and on the line", flush=True)


def check_damage(world: World) -> None:
    service, packs = world.service, world.service.home / "backups" / "packs"
    before = set(packs.rglob("*.arrow"))
    doomed = service.backup(collections=[{"name": "notes"}], kind="full", labels={"reason": "to be damaged"})["id"]
    pack = max(set(packs.rglob("*.arrow")) - before or before, key=lambda path: path.stat().st_mtime_ns)
    other = service.backup(collections=[{"name": "notes"}], kind="full")["id"]
    with world.chromium.window(service.url, (422,)) as window:
        row_of(window, doomed, "not verified")
        row_of(window, other, "not verified")
        flip(pack)
        window.page.click(f"[data-focus='verify {doomed}']")
        row_of(window, doomed, "damaged: records")
        alert = window.until_text("#messages [role=alert]", "Backup damaged")
        job = service.call("GET", "/jobs?kind=verification&limit=1")["jobs"][0]
        expect(job["problem"]["detail"] in alert and job["id"] in alert, f"{job['problem']} in {alert}")
        equal(service.call("GET", f"/backups/{doomed}")["verification"]["ok"], False, "the verification that the service remembers")
        window.until_text("#finished-rows tr", job["result"]["problems"][0])
        mark = mark_of(window, doomed)
        expect(mark["state"] == "fail" and "damaged: records" in mark["label"], f"the mark: {mark}")
        flip(service.home / "backups" / "backups" / f"{other}.json")
        window.page.click(f"[data-focus='verify {other}']")
        row_of(window, other, "damaged: the manifest")
        mark = mark_of(window, other)
        expect(mark["state"] == "fail" and "damaged: the manifest" in mark["label"], f"the mark: {mark}")
        window.inspect("the page with damage")
        world.shoot(window, "damaged-backup", full=True)
    print(f"damage: a byte in {pack.name[:12]}… and one in a manifest, in the list, on the line, as a message: {alert[:120]}", flush=True)


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def check_line(world: World) -> None:
    """Forty backups of as many hours, by an answer that is made up: what a time line has to find room for."""
    made = world.service.backups()[0]
    moments = [(f"2026-01-{1 + hour // 24:02}", f"{hour % 24:02}") for hour in range(40)]
    hours = [made | {"id": f"backup_{day}_{hour}-00-00", "created_at": f"{day}T{hour}:00:00Z", "new_bytes": 2 ** (12 + at % 24),
                     "kind": "incremental" if at % 8 else "full"} for at, (day, hour) in enumerate(moments)]
    answer = {"backups": hours[::-1], "next_cursor": None, "damaged": {}}
    for viewport in (None, PHONE):
        with world.chromium.window(world.service.url, **({"viewport": viewport} if viewport else {})) as window:
            window.page.route("**/backups?*", lambda route: route.fulfill(json=answer))
            window.page.reload()
            window.wait("the marks", "() => document.querySelectorAll('#line .mark').length === 40")
            places = window.js(PLACES)
            near = [(one, other) for at, one in enumerate(places) for other in places[:at]
                    if max(abs(one[0] - other[0]), abs(one[1] - other[1])) < 18]
            equal(near, [], "marks that hide each other")
            expect(all(0 < x < window.page.viewport_size["width"] for x, _ in places), f"marks within the page: {places}")
            equal(window.js("() => document.querySelectorAll('#line .mark rect.shape').length"), 5, "squares: full backups")
            window.page.focus(".mark[tabindex='0']")
            for _ in range(2):
                window.page.keyboard.press("ArrowLeft")
            equal(window.focused("data-backup"), hours[-3]["id"], "two to the left of the newest")
            expect(hours[-3]["id"] in window.text("#readout"), "what is read out under the line")
            equal(window.js("() => document.querySelectorAll('#backup-list > tbody').length"), 10, "rows at first")
            window.page.click("#more-backups")
            equal(window.js("() => document.querySelectorAll('#backup-list > tbody').length"), 40, "rows after asking for more")
            window.page.select_option("#span", "86400000")
            window.until_text("#line", "No backup in this time.")
    print(f"line: {len(hours)} marks apart from each other on the desktop and on the phone", flush=True)


# ---------------- the page as a whole


def check_page(world: World) -> None:
    service, texts, stops = world.service, 0, 0
    newest = service.backups()[0]["id"]
    for scheme in ("light", "dark"):
        for viewport in (None, PHONE):
            where = f"{'the phone' if viewport else 'the desktop'}, {scheme}"
            settings = {"viewport": viewport} if viewport else {}
            with world.chromium.window(service.url, color_scheme=scheme, reduced_motion="reduce", **settings) as window:
                window.wait("rows", "() => document.querySelector('#collection-rows tr') && document.querySelector('#finished-rows tr')")
                world.shoot(window, f"phone-{scheme}" if viewport else f"desktop-{scheme}", full=True)
                window.page.click("#check-all")
                window.page.click(f"[data-focus='details {newest}']")
                window.page.click("#checks-details > summary")
                window.wait("the deep checks", "() => document.querySelectorAll('#deep details').length === 3")
                window.js("() => document.querySelectorAll('#deep details').forEach((each) => { each.open = true; })")
                texts += window.inspect(where)
                stops += window.tab_through()
                for width in WIDTHS if scheme == "light" and not viewport else ():
                    window.page.set_viewport_size({"width": width, "height": 800})
                    texts += window.inspect(f"a window of {width} px, {scheme}")
    print(f"the page: {texts} texts in light and dark, desktop and phone, {stops} stops of the Tab key", flush=True)


# ---------------- keys


def key_of(binary: Path, home: Path, *arguments: str) -> str:
    made = subprocess.run([binary, "key", *arguments], text=True, capture_output=True, timeout=START_SECONDS, check=True)
    with (home / "keys.toml").open("a") as file:
        file.write(made.stdout)
    return made.stderr.strip()


def check_keys(world: World, binary: Path, home: Path) -> None:
    home.mkdir()
    reader = key_of(binary, home, "on-call", "--role", "reader")
    limited = key_of(binary, home, "shop", "--role", "reader", "--tenant", TENANT)
    operator = key_of(binary, home, "nightly", "--role", "operator")
    service = Service(binary, home, ACCESS__KEYS_FILE=home / "keys.toml")
    service.headers |= {"Authorization": f"Bearer {operator}"}
    try:
        service.start()
        service.fill("articles", range(20), 4)
        made = service.backup()["id"]
        status, headers, _ = service.send("GET", "/", headers={"Accept": "text/html"})
        challenges = headers.get_all("www-authenticate", [])
        expect(status == 401 and any("Basic" in each for each in challenges), f"GET / without a key: {status} {challenges}")
        with world.chromium.window(service.url, (401, 403), reader) as window:
            window.until_text("#collection-rows tr", "articles")
            window.until_text("#collection-rows tr", "backups not visible with this key")
            for part in ("backups", "jobs"):
                notice = window.until_text(f"#{part}-notice", "not visible with this key")
                expect("this needs the role operator" in notice and '"on-call"' in notice, f"the notice: {notice}")
                expect(not window.page.is_visible(f"#{part}-content"), f"{part} are hidden")
            window.page.click("text=Back up now")
            window.until_text("#messages [role=alert]", "this needs the role operator")
            window.inspect("the page of a reader")
            since = len(window.requests)
            window.page.wait_for_timeout(1.5 * ROUND_SECONDS * 1_000)
            equal(window.asked("GET", "/backups", since) + window.asked("GET", "/jobs", since), [], "requests for what was refused")
            world.shoot(window, "reader")
            use_key(window, "no-such-key")
            window.until_text("#collections-notice", "this key is not known here")
            use_key(window, operator)
            row_of(window, made, "not verified")
            window.page.click(f"[data-focus='verify {made}']")
            row_of(window, made, "verified: records")
            sent = {each["headers"].get("authorization") for each in window.asked("POST", "/")}
            equal(sent, {None, f"Bearer {operator}"}, "what was sent before another key was typed, and then")
            html = window.js("() => document.documentElement.outerHTML + [...document.querySelectorAll('input')].map((e) => e.value)")
            expect(operator not in html, "the key is nowhere in the document")
            window.page.reload()
            window.until_text("#backups-notice", "this needs the role operator")
        with world.chromium.window(service.url, (403,), limited) as window:
            window.until_text("#tiles", "This key sees the status alone.")
            window.until_text("#collection-rows tr", "articles")
            window.page.click("#check-all")
            window.until_text("#messages [role=alert]", "this reaches the whole store")
        with world.chromium.window(service.url, (), operator) as window:
            row_of(window, made, "verified: records")
            window.page.click("text=Back up now")
            window.until_text("#messages [role=status]", "records")
            equal(len(service.backups()), 2, "backups by the operator")
    finally:
        service.stop()
    print("keys: a reader is told what is not for it, another key is kept in memory only; an operator does it", flush=True)


def use_key(window: Window, key: str) -> None:
    window.page.click("#other-key")
    window.page.fill("#key-input", key)
    window.page.keyboard.press("Enter")
    window.wait("the dialog to close", "() => !document.querySelector('#key-dialog').open")


# ---------------- all of it


def run(world: World, has_files: bool) -> None:
    check_contents(world)
    backup = check_backup_by_keyboard(world)
    check_changed_since(world)
    check_verify_and_drill(world, backup)
    check_restore(world)
    check_line(world)
    check_page(world)
    check_progress(world)
    check_gentleness(world)
    if has_files:
        check_damage(world)
    check_many(world)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", type=Path, nargs="?")
    parser.add_argument("--base-url", help="a service that runs, at 127.0.0.1, empty and without keys")
    parser.add_argument("--screenshots", type=Path, metavar="DIR")
    arguments = parser.parse_args()
    if (arguments.binary is None) == (arguments.base_url is None):
        parser.error("either BINARY or --base-url")
    if arguments.screenshots:
        arguments.screenshots.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as directory, Chromium() as chromium:
        binary, home = arguments.binary and arguments.binary.resolve(), Path(directory)
        # A backup takes seconds, as one of millions of records would.
        service = Service(binary, home, arguments.base_url, REPOSITORY__COMPRESSION_LEVEL=19, REPOSITORY__PACK_BYTES=262_144)
        world = World(chromium, service, arguments.screenshots)
        try:
            if binary is None:
                run(world, False)
                print("SKIPPED with --base-url: damage, silence, keys", flush=True)
            else:
                service.start()
                run(world, True)
                check_silence(world)
                check_keys(world, binary, home / "keys")
        except Failed as error:
            print(f"FAIL {error}\n{service.tail() if binary else ''}", file=sys.stderr)
            return 1
        finally:
            service.stop()
    print(f"the page: all is well, {time.monotonic() - began:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
