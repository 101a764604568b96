"""What the operations page does with jobs that run, with time, and with a service that is away, for page.py."""

import time

from processes import equal, expect

LARGE_RECORDS, LARGE_DIMENSION = 30_000, 64
# The page's pause between two rounds.
ROUND_SECONDS = 4.0
# Remembers what is shown of jobs that run, however short.
WATCH_JOBS = r"""
() => {
  window.seen = { texts: [], values: [] };
  new MutationObserver(() => {
    for (const item of document.querySelectorAll("#running > li")) {
      const bar = item.querySelector("progress");
      window.seen.texts.push(item.innerText.replace(/\s+/g, " "));
      if (bar.hasAttribute("value")) window.seen.values.push([bar.value, bar.max]);
    }
  }).observe(document.querySelector("#running"), { subtree: true, childList: true, attributes: true, characterData: true });
}
"""
# As if the window went behind others, or came back.
SEEN = r"""
(state) => {
  Object.defineProperty(document, "visibilityState", { value: state, configurable: true });
  document.dispatchEvent(new Event("visibilitychange"));
}
"""


def check_progress(world) -> None:
    service = world.service
    service.fill("large", range(LARGE_RECORDS), LARGE_DIMENSION)
    with world.chromium.window(service.url, (429,)) as window:
        window.js(WATCH_JOBS)
        since = len(window.requests)
        window.page.click("text=Back up now")
        window.wait("progress", "() => window.seen.values.some(([value, max]) => value > 0 && value < max)")
        world.shoot(window, "running-job", full=True)
        window.until_text("#finished-rows tr:first-child", "Backup all collections ✓ succeeded", 120)
        job = service.call("GET", "/jobs?kind=backup&limit=1")["jobs"][0]
        values = window.js("() => window.seen.values")
        totals, steps = {total for _, total in values}, sorted({value for value, total in values if 0 < value < total})
        # What it had to copy: other collections stand in the backup before.
        records = job["result"]["new_records"]
        expect(totals == {records} and len(steps) >= 2, f"progress: {steps} of {totals}, expected several of {records}")
        paths = [each["path"] for each in window.asked("GET", f"/jobs/{job['id']}", since)]
        equal(paths, [f"/jobs/{job['id']}/events"], "how the job was followed")
        # Without events it is asked for.
        problem = {"type": "/problems/overloaded", "title": "Too many requests", "status": 429, "detail": "too many clients follow jobs"}
        window.page.route("**/events", lambda route: route.fulfill(status=429, json=problem, headers={"retry-after": "1"}))
        service.fill("large", range(LARGE_RECORDS), LARGE_DIMENSION, seed=1)
        window.js("() => { window.seen.values = []; }")
        window.page.click("text=Back up now")
        window.wait("progress without events", "() => window.seen.values.some(([value, max]) => value > 0 && value < max)")
        window.page.click("#running button")
        window.until_text("#finished-rows tr:first-child", "Backup all collections ! canceled")
        canceled = service.call("GET", "/jobs?kind=backup&limit=1")["jobs"][0]
        equal(canceled["state"], "canceled", "the job after Cancel")
        expect(len(window.asked("GET", f"/jobs/{canceled['id']}", since)) >= 2, "the job was asked for where there were no events")
    service.call("DELETE", "/api/v2/tenants/default_tenant/databases/default_database/collections/large")
    print(f"progress: {len(steps)} steps of {records:,} records by events, then by asking; canceled by its button", flush=True)


def check_gentleness(world) -> None:
    with world.chromium.window(world.service.url, (503,)) as window:
        window.page.wait_for_timeout(1_000)
        since = len(window.requests)
        window.page.wait_for_timeout(2.5 * ROUND_SECONDS * 1_000)
        rounds = window.requests[since:]
        spans = sorted((each["began"], each["ended"] or time.monotonic()) for each in rounds)
        # Events of the browser come a little late.
        overlaps = [(one, other) for one, other in zip(spans, spans[1:]) if other[0] < one[1] - 0.02]
        equal(overlaps, [], "requests at the same time")
        health = [each for each in rounds if each["path"] == "/health"]
        # A round that takes long is followed by a longer pause.
        expect(1 <= len(health) <= 3 and len(rounds) <= 18, f"{len(rounds)} requests in {2.5 * ROUND_SECONDS} s, {len(health)} rounds")
        window.js(SEEN, "hidden")
        window.page.wait_for_timeout(1_000)
        since = len(window.requests)
        window.page.wait_for_timeout(1.5 * ROUND_SECONDS * 1_000)
        equal([each["path"] for each in window.requests[since:]], [], "requests while nobody looks")
        problem = {"title": "Service unavailable", "status": 503, "detail": "a proxy says so", "request_id": "request-17"}
        window.page.route("**/collections?*", lambda route: route.fulfill(status=503, json=problem, headers={"retry-after": "8"}))
        window.js(SEEN, "visible")
        notice = window.until_text("#collections-notice", "Service unavailable")
        expect("a proxy says so" in notice and "request-17" in notice, f"the notice: {notice}")
        since = len(window.requests)
        window.page.unroute("**/collections?*")
        window.page.wait_for_timeout(6_500)
        equal([each["path"] for each in window.requests[since:]], [], "requests before Retry-After is over")
        window.wait("an answer after it", "() => document.querySelector('#collections-notice').hidden", seconds=8)
    print(f"gentle: {len(rounds)} requests in {2.5 * ROUND_SECONDS} s, one at a time; none while hidden, none before Retry-After",
          flush=True)


def check_silence(world) -> None:
    service = world.service
    with world.chromium.window(service.url, (0, 503)) as window:
        expect(not window.page.is_visible("#lost"), "nothing is lost")
        service.stop()
        window.until_text("#lost", "The service does not answer.")
        first = window.until_text("#lost-since", "No answer since")
        window.wait("its age", "(text) => document.querySelector('#lost-since').innerText !== text", first)
        window.page.click("text=Back up now")
        window.until_text("#messages [role=alert]", "no answer")
        service.start()
        made = service.backup(labels={"reason": "after the silence"})
        window.wait("the end of the silence", "() => document.querySelector('#lost').hidden")
        window.until_text(f"tbody[data-backup='{made['id']}']", "after the silence")
    print(f"silence: {first!r}; over by itself", flush=True)
