// The time line: each backup a bar by the bytes it wrote, and above it a mark whose shape is its kind and whose sign and
// colour say how it was checked. Drawn in pixels of the room there is, so that text keeps its size.

import { byId, h, svg } from "./elements.js";
import { now } from "./service.js";
import { ago, bytes, roundBytes, ticks, utc } from "./units.js";

const LEFT = 64,
    RIGHT = 18,
    MARKS_Y = 22,
    MARKS_TO_BARS = 36,
    BARS = 80,
    TICKS = 26;
const MARK = 9,
    GAP = 24,
    ROW = 28,
    MAX_ROWS = 6,
    MIN_SPAN_MS = 10 * 60_000,
    TICK_WIDTH = 76;
// Sizes differ by orders of magnitude: the axis is logarithmic, from here.
const LEAST_BYTES = 1024,
    MOST_SIZES = 5;

// How a backup was checked, as a state and in words.
export function standing({ damagedManifest, damaged_packs: damagedPacks, verification }) {
    if (damagedManifest) return { state: "fail", text: "damaged: the manifest" };
    // Found by looking at another backup that needs the same packs.
    if (damagedPacks > 0 && verification?.ok !== false) return { state: "fail", text: `damaged: ${damagedPacks === 1 ? "1 pack" : `${damagedPacks} packs`}` };
    if (!verification) return { state: "none", text: "not verified" };
    const { level, ok } = verification;
    if (level === "drill") return ok ? { state: "drill", text: "drill ok" } : { state: "fail", text: "drill failed" };
    return ok ? { state: "pass", text: `verified: ${level}` } : { state: "fail", text: `damaged: ${level}` };
}

export function draw(place, backups, { spanMs, onChoose }) {
    const to = now();
    const shown = backups.filter(({ created_at: at }) => !spanMs || new Date(at).valueOf() >= to - spanMs).reverse();
    const width = Math.max(280, Math.floor(place.clientWidth));
    const oldest = shown.length > 0 ? new Date(shown[0].created_at).valueOf() : to;
    const from = spanMs ? to - spanMs : Math.min(oldest, to - MIN_SPAN_MS);
    // Where it is narrow, marks stand in several rows.
    const rows = Math.max(1, Math.min(MAX_ROWS, Math.ceil((shown.length * GAP) / (width - LEFT - RIGHT))));
    const top = MARKS_Y + (rows - 1) * ROW + MARKS_TO_BARS,
        bottom = top + BARS;
    const x = (at) => LEFT + ((at - from) / Math.max(1, to - from)) * (width - LEFT - RIGHT);
    const most = Math.max(LEAST_BYTES * 2, ...shown.map((backup) => backup.new_bytes ?? 0));
    const y = (size) =>
        bottom - 2 - (size <= LEAST_BYTES ? 0 : (Math.log(size / LEAST_BYTES) / Math.log(most / LEAST_BYTES)) * (BARS - 2));
    const focused = place.contains(document.activeElement) ? document.activeElement.dataset.backup : null;
    const wanted = shown.map(({ created_at: at }) => x(new Date(at).valueOf()));
    const placed = spread(wanted, LEFT + MARK, width - RIGHT, GAP / rows).map((markX, at) => ({
        x: wanted[at],
        y: y(shown[at].new_bytes ?? 0),
        bottom,
        markX,
        markY: MARKS_Y + (at % rows) * ROW,
    }));
    const marks = shown.map((backup, at) => mark(backup, placed[at], onChoose));
    const drawing = svg(
        "svg",
        {
            width,
            height: bottom + TICKS,
            viewBox: `0 0 ${width} ${bottom + TICKS}`,
            role: "group",
            "aria-labelledby": "line-title",
        },
        axes(from, to, { x, y, width, bottom, most }),
        svg(
            "g",
            { "aria-hidden": "true" },
            shown.map((backup, at) => lead(backup, placed[at], top)),
        ),
        marks,
    );
    rove(marks, focused);
    place.replaceChildren(
        shown.length > 0 ? drawing : h("p", { class: "quiet" }, spanMs ? "No backup in this time." : "There is no backup yet."),
    );
    if (!focused) byId("readout").textContent = shown.length > 0 ? `Newest: ${label(shown.at(-1))}` : "";
    if (focused) marks.find((each) => each.dataset.backup === focused)?.focus({ preventScroll: true });
}

