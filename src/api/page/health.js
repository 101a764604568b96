// Health: the overview from memory as tiles and a table, and deep checks when they are asked for.

import { announce, badge, byId, cell, given, h, headRow, keep, rowHead, setText, show, time } from "./elements.js";
import { Section, act } from "./messages.js";
import { ask } from "./service.js";
import { age, ago, bytes, count, duration, quantity } from "./units.js";

const NAMES = {
    "backups:damaged": "Damaged backups",
    "backups:last_verified_age": "Newest verified backup",
    "collections:checked": "Collections looked at",
    "collections:count": "Collections",
    "collections:integrity": "Every record of collections",
    "collections:records": "Records",
    "embeddings:checked": "Collections looked at",
    "embeddings:sample": "Sample of embeddings",
    "repository:disk_free": "Repository: free",
    "repository:open": "Repository: open",
    "repository:reachable": "Repository: reachable",
    "repository:readable": "Repository: readable",
    "repository:same": "Repository: the same as before",
    "storage:accepting_writes": "Writes are taken",
    "storage:data_dir": "Data directory",
    "storage:disk_free": "Disk: free",
    "storage:disk_total": "Disk: size",
    "storage:disk_used": "Disk: used",
    "storage:last_check": "Storage, really written and read",
    "storage:observed_age": "Disk: looked at",
    "storage:permissions": "Permissions",
    "storage:used": "Data",
    "storage:write_latency": "Write, sync, read back",
};
const DEEP = [
    { name: "Collections", path: "/health/collections", looked: lookedAtCollections },
    { name: "Storage", path: "/health/storage", looked: lookedAtStorage },
    { name: "Embeddings", path: "/health/embeddings", looked: lookedAtEmbeddings },
];
// A deep check is answered within health.deep_timeout_ms, a minute unless that was changed.
const DEEP_PATIENCE_MS = 150_000;

const section = new Section("health", "Not visible with this key");

export const health = { section, isDue: () => true, refresh };

async function refresh() {
    const report = await ask("GET", "/health");
    section.read();
    showOverall(report);
    showTiles(report);
    const rows = checksOf(report.checks ?? {});
    show(byId("checks-details"), rows.length > 0);
    const bad = rows.filter(({ check }) => check.status !== "pass");
    setText(byId("checks-summary"), `${rows.length}, ${bad.length === 0 ? "all pass" : `${bad.length} not pass`}`);
    // Opened when something is wrong; whoever closes it then is left alone.
    if (bad.length > 0 && !refresh.wasBad) byId("checks-details").open = true;
    refresh.wasBad = bad.length > 0;
    showChecks(byId("checks-rows"), rows);
}

function showOverall({ status }) {
    const words = { pass: "pass", warn: "warn: needs attention", fail: "fail: broken" };
    const element = byId("overall");
    const shown = badge(status, words[status]);
    if (element.textContent !== shown.textContent) {
        element.className = shown.className;
        element.replaceChildren(...shown.childNodes);
        announce(`Health: ${words[status]}`);
    }
    document.title = `${status === "pass" ? "" : `${status.toUpperCase()}: `}${location.host} vectorkeep`;
}

function showTiles(report) {
    const { checks } = report;
    const first = (name) => checks?.[name]?.[0];
    const tiles = [
        {
            name: "Service",
            state: report.status,
            value: report.status,
            more: checks
                ? `version ${report.version}, up for ${duration(report.uptime_ms)}`
                : "This key sees the status alone.",
        },
    ];
    if (checks) {
        const verified = first("backups:last_verified_age");
        const isNone = verified && verified.observed_value === null;
        const [free, total] = [first("storage:disk_free"), first("storage:disk_total")];
        const [collections, records] = [first("collections:count"), first("collections:records")];
        tiles.push(
            verified && {
                name: NAMES["backups:last_verified_age"],
                state: isNone && verified.status === "pass" ? "none" : verified.status,
                value: isNone ? "none" : `${age(verified.observed_value * 1_000)} old`,
                more: (verified.output ?? "").replace("the newest verified backup is ", ""),
            },
            records && {
                name: "Stored",
                state: worst([collections, records]),
                value: quantity(records.observed_value, "records"),
                more: `in ${quantity(collections.observed_value, "collections")}`,
            },
            free && {
                name: "Disk",
                state: free.status,
                value: Number.isFinite(free.observed_value) ? `${bytes(free.observed_value)} free` : "not known",
                more: free.output ?? (total ? `of ${bytes(total.observed_value)}` : ""),
            },
        );
    }
    keep(byId("tiles"), tiles.filter(Boolean), {
        key: (tile) => tile.name,
        print: (tile) => JSON.stringify(tile),
        make: (tile) =>
            h(
                "div",
                { class: `tile ${tile.state}` },
                h("dt", {}, tile.name),
                h(
                    "dd",
                    {},
                    h("span", { class: "value" }, badge(tile.state, tile.value)),
                    h("span", { class: "quiet" }, given(tile.more)),
                ),
            ),
    });
}

function worst(checks) {
    return ["fail", "warn", "pass"].find((status) => checks.some((check) => check?.status === status));
}

// What is wrong comes first.
function checksOf(checks) {
    const order = { fail: 0, warn: 1, pass: 2 };
    const rows = Object.entries(checks).flatMap(([name, found]) => found.map((check, place) => ({ name, place, check })));
    return rows.sort((a, b) => order[a.check.status] - order[b.check.status]);
}

