// Backups: the list, the time line over it, and what can be done with each. Deleting is not offered here.

import {
    badge,
    byId,
    cell,
    digest,
    focusOn,
    given,
    h,
    headRow,
    keep,
    number,
    path,
    rowHead,
    setText,
    show,
    time,
} from "./elements.js";
import * as jobs from "./jobs.js";
import { Section, act } from "./messages.js";
import { openRestore } from "./restore.js";
import { Problem, ask, now } from "./service.js";
import * as timeline from "./timeline.js";
import { bytes, count, duration, inOrder, nameOf, quantity, utc } from "./units.js";

// Others may use the repository as well, and listing it may cost requests to an object store.
const REFRESH_MS = 60_000;
// A backup names all its collections: a page is made smaller where these are many.
const MAX_PAGE = 60,
    MIN_PAGE = 3,
    COLLECTIONS_PER_PAGE = 10_000;
const FIRST_SHOWN = 10,
    MORE_SHOWN = 30;
const CHANGING = ["backup", "import", "verification", "drill", "prune"];

const section = new Section("backups", "Backups are not visible with this key");
// Newest first; `damaged` are those whose manifest cannot be read, with why.
let list = [],
    damaged = {},
    olderCursor = null,
    pageLimit = 1,
    refreshedAt = 0,
    shown = FIRST_SHOWN;
const opened = new Set(),
    listeners = [],
    prints = new WeakMap();

export const backups = { section, isDue: () => now() - refreshedAt >= REFRESH_MS, refresh, forget };

function forget() {
    refreshedAt = 0;
}

// Called when the list has changed.
export function onBackups(call) {
    listeners.push(call);
}

// For each collection (by `nameOf`) its newest backup that was not found damaged, and what it holds of it.
export function newestByCollection() {
    const found = new Map();
    for (const backup of list) {
        if (timeline.standing(backup).state === "fail") continue;
        for (const collection of backup.collections) {
            const name = nameOf(collection);
            if (!found.has(name)) found.set(name, { backup, collection });
        }
    }
    return found;
}

export function newestUsable() {
    return list.find((backup) => timeline.standing(backup).state !== "fail");
}

export function areAllLoaded() {
    return olderCursor === null;
}

async function refresh() {
    let page = await ask("GET", `/backups?limit=${pageLimit}`);
    if (pageLimit === 1 && page.backups.length > 0) {
        const collections = Math.max(1, page.backups[0].collections.length);
        pageLimit = Math.min(MAX_PAGE, Math.max(MIN_PAGE, Math.floor(COLLECTIONS_PER_PAGE / collections)));
        page = await ask("GET", `/backups?limit=${pageLimit}`);
    }
    section.read();
    refreshedAt = now();
    take(page);
}

// A page of the newest in the place of what was known of that time; what is older stays.
function take(page) {
    const last = page.backups.at(-1);
    const rest = page.next_cursor === null || !last ? [] : list.filter((backup) => isOlder(backup, last));
    if (rest.length === 0) olderCursor = page.next_cursor;
    list = [...page.backups, ...rest];
    damaged = page.damaged;
    changed();
}

function isOlder(one, other) {
    return one.created_at < other.created_at;
}

function changed() {
    render();
    listeners.forEach((call) => call());
}

jobs.onEnd(({ kind, request }) => {
    // It no longer works on a backup.
    renderList();
    if (!CHANGING.includes(kind)) return;
    forget();
    // Any may be gone.
    if (kind === "prune") list = [];
    // One of those that the first page does not bring.
    const at = list.findIndex(({ id }) => id === request.backup);
    if (at < pageLimit) return;
    ask("GET", `/backups/${encodeURIComponent(request.backup)}`).then(
        (backup) => {
            list = list.map((each) => (each.id === backup.id ? backup : each));
            changed();
        },
        () => forget(),
    );
});
jobs.onChange(({ request }) => {
    if (request.backup) renderList();
});

// ---- list and time line

// Those with a damaged manifest stand among the others, by the time that their id tells.
function everything() {
    const lost = Object.entries(damaged).map(([id, why]) => ({ id, created_at: timeOf(id), damagedManifest: why }));
    const oldest = list.at(-1);
    const placed = lost.filter((backup) => areAllLoaded() || !oldest || !isOlder(backup, oldest));
    // The others stay in the order of the answer: it is not always that of the clock.
    const all = [...list];
    for (const backup of placed.sort((a, b) => a.id.localeCompare(b.id, "en", { numeric: true }))) {
        const at = all.findIndex((other) => !isOlder(backup, other));
        all.splice(at < 0 ? all.length : at, 0, backup);
    }
    return all;
}

function timeOf(id) {
    const [, date, hours, minutes, seconds] = /^backup_(\d{4}-\d\d-\d\d)_(\d\d)-(\d\d)-(\d\d)/.exec(id) ?? [
        null,
        "1970-01-01",
        "00",
        "00",
        "00",
    ];
    return `${date}T${hours}:${minutes}:${seconds}Z`;
}

