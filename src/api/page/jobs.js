// Jobs: those that run are followed by their events, and asked for where that cannot be; those that ended are listed.

import { announce, badge, byId, cell, digest, given, h, keep, rowHead, setText, show, time } from "./elements.js";
import { Section, act, note, report, reportJob } from "./messages.js";
import { NoAnswer, Problem, ask, events, now } from "./service.js";
import { bytes, count, duration, quantity } from "./units.js";

// A browser opens six connections to a service; streams must leave some for everything else.
const MAX_STREAMS = 3;
const ASK_AGAIN_MS = 1_000;
const MAX_PAGE = 25,
    MIN_PAGE = 3;
// A job's result can name thousands of collections: pages are made so small that an answer is about this long.
const PAGE_CHARACTERS = 400_000;
const SHOWN_LINES = 5;
const FIRST_SHOWN = 5,
    MORE_SHOWN = 20;

const NAMES = {
    backup: "Backup",
    import: "Import",
    verification: "Verify",
    prune: "Prune",
    restore: "Restore",
    migration: "Migrate",
    drill: "Drill",
    compaction: "Compact",
};
const STATES = { queued: "none", running: "active", succeeded: "pass", failed: "fail", canceled: "warn", interrupted: "warn" };

const section = new Section("jobs", "Jobs are not visible with this key");
// By id; those that ended as far back as was loaded.
const known = new Map();
const followed = new Map();
const asked = new Set();
// Jobs that this page began: their end is told.
const own = new Set();
const watchers = new Map();
const endings = [],
    changes = [];
let isFirst = true,
    pageLimit = MIN_PAGE,
    olderCursor = null,
    shown = FIRST_SHOWN;

export const jobs = { section, isDue: () => true, refresh };

// Time passes for a job that runs, also where it says nothing.
export function tick() {
    showRunning();
}

export function isOver(job) {
    return job.state !== "queued" && job.state !== "running";
}

// Called with each job that ended.
export function onEnd(call) {
    endings.push(call);
}

// Called when a job that runs has changed.
export function onChange(call) {
    changes.push(call);
}

// The job that works on a backup now, if one does.
export function workingOn(backup) {
    return [...known.values()].find((job) => !isOver(job) && job.request.backup === backup);
}

// Takes up a job that this page has begun. `watch` is called with every change.
export function begun(job, watch) {
    own.add(job.id);
    if (watch) watchers.set(job.id, watch);
    announce(`${title(job)}: ${job.state}`);
    update(job);
    follow(job.id);
}

async function refresh() {
    const [running, queued] = [
        await ask("GET", "/jobs?state=running&limit=100"),
        await ask("GET", "/jobs?state=queued&limit=100"),
    ];
    let newest = await ask("GET", `/jobs?limit=${pageLimit}`);
    const size = JSON.stringify(newest.jobs).length / Math.max(1, newest.jobs.length);
    pageLimit = Math.min(MAX_PAGE, Math.max(MIN_PAGE, Math.floor(PAGE_CHARACTERS / size)));
    if (isFirst) newest = await ask("GET", `/jobs?limit=${pageLimit}`);
    section.read();
    const listed = new Set();
    for (const job of [...running.jobs, ...queued.jobs, ...newest.jobs]) {
        listed.add(job.id);
        // Its events are newer than this look at it.
        if (isOver(job) || !followed.has(job.id)) update(job);
    }
    if (isFirst) olderCursor = newest.next_cursor;
    isFirst = false;
    for (const job of [...known.values()].filter((each) => !isOver(each))) {
        if (!listed.has(job.id)) await look(job.id);
        else if (job.state === "running") follow(job.id);
    }
    render();
}

async function look(id) {
    try {
        update(await ask("GET", `/jobs/${encodeURIComponent(id)}`));
    } catch (error) {
        if (!(error instanceof Problem && error.status === 404)) throw error;
        known.delete(id);
    }
}

function update(job) {
    const before = known.get(job.id);
    if (before && isOver(before)) return;
    known.set(job.id, job);
    watchers.get(job.id)?.(job);
    render();
    if (isOver(job)) ended(job, before);
    else changes.forEach((call) => call(job));
}

function ended(job, before) {
    watchers.delete(job.id);
    if (own.delete(job.id)) {
        if (job.state === "succeeded") note(`${title(job)}: ${summary(job)}`);
        else if (job.state === "canceled") note(`${title(job)}: canceled`);
        else reportJob(title(job), job);
    } else if (before) {
        announce(`${title(job)}: ${job.state}`);
    }
    // What had ended before this page was opened changes nothing on it.
    if (!isFirst || before) endings.forEach((call) => call(job));
}

// ---- following

async function follow(id) {
    const job = known.get(id);
    if (!job || isOver(job) || followed.has(id) || asked.has(id) || document.visibilityState === "hidden") return;
    if (followed.size >= MAX_STREAMS) return;
    const control = new AbortController();
    followed.set(id, control);
    try {
        for await (const [name, data] of events(`/jobs/${encodeURIComponent(id)}/events`, control.signal)) {
            if (name === "progress" || name === "end") update(data);
        }
    } catch {
        // No stream, or it broke: asking will say why.
    } finally {
        followed.delete(id);
    }
    if (!control.signal.aborted) await askUntilOver(id);
}