function showChecks(body, rows) {
    keep(body, rows, {
        key: ({ name, place }) => `${name} ${place}`,
        print: ({ check }) => JSON.stringify(check),
        make: ({ name, check }) =>
            h(
                "tr",
                {},
                rowHead("Check", h("span", { title: name }, NAMES[name] ?? given(name))),
                cell("Status", badge(check.status, check.status)),
                cell("Observed", given(observed(check))),
                cell("What it says", check.output ? given(check.output) : ""),
                cell("When", time(check.time)),
            ),
    });
}

// An observation in the units that people use.
function observed({ observed_value: value, observed_unit: unit }) {
    if (value === null) return "—";
    if (typeof value === "boolean") return value ? "yes" : "no";
    if (typeof value === "number") {
        if (unit === "bytes") return bytes(value);
        if (unit === "ms") return duration(value);
        if (unit === "s") return duration(value * 1_000);
        return quantity(value, unit);
    }
    if (typeof value === "string") return value;
    if (unit === "check") return `${value.status}, ${ago(value.age_ms)}`;
    return Object.entries(value)
        .map(([name, each]) => `${name.replaceAll("_", " ")} ${shortly(name, each)}`)
        .join(", ");
}

function shortly(name, value) {
    if (typeof value === "number") {
        if (name.endsWith("_bytes")) return bytes(value);
        return Number.isInteger(value) ? count(value) : value.toPrecision(4);
    }
    return String(value);
}

// ---- deep checks

byId("check-all").addEventListener("click", ({ currentTarget }) =>
    act(currentTarget, "Check every record", async () => {
        const places = DEEP.map((check) => h("section", { class: "check", "aria-label": check.name }));
        byId("deep").replaceChildren(...places);
        for (const [place, check] of DEEP.entries()) await deepCheck(check, places[place]);
        announce("The deep checks are over.");
    }),
);

async function deepCheck(check, place) {
    const began = Date.now();
    let soFar = "";
    const tick = () =>
        place.replaceChildren(
            h("p", {}, badge("active", check.name), ` is being checked, ${duration(Date.now() - began)}${soFar}`),
        );
    const ticking = setInterval(tick, 1_000);
    tick();
    try {
        for (;;) {
            const report = await ask("GET", check.path, { patienceMs: DEEP_PATIENCE_MS });
            const running = Object.values(report.checks)
                .flat()
                .find(({ output }) => output === "running");
            if (!running) {
                showDeep(check, place, report, Date.now() - began);
                return;
            }
            const { checked_records: done, total_records: total } = running.observed_value;
            soFar = `: ${count(done)} of ${quantity(total, "records")}`;
            await new Promise((resolve) => setTimeout(resolve, 1_000));
        }
    } catch (error) {
        place.replaceChildren(h("p", {}, badge("none", check.name), " was not checked."));
        throw error;
    } finally {
        clearInterval(ticking);
    }
}

function showDeep(check, place, report, tookMs) {
    const rows = checksOf(report.checks);
    const findings = rows.filter(({ check: found }) => found.status !== "pass");
    const body = h("tbody");
    showChecks(body, rows);
    place.replaceChildren(
        h(
            "p",
            {},
            badge(report.status, `${check.name}: ${report.status}`),
            " ",
            check.looked(report.checks, rows),
            ` Took ${duration(tookMs)}.`,
        ),
        findings.length === 0
            ? ""
            : h(
                  "ul",
                  { class: "findings" },
                  findings.map(({ check: found }) =>
                      h("li", {}, badge(found.status, found.status), " ", given(found.output ?? observed(found))),
                  ),
              ),
        h(
            "details",
            {},
            h("summary", {}, "Everything that was observed"),
            h(
                "div",
                { class: "scroll" },
                h(
                    "table",
                    { class: "cards" },
                    h("caption", { class: "visually-hidden" }, `Observations of ${check.path}`),
                    headRow("Check", "Status", "Observed", "What it says", "When"),
                    body,
                ),
            ),
        ),
    );
}

function sum(found, member) {
    return (found ?? []).reduce((total, { observed_value: value }) => total + (value?.[member] ?? 0), 0);
}

function lookedAtCollections(checks) {
    const found = checks["collections:integrity"];
    const collections = quantity(checks["collections:checked"]?.[0].observed_value ?? 0, "collections");
    const records = quantity(sum(found, "checked_records"), "records");
    return `${records} of ${collections} read and hashed, ${bytes(sum(found, "checked_bytes"))}; digests computed again.`;
}

function lookedAtStorage(checks, rows) {
    const latency = checks["storage:write_latency"]?.[0];
    return `${quantity(rows.length, "observations")}; a file written, synced and read back${latency ? ` in ${observed(latency)}` : ""}.`;
}

function lookedAtEmbeddings(checks) {
    const found = checks["embeddings:sample"];
    const parts = [
        `${count(sum(found, "checked_records"))} of ${quantity(sum(found, "records"), "records")} looked at`,
        `${count(sum(found, "self_queries"))} searched for`,
        quantity(sum(found, "duplicates"), "duplicates"),
        `${count(sum(found, "zero_norm"))} of length zero`,
    ];
    return `${parts.join(", ")}.`;
}
