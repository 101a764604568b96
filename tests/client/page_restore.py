"""The restore dialog of the operations page, for page.py: previews held against the dry run of the same request, what has to be
typed, what was restored by its digest, conflicts, and the way out."""

from browser import Window
from processes import equal, expect

NUMBERS = {"Insert": "insert", "Update": "update", "Unchanged": "unchanged", "Delete": "delete", "Left alone": "skip"}
PLAN = r"""
() => [...document.querySelectorAll("#restore-plan tbody tr")].map((row) =>
  Object.fromEntries([...row.children].map((cell) => [cell.dataset.label, cell.innerText.replace(/\s+/g, " ").trim()])))
"""
CONFIRM, ALERT, DIALOG = "#restore-confirm", "#restore-alert", "#restore-dialog"


def reference(name: str) -> dict:
    return {"tenant": "default_tenant", "database": "default_database", "name": name}


def check_restore(world) -> None:
    service = world.service
    backup = service.backup(labels={"reason": "to restore"})
    digests = {each["name"]: each["digest"] for each in backup["collections"]}
    # 300 records as the backup holds them; then 20 are gone, 30 are others, 10 are new.
    service.delete("articles", range(20))
    service.fill("articles", range(20, 50), 8, seed=1)
    service.fill("articles", range(300, 310), 8, seed=2)
    changed = service.digest("articles")
    with world.chromium.window(service.url, (409,)) as window:
        leave_by_escape(window, backup["id"])
        say_conflict(world, window, backup["id"])
        equal(service.digest("articles"), changed, "the digest after a refused preview")
        void_by_change(world, window, backup["id"])
        ignore_late(window, backup["id"])
        merge_of_several(world, window, backup["id"])
        result = replace(world, window, backup["id"])
        equal(service.digest("articles"), digests["articles"], "the digest after the restore, and in the backup")
        equal(result, digests["articles"], "the digest that the dialog shows")
        under_another_name(world, window, backup["id"])
        equal(service.digest("articles-yesterday"), digests["articles"], "the digest under another name")
    print("restore: previews as the dry runs say, void with any change, confirmed by typing; digests as in the backup; a conflict is said; "
          "Escape leads back", flush=True)


def open_dialog(window: Window, backup: str, *names: str) -> None:
    window.wait("the button", "(id) => document.querySelector(`[data-focus=\"restore ${id}\"]`) !== null", backup)
    window.page.focus(f"[data-focus='restore {backup}']")
    window.page.keyboard.press("Enter")
    window.wait("the dialog", "() => document.querySelector('#restore-dialog').open")
    for name in names:
        window.page.locator("#restore-picks label", has_text=f"{name} default_tenant").locator("input").check()


def choose(window: Window, policy: str) -> None:
    window.page.check(f"#restore-choice input[value={policy}]")


def preview(window: Window) -> list[dict]:
    window.page.click("#restore-preview")
    window.wait("the preview", "() => document.querySelector('#restore-plan table') !== null")
    return window.js(PLAN)


def leave(window: Window, backup: str) -> None:
    window.page.keyboard.press("Escape")
    window.wait("the dialog to close", "() => !document.querySelector('#restore-dialog').open")
    # Where the row was made anew meanwhile, the focus comes back a moment after the dialog is closed.
    window.wait("the focus after the dialog", "(name) => document.activeElement.dataset.focus === name", f"restore {backup}")


def leave_by_escape(window: Window, backup: str) -> None:
    open_dialog(window, backup)
    expect(window.page.is_disabled("#restore-preview"), "nothing is chosen: nothing to preview")
    expect(window.js("(s) => document.querySelector(s).contains(document.activeElement)", DIALOG), "the focus is in the dialog")
    leave(window, backup)


def say_conflict(world, window: Window, backup: str) -> None:
    body = {"backup": backup, "collections": [reference("articles")], "on_conflict": "fail", "dry_run": True}
    problem = world.service.call("POST", "/restore", body, 409)
    open_dialog(window, backup, "articles")
    window.page.click("#restore-preview")
    alert = window.until_text(ALERT, problem["title"])
    # Each request has its own id.
    expect(problem["detail"] in alert and "Request " in alert, f"{problem} in {alert}")
    expect(not window.page.is_visible(CONFIRM), "nothing to confirm after a refusal")
    window.inspect("the dialog with a refusal")
    leave(window, backup)


def same_plan(world, shown: list[dict], body: dict) -> dict:
    """That the preview says what the dry run of the same request says."""
    plan = world.service.call("POST", "/restore", {**body, "dry_run": True})
    wanted = {each["name"]: {"Action": each["action"]} | {label: f"{each[member]:,}" for label, member in NUMBERS.items()}
              for each in plan["collections"]}
    found = {row["Collection"]: {label: row[label] for label in ("Action", *NUMBERS)} for row in shown}
    equal(found, wanted, "the preview, and the dry run of the same request")
    return plan