async function askUntilOver(id) {
    asked.add(id);
    try {
        while (known.has(id) && !isOver(known.get(id)) && document.visibilityState === "visible") {
            let pauseMs = ASK_AGAIN_MS;
            try {
                await look(id);
            } catch (error) {
                // The page's round notices when there are answers again, and comes back to this job.
                if (error instanceof NoAnswer || !error.retryAfterMs) return;
                pauseMs = Math.max(pauseMs, error.retryAfterMs);
            }
            await new Promise((resolve) => setTimeout(resolve, pauseMs));
        }
    } finally {
        asked.delete(id);
    }
}

document.addEventListener("visibilitychange", () => {
    if (document.visibilityState === "hidden") for (const control of followed.values()) control.abort();
});

// ---- words

export function title(job) {
    const { request } = job;
    const of = {
        backup: () =>
            labels(request) ??
            (request.collections ? request.collections.map(({ name }) => name).join(", ") : "all collections"),
        verification: () => request.backup,
        drill: () => request.backup,
        restore: () => request.backup,
        migration: () => `${place(request.source)} to ${place(request.target)}`,
    }[job.kind];
    return [NAMES[job.kind] ?? job.kind, of?.()].filter(Boolean).join(" ");
}

function labels(request) {
    const texts = Object.entries(request.labels ?? {}).map(([name, value]) => `${name}: ${value}`);
    return texts.length > 0 ? `(${texts.join(", ")})` : null;
}

function place(end) {
    const environment = end?.environment ?? "local";
    return `${environment === "local" ? "" : `${environment}/`}${end?.collection ?? ""}`;
}

// What came out, in a line, by kind.
const OUTCOMES = {
    backup: (made) => [
        made.id,
        quantity(made.records, "records"),
        `${count(made.new_records)} of them written`,
        bytes(made.new_bytes),
    ],
    import: (made) => [made.id, quantity(made.records, "records")],
    verification: (found) => [
        `${found.ok ? "sound" : "not sound"}: ${quantity(found.checked_records, "records")} checked`,
        `${quantity(found.checked_packs, "packs")} read`,
        bytes(found.checked_bytes),
    ],
    drill: (found) => [
        `${found.ok ? "passed" : "not passed"}: ${quantity(found.checked_records, "records")} of ` +
            `${quantity(found.collections, "collections")} restored and compared in ${duration(found.restore_ms)}`,
        `${quantity(found.queries, "queries")} compared with brute force`,
        found.first_query_ms !== null && `first answer after ${duration(found.first_query_ms)}`,
    ],
    restore: ({ collections }) => [
        quantity(collections.length, "collections"),
        quantity(
            collections.reduce((sum, each) => sum + each.records, 0),
            "records",
        ),
    ],
    migration: (copied) => [
        `${copied.action}: ${quantity(copied.read, "records")} read`,
        `${count(copied.inserted)} inserted`,
        `${count(copied.updated)} updated`,
        copied.verified ? "both ends are equal" : "not compared",
    ],
    prune: (found) => [
        `${quantity(found.deleted.length, "backups")} deleted`,
        `${bytes(found.freed_bytes)} freed`,
        `${bytes(found.pending_bytes)} to be freed`,
    ],
    compaction: (found) => [`${bytes(found.before_bytes)} before`, `${bytes(found.after_bytes)} after`],
};

function summary({ kind, result }) {
    return result && OUTCOMES[kind] ? OUTCOMES[kind](result).filter(Boolean).join(", ") : "";
}

// Records, phase, bytes and time of a job that runs.
export function progressText({ state, phase, progress, started_at: started }) {
    if (state === "queued") return "waits";
    const { done, total, unit, bytes_done: size } = progress;
    const records =
        total > 0
            ? `${count(done)} of ${quantity(total, unit)} (${percent(progress)} %)`
            : done > 0
              ? quantity(done, unit)
              : "";
    return [
        phase,
        records,
        size > 0 ? bytes(size) : "",
        started ? duration(Math.max(0, now() - new Date(started).valueOf())) : "",
    ]
        .filter(Boolean)
        .join(", ");
}

export function percent({ done, total }) {
    return total > 0 ? Math.min(100, Math.floor((done * 100) / total)) : 0;
}

// The restored collections, with what proves them.
export function restoredTable({ collections }) {
    return collections.map((each) => {
        const head = [given(each.to.name), ` ${each.action}: `];
        if (each.action === "skipped") return h("li", {}, head, "left as it was");
        const counts = ["inserted", "updated", "unchanged", "deleted"].map((name) => `${count(each[name])} ${name}`);
        const proof = each.verified
            ? [badge("pass", "equal to the backup"), " ", digest(each.digest)]
            : badge("none", "no digest compared");
        return h("li", {}, head, `${quantity(each.records, "records")} (${counts.join(", ")}) `, proof);
    });
}