function axes(from, to, { x, y, width, bottom, most }) {
    const lines = [];
    const named = Math.max(2, Math.floor((width - LEFT - RIGHT) / TICK_WIDTH));
    for (const { at, text } of ticks(from, to, named)) {
        const half = text.length * 4;
        const textX = Math.min(Math.max(x(at), LEFT + half), width - half - 2);
        lines.push(
            svg("line", { class: "grid", x1: x(at), x2: x(at), y1: MARKS_Y - MARK, y2: bottom + 4 }),
            svg("text", { class: "tick", x: textX, y: bottom + TICKS - 6, "text-anchor": "middle" }, text),
        );
    }
    const levels = sizes(most);
    for (const size of levels) {
        const at = y(size);
        lines.push(
            svg("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: at, y2: at }),
            svg("text", { class: "tick", x: LEFT - 8, y: at + 4, "text-anchor": "end" }, roundBytes(size)),
        );
    }
    lines.push(svg("line", { class: "axis", x1: LEFT, x2: width - RIGHT, y1: bottom, y2: bottom }));
    return svg("g", { "aria-hidden": "true" }, lines);
}

// The sizes that the axis names: as many as there is room for.
function sizes(most) {
    for (const factor of [4, 32, 1024]) {
        const levels = [];
        for (let size = LEAST_BYTES; size <= most; size *= factor) levels.push(size);
        if (levels.length <= MOST_SIZES || factor === 1024) return levels;
    }
}

// Marks beside each other where their times are too close; a line leads from each to its bar.
function spread(wanted, least, most, closest) {
    const gap = Math.min(closest, (most - least) / Math.max(1, wanted.length - 1));
    const found = [];
    wanted.forEach((x, at) => found.push(Math.max(x, least, at > 0 ? found[at - 1] + gap : 0)));
    for (let at = found.length - 1, limit = most; at >= 0; at -= 1, limit = found[at + 1] - gap)
        found[at] = Math.min(found[at], limit);
    return found;
}

function lead(backup, { x, y, markX, markY }, top) {
    return svg("path", {
        class: `lead ${standing(backup).state}`,
        d: `M${markX} ${markY + MARK} L${markX} ${top - MARKS_TO_BARS + MARK + 1} L${x} ${top - 4} L${x} ${y}`,
    });
}

function mark(backup, { x, y, bottom, markX, markY }, onChoose) {
    const { state } = standing(backup);
    const group = svg(
        "g",
        { class: `mark ${state}`, role: "button", tabindex: "-1", "data-backup": backup.id, "aria-label": label(backup) },
        svg("title", {}, label(backup)),
        svg("rect", { class: "bar", x: x - 2.5, y, width: 5, height: bottom - y }),
        svg(
            "g",
            { transform: `translate(${markX} ${markY})` },
            svg("circle", { class: "halo", r: MARK + 4 }),
            shape(backup),
            sign(state),
            backup.pinned ? svg("path", { class: "pin", d: `M0 ${-MARK - 3} l-5 -7 h10 z` }) : null,
        ),
    );
    const read = () => {
        byId("readout").textContent = label(backup);
    };
    group.addEventListener("focus", read);
    group.addEventListener("pointerenter", read);
    group.addEventListener("click", () => onChoose(backup.id));
    group.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        onChoose(backup.id);
    });
    return group;
}

function shape({ kind }) {
    const size = 2 * MARK;
    if (kind === "full") return svg("rect", { class: "shape", x: -MARK, y: -MARK, width: size, height: size, rx: 2 });
    if (kind === "incremental") return svg("circle", { class: "shape", r: MARK });
    return svg("path", { class: "shape", d: `M0 ${-MARK - 1} L${MARK + 1} 0 L0 ${MARK + 1} L${-MARK - 1} 0 Z` });
}

function sign(state) {
    const paths = {
        pass: "M-4 0 l3 3.5 l5.5 -7",
        drill: "M-6 0 l2.5 3 l4.5 -6 M-0.5 2.5 l1 1 l5 -6.5",
        fail: "M-3.5 -3.5 l7 7 M3.5 -3.5 l-7 7",
    };
    return paths[state] ? svg("path", { class: "sign", d: paths[state] }) : null;
}

// What a mark says, in words.
export function label(backup) {
    const at = new Date(backup.created_at).valueOf();
    return [
        backup.id,
        backup.kind ?? "kind not known",
        `${utc(at)}, ${ago(now() - at)}`,
        backup.new_bytes === undefined ? null : `${bytes(backup.new_bytes)} written`,
        standing(backup).text,
        backup.pinned ? "pinned" : null,
    ]
        .filter(Boolean)
        .join(", ");
}

// One stop of the Tab key for all marks, the newest at first; arrows go from one to the next.
function rove(marks, focused) {
    const start = marks.find((each) => each.dataset.backup === focused) ?? marks.at(-1);
    start?.setAttribute("tabindex", "0");
    marks.forEach((each, at) =>
        each.addEventListener("keydown", ({ key }) => {
            const next = { ArrowLeft: marks[at - 1], ArrowRight: marks[at + 1], Home: marks[0], End: marks.at(-1) }[key];
            if (!next) return;
            each.setAttribute("tabindex", "-1");
            next.setAttribute("tabindex", "0");
            next.focus();
        }),
    );
}

// What shapes and signs mean.
export function legend() {
    const entry = (className, content, text) =>
        h(
            "span",
            { class: "entry" },
            svg(
                "svg",
                { class: `key ${className}`, width: 22, height: 24, viewBox: "-11 -12 22 24", "aria-hidden": "true" },
                content,
            ),
            text,
        );
    const [full, incremental] = [{ kind: "full" }, { kind: "incremental" }];
    return [
        entry("mark none", shape(full), "full"),
        entry("mark none", shape(incremental), "incremental"),
        entry("mark none", shape(full), "empty: not verified"),
        entry("mark pass", [shape(full), sign("pass")], "verified"),
        entry("mark drill", [shape(full), sign("drill")], "drill ok"),
        entry("mark fail", [shape(full), sign("fail")], "damaged"),
        entry("mark none", svg("path", { class: "pin", d: "M0 4 l-5 -7 h10 z" }), "pinned"),
        h("span", { class: "entry" }, "bar: bytes written, logarithmic"),
    ];
}