def void_by_change(world, window: Window, backup: str) -> None:
    open_dialog(window, backup, "articles")
    changes = [lambda: choose(window, "rename"), lambda: window.page.fill("#restore-name", "other-name"),
               lambda: window.page.locator("#restore-picks label", has_text="notes default_tenant").locator("input").check(),
               lambda: (choose(window, "merge"), window.page.check("#restore-winner input[value=live]"))]
    choose(window, "skip")
    for change in changes:
        shown = preview(window)
        expect(shown, "a preview")
        change()
        equal(window.js(PLAN), [], "the preview after a change")
        expect(window.page.is_disabled(CONFIRM) and not window.page.is_visible(CONFIRM), "nothing to confirm after a change")
        window.until_text("#restore-says", "preview it again")
    leave(window, backup)


def ignore_late(window: Window, backup: str) -> None:
    """A plan that comes when something else is chosen is of no use."""
    held = []
    window.page.route("**/restore", lambda route: held.append(route))
    open_dialog(window, backup, "articles")
    choose(window, "replace")
    window.page.click("#restore-preview")
    window.until_text("#restore-says", "Comparing")
    choose(window, "rename")
    for route in held:
        with window.page.expect_response("**/restore"):
            route.continue_()
    window.page.wait_for_timeout(300)
    equal((len(held), window.js(PLAN)), (1, []), "requests, and what is shown of a plan for another choice")
    window.page.unroute("**/restore")
    leave(window, backup)


def merge_of_several(world, window: Window, backup: str) -> None:
    open_dialog(window, backup, "articles", "notes")
    choose(window, "merge")
    for winner in ("backup", "live"):
        window.page.check(f"#restore-winner input[value={winner}]")
        body = {"backup": backup, "collections": [reference("articles"), reference("notes")], "on_conflict": "merge",
                "merge_winner": winner}
        plan = same_plan(world, preview(window), body)
        [articles] = [each for each in plan["collections"] if each["name"] == "articles"]
        wanted = (20, 30, 0) if winner == "backup" else (20, 0, 30)
        equal((articles["insert"], articles["update"], articles["skip"]), wanted, f"insert, update, skip where {winner} wins")
    window.page.fill("#restore-typed", "articles")
    expect(window.page.is_disabled(CONFIRM), "for several collections it is the backup's id that has to be typed")
    window.page.fill("#restore-typed", backup)
    expect(window.page.is_enabled(CONFIRM), "the id was typed")
    leave(window, backup)


def replace(world, window: Window, backup: str) -> str:
    """Replaces the collection by what the backup holds; the digest that is shown at the end."""
    open_dialog(window, backup, "articles")
    choose(window, "replace")
    body = {"backup": backup, "collections": [reference("articles")], "on_conflict": "replace"}
    plan = same_plan(world, preview(window), body)
    [planned] = plan["collections"]
    equal([planned[member] for member in ("insert", "update", "unchanged", "delete")], [20, 30, 250, 10], "the plan")
    expect("of disk" in window.text("#restore-plan"), "needed and available room")
    for typed in ("", "article", "articles ", "Articles"):
        window.page.fill("#restore-typed", typed)
        expect(window.page.is_disabled(CONFIRM), f"{typed!r} confirms nothing")
    window.page.keyboard.press("Enter")
    window.inspect("the dialog with a preview")
    world.shoot(window, "restore-preview")
    since = len(window.requests)
    window.page.fill("#restore-typed", "articles")
    window.page.keyboard.press("Enter")
    window.wait("the result", "() => document.querySelector('#restore-result tbody tr') !== null")
    equal(len(window.asked("POST", "/restore", since)), 1, "requests of the restore")
    result = window.text("#restore-result tbody")
    expect("replaced 300" in result and "equal to the backup" in result, f"the result: {result}")
    window.inspect("the dialog with a result")
    world.shoot(window, "restore-result")
    digest = window.js("() => document.querySelector('#restore-result .digest').title.split('\\n')[0]")
    leave(window, backup)
    window.until_text("#finished-rows tr", f"Restore {backup} ✓ succeeded")
    expect("restoring" not in window.text(f"tbody[data-backup='{backup}']"), "nothing restores any more")
    return digest


def under_another_name(world, window: Window, backup: str) -> None:
    open_dialog(window, backup, "articles")
    window.page.fill("#restore-name", "articles-yesterday")
    [row] = preview(window)
    wanted = ("default_tenant / default_database / articles-yesterday", "created", "300")
    equal((row["Becomes"], row["Action"], row["Insert"]), wanted, "the plan")
    expect(not window.page.is_visible("#restore-typed"), "nothing is overwritten, nothing is to be typed")
    window.page.click(CONFIRM)
    window.wait("the result", "() => document.querySelector('#restore-result tbody tr') !== null")
    leave(window, backup)