// ---- elements

function render() {
    const all = [...known.values()].sort((a, b) => (a.id < b.id ? 1 : -1));
    const running = all.filter((job) => !isOver(job)).reverse();
    keep(byId("running"), running, {
        key: ({ id }) => id,
        print: ({ cancellable, state }) => `${cancellable} ${state}`,
        make: runningItem,
    });
    showRunning();
    show(byId("nothing-runs"), section.isRead && running.length === 0);
    const over = all.filter(isOver);
    keep(byId("finished-rows"), over.slice(0, shown), { key: ({ id }) => id, print: () => "", make: finishedRow });
    show(byId("finished"), over.length > 0);
    show(byId("more-jobs"), olderCursor !== null || over.length > shown);
    show(byId("running"), running.length > 0);
}

function showRunning() {
    const items = [...(byId("running").kept ?? [])];
    for (const [id, { element }] of items) showProgress(element, known.get(id));
    show(byId("running-now"), items.length > 0);
    if (items.length === 0) return;
    // Beside the health, wherever one is on the page: the one that runs longest.
    const first = known.get(items[0][0]);
    const words = [
        NAMES[first.kind] ?? first.kind,
        first.phase || first.state,
        first.progress.total > 0 && `${percent(first.progress)} %`,
        items.length > 1 && `${count(items.length - 1)} more`,
    ];
    setText(byId("running-now"), `▸ ${words.filter(Boolean).join(", ")}`);
}

function runningItem(job) {
    const cancel = h(
        "button",
        { type: "button", "data-focus": `cancel ${job.id}`, "aria-label": `Cancel ${title(job)}` },
        "Cancel",
    );
    cancel.addEventListener("click", () =>
        act(cancel, `Cancel ${title(job)}`, async () => {
            update(await ask("POST", `/jobs/${encodeURIComponent(job.id)}/cancel`));
        }),
    );
    return h(
        "li",
        { class: "job", "data-job": job.id },
        h(
            "p",
            {},
            badge(STATES[job.state], job.state),
            " ",
            h("strong", {}, given(title(job))),
            job.resumed ? " (taken up after a restart)" : "",
            job.requested_by && job.requested_by !== "anonymous"
                ? h("span", { class: "quiet" }, " asked by ", given(job.requested_by))
                : "",
        ),
        h("progress", { max: 1, "aria-label": `Progress of ${title(job)}` }),
        h("p", { class: "progress-text" }),
        job.cancellable ? cancel : null,
    );
}

export function showProgress(item, job) {
    const { done, total } = job.progress;
    const bar = item.querySelector("progress");
    if (total > 0 && job.state === "running") {
        bar.max = total;
        bar.value = Math.min(done, total);
    } else {
        bar.removeAttribute("value");
    }
    setText(item.querySelector(".progress-text"), progressText(job));
}

function finishedRow(job) {
    const [from, to] = [job.started_at ?? job.created_at, job.finished_at].map((moment) => new Date(moment).valueOf());
    return h(
        "tr",
        { "data-job": job.id },
        rowHead("Job", given(title(job))),
        cell("State", badge(STATES[job.state] ?? "none", job.state)),
        cell("Ended", job.finished_at ? time(job.finished_at) : "—"),
        cell("Took", job.finished_at ? duration(Math.max(0, to - from)) : "—", { class: "number" }),
        cell("Outcome", h("div", { class: "outcome" }, outcome(job))),
    );
}

function outcome(job) {
    const { problem, result } = job;
    const lines = [];
    if (summary(job)) lines.push(h("p", {}, given(summary(job))));
    if (problem) {
        lines.push(
            h(
                "p",
                {},
                h("strong", {}, `${problem.title}.`),
                " ",
                given(problem.detail),
                h("span", { class: "quiet" }, " Job ", h("code", {}, job.id)),
            ),
        );
    }
    const found = result?.problems ?? [];
    if (found.length > 0)
        lines.push(
            folded(
                found.map((each) => h("li", {}, given(each))),
                quantity(found.length, "findings"),
                "findings",
            ),
        );
    if (job.kind === "restore" && result)
        lines.push(folded(restoredTable(result), quantity(result.collections.length, "collections"), "restored"));
    return lines;
}

function folded(items, words, name) {
    const list = h("ul", { class: name }, items);
    return items.length <= SHOWN_LINES ? list : h("details", {}, h("summary", {}, words), list);
}

byId("more-jobs").addEventListener("click", ({ currentTarget }) =>
    act(currentTarget, "Show older jobs", async () => {
        shown += MORE_SHOWN;
        const loaded = [...known.values()].filter(isOver).length;
        if (loaded >= shown || olderCursor === null) return render();
        const page = await ask("GET", `/jobs?limit=${pageLimit}&cursor=${encodeURIComponent(olderCursor)}`);
        olderCursor = page.next_cursor;
        // They ended before: nothing follows from that.
        for (const job of page.jobs) if (!known.has(job.id)) known.set(job.id, job);
        render();
    }),
);