function render() {
    if (!section.isRead) return;
    drawLine();
    renderList();
    const all = everything();
    show(byId("more-backups"), olderCursor !== null || all.length > shown);
    const rest = olderCursor === null ? "in all" : "on the time line; there are older ones";
    const some = `${count(Math.min(shown, all.length))} shown, ${quantity(all.length, "backups")} ${rest}`;
    setText(byId("backups-count"), all.length === 0 ? "No backup yet." : some);
    show(byId("backup-list"), all.length > 0);
}

export function drawLine() {
    if (!section.isRead) return;
    timeline.draw(byId("line"), everything(), { spanMs: Number(byId("span").value), onChoose: choose });
}

function choose(id) {
    opened.add(id);
    shown = Math.max(shown, everything().findIndex((backup) => backup.id === id) + 1);
    render();
    focusOn(`details ${id}`);
    document.activeElement?.scrollIntoView({ block: "center" });
}

function renderList() {
    keep(byId("backup-list"), everything().slice(0, shown), {
        key: ({ id }) => id,
        print: (backup) => `${printed(backup)} ${opened.has(backup.id)} ${working(backup.id)}`,
        make: (backup) => (backup.damagedManifest ? lostRows(backup) : rows(backup)),
    });
}

// A backup names all its collections: it is written out once, not at each step of a job.
function printed(backup) {
    if (!prints.has(backup)) prints.set(backup, JSON.stringify(backup));
    return prints.get(backup);
}

function working(id) {
    const job = jobs.workingOn(id);
    if (!job) return null;
    const words = { verification: "verifying", drill: "drill runs", restore: "restoring" }[job.kind] ?? job.kind;
    return job.progress.total > 0 ? `${words}, ${jobs.percent(job.progress)} %` : words;
}

function rows(backup) {
    const { id, collections } = backup,
        isOpen = opened.has(id);
    const labels = Object.entries(backup.labels);
    return h(
        "tbody",
        { "data-backup": id },
        h(
            "tr",
            {},
            rowHead("Backup", [
                h("span", { class: "id" }, given(id)),
                backup.pinned ? [" ", h("span", { class: "badge none" }, "pinned")] : null,
                h("br"),
                h("span", { class: "quiet" }, time(backup.created_at), `, ${utc(backup.created_at)}`),
                labels.length > 0 ? h("span", { class: "labels" }, labels.map(labelled)) : null,
            ]),
            cell("Kind", backup.kind),
            cell(
                "Records",
                [count(backup.records), " ", h("br"), h("span", { class: "quiet" }, `${count(backup.new_records)} new`)],
                { class: "number" },
            ),
            cell(
                "Written",
                [bytes(backup.new_bytes), " ", h("br"), h("span", { class: "quiet" }, `${bytes(backup.stored_bytes)} in all`)],
                { class: "number" },
            ),
            checkedCell(backup),
            cell("Do", actions(backup, isOpen), { class: "actions" }),
        ),
        isOpen
            ? h("tr", { class: "opened", id: `details-${id}` }, h("td", { colspan: 6 }, details(backup, collections)))
            : null,
    );
}

function lostRows(backup) {
    const { id, damagedManifest: why } = backup;
    return h(
        "tbody",
        { "data-backup": id },
        h(
            "tr",
            {},
            rowHead("Backup", [
                h("span", { class: "id" }, given(id)),
                h("br"),
                h("span", { class: "quiet" }, time(backup.created_at), `, ${utc(backup.created_at)}`),
            ]),
            cell("Kind", "not known"),
            cell("Records", "—", { class: "number" }),
            cell("Written", "—", { class: "number" }),
            checkedCell(backup, given(why)),
            cell("Do", [verifyButton(id)], { class: "actions" }),
        ),
    );
}

function checkedCell(backup, more = null) {
    const { state, text } = timeline.standing(backup),
        { verification } = backup,
        runs = working(backup.id);
    return cell("Checked", [
        badge(state, text),
        " ",
        h("br"),
        verification
            ? h("span", { class: "quiet" }, time(verification.at), `, ${quantity(verification.checked_records, "records")}`)
            : more,
        runs ? [" ", badge("active", runs)] : null,
    ]);
}

function labelled([name, value]) {
    return h("span", { class: "label" }, h("bdi", {}, name), ": ", h("bdi", {}, value));
}

function actions(backup, isOpen) {
    const { id } = backup;
    const restore = h(
        "button",
        {
            type: "button",
            "data-focus": `restore ${id}`,
            "aria-label": `Restore ${id}…`,
            "aria-haspopup": "dialog",
            onclick: () => openRestore(backup, timeline.standing(backup)),
        },
        "Restore…",
    );
    const more = h(
        "button",
        {
            type: "button",
            "data-focus": `details ${id}`,
            "aria-expanded": String(isOpen),
            "aria-label": `Details of ${id}`,
            "aria-controls": isOpen ? `details-${id}` : null,
        },
        "Details",
    );
    more.addEventListener("click", () => {
        if (!opened.delete(id)) opened.add(id);
        renderList();
    });
    return [
        verifyButton(id),
        " ",
        jobButton(id, "Drill", "drill", "/drills", { backup: id }, "Restores it aside, compares, queries and drops it"),
        " ",
        restore,
        " ",
        more,
    ];
}

function verifyButton(id) {
    return jobButton(
        id,
        "Verify",
        "verify",
        `/backups/${encodeURIComponent(id)}/verify`,
        { level: "records" },
        "Reads every stored byte and hashes every record",
    );
}

function jobButton(id, text, verb, path, body, title) {
    const button = h("button", { type: "button", "data-focus": `${verb} ${id}`, "aria-label": `${text} ${id}`, title }, text);
    button.addEventListener("click", () =>
        act(button, `${text} ${id}`, async () => jobs.begun(await ask("POST", path, { body }))),
    );
    return button;
}

function details(backup, collections) {
    const { verification } = backup;
    const sizes = [
        `${bytes(backup.raw_bytes)} of records`,
        `${bytes(backup.new_bytes)} written`,
        `${bytes(backup.stored_bytes)} in all packs that it refers to`,
        backup.compression,
        backup.encrypted && "encrypted",
    ];
    const checked = verification && [
        timeline.standing(backup).text,
        utc(verification.at),
        quantity(verification.checked_records, "records"),
        bytes(verification.checked_bytes),
    ];
    const facts = [
        ["Parent", backup.parent ? given(backup.parent) : "none"],
        ["Made", `${utc(backup.created_at)}, in ${duration(backup.duration_ms)}`],
        [
            "Records",
            `${count(backup.records)} restored by it, ${count(backup.new_records)} written, ${quantity(backup.tombstones, "tombstones")}`,
        ],
        ["Bytes", sizes.filter(Boolean).join(", ")],
        ["Checked", checked ? checked.join(", ") : "never"],
        backup.damaged_collections?.length > 0 && [
            "Damaged",
            backup.damaged_collections.map(({ tenant, database, name }) => given(`${tenant}/${database}/${name} `)),
        ],
        ["Pinned", backup.pinned ? "yes: retention keeps it" : "no"],
        ["Labels", Object.keys(backup.labels).length > 0 ? Object.entries(backup.labels).map(labelled) : "none"],
    ];
    return [
        h(
            "dl",
            { class: "facts" },
            facts.filter(Boolean).map(([name, content]) => h("div", {}, h("dt", {}, name), h("dd", {}, content))),
        ),
        h(
            "div",
            { class: "scroll tall", tabindex: "0", role: "region", "aria-label": `Collections of ${backup.id}` },
            h(
                "table",
                { class: "cards" },
                h("caption", {}, quantity(collections.length, "collections")),
                headRow("Collection", ["Records"], ["Dimension"], "Space", "Digest"),
                h(
                    "tbody",
                    {},
                    inOrder(collections).map((each) =>
                        h(
                            "tr",
                            {},
                            rowHead("Collection", path(each.tenant, each.database, each.name)),
                            number("Records", each.records),
                            number("Dimension", each.dimension),
                            cell("Space", each.space),
                            cell("Digest", digest(each.digest)),
                        ),
                    ),
                ),
            ),
        ),
    ];
}

// ---- what is asked for

byId("backup-now").addEventListener("submit", (event) => {
    event.preventDefault();
    const [button] = event.currentTarget.querySelectorAll("button");
    const reason = byId("reason").value.trim();
    act(button, "Back up now", async () => {
        const body = reason ? { labels: { reason } } : {};
        jobs.begun(await ask("POST", "/backups", { body }));
        byId("reason").value = "";
    });
});

byId("more-backups").addEventListener("click", ({ currentTarget }) =>
    act(currentTarget, "Show older backups", async () => {
        shown += MORE_SHOWN;
        if (olderCursor === null || everything().length >= shown) return render();
        const page = await ask("GET", `/backups?limit=${pageLimit}&cursor=${encodeURIComponent(olderCursor)}`).catch(
            (error) => {
                // The backup at which the page before ended is gone: begin again.
                if (error instanceof Problem && error.status === 422) [list, refreshedAt] = [[], 0];
                throw error;
            },
        );
        const ids = new Set(list.map(({ id }) => id));
        list = [...list, ...page.backups.filter(({ id }) => !ids.has(id))];
        olderCursor = page.next_cursor;
        changed();
    }),
);

byId("span").addEventListener("change", drawLine);
byId("legend").append(...timeline.legend());
new ResizeObserver(() => {
    const width = byId("line").clientWidth;
    if (width !== drawLine.width) drawLine();
    drawLine.width = width;
}).observe(byId("line"));
