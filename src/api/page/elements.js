// Makes and keeps DOM elements. Data only ever becomes text nodes and attribute values: nothing here parses HTML.

import { ago, count, utc } from "./units.js";
import { now } from "./service.js";

const SVG = "http://www.w3.org/2000/svg";
const ROLES = { table: "table", tr: "row", td: "cell", thead: "rowgroup", tbody: "rowgroup" };
// What says a state besides its colour.
export const SIGNS = { pass: "✓", drill: "✓✓", warn: "!", fail: "✕", none: "○", active: "▸" };

export function byId(id) {
    return document.getElementById(id);
}

// `on…` attributes are listeners; absent ones are null or false.
export function h(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    // On phones tables are shown as cards, which would take their roles from them.
    if (ROLES[tag]) element.setAttribute("role", ROLES[tag]);
    return filled(element, attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
    return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(element, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) {
        if (value === null || value === undefined || value === false) continue;
        if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
        else element.setAttribute(name, value === true ? "" : value);
    }
    element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
    return element;
}

// A name or other text that somebody chose: it may be long, in any script and direction, and stays where it is.
export function given(text) {
    return h("bdi", { class: "given" }, String(text));
}

// Tenant, database and name, each by itself: a direction that one sets does not reach the others.
export function path(...parts) {
    return h(
        "span",
        {},
        parts.map((part, at) => [at > 0 ? " / " : null, given(part)]),
    );
}

export function badge(state, text) {
    return h("span", { class: `badge ${state}` }, h("span", { "aria-hidden": "true" }, `${SIGNS[state]} `), text);
}

export function time(moment) {
    const at = new Date(moment).valueOf();
    return h("time", { datetime: moment, title: utc(moment), "data-at": at }, ago(now() - at));
}

// Relative times grow old.
export function freshenTimes() {
    for (const element of document.querySelectorAll("time[data-at]")) {
        const text = ago(now() - Number(element.dataset.at));
        if (element.textContent !== text) element.textContent = text;
    }
}

// A table's cell; `label` stands before it where a row is shown as a card.
export function cell(label, content, extra = {}) {
    return h("td", { "data-label": label, ...extra }, content);
}

export function number(label, value) {
    return cell(label, value === null ? "—" : count(value), { class: "number" });
}

export function rowHead(label, content, extra = {}) {
    return h("th", { scope: "row", role: "rowheader", "data-label": label, ...extra }, content);
}

// A head in brackets is over numbers.
export function headRow(...texts) {
    const cells = texts.map((text) =>
        h("th", { scope: "col", role: "columnheader", class: Array.isArray(text) ? "number" : null }, text),
    );
    return h("thead", {}, h("tr", {}, cells));
}

// A digest: shortened to look at, whole in its title and in the clipboard.
export function digest(text) {
    if (!text) return "—";
    const button = h(
        "button",
        {
            type: "button",
            class: "digest",
            title: `${text}\n(copies it)`,
            "data-focus": `digest ${text}`,
            "aria-label": `Copy the digest ${text.slice(0, 12)}…`,
        },
        h("code", {}, text),
    );
    button.addEventListener("click", () => copy(button, text));
    return button;
}

async function copy(button, text) {
    try {
        await navigator.clipboard.writeText(text);
    } catch {
        // Without TLS there is no clipboard to ask; a selection can be copied anywhere.
        getSelection().selectAllChildren(button.firstChild);
        if (!document.execCommand("copy")) return announce("The whole digest is selected.");
    }
    button.classList.add("copied");
    setTimeout(() => button.classList.remove("copied"), 1_500);
    announce("The digest is copied.");
}

// Said once to those who listen; seen elsewhere on the page.
export function announce(text) {
    byId("announcement").textContent = text;
}

// Makes the children of `parent` those of `items`, in their order. What did not change stays the same element, so that
// focus, selection and opened details stay as well; `print` tells whether an item changed.
export function keep(parent, items, { key, print, make }) {
    const known = parent.kept ?? new Map(),
        next = new Map();
    const focused = document.activeElement?.closest?.("[data-focus]");
    const focus = focused && parent.contains(focused) ? focused.dataset.focus : null;
    for (const item of items) {
        const id = key(item),
            fingerprint = print(item),
            old = known.get(id);
        next.set(id, old && old.fingerprint === fingerprint ? old : { fingerprint, element: make(item) });
    }
    for (const [id, { element }] of known) {
        if (next.get(id)?.element !== element) element.remove();
    }
    let place = null;
    for (const { element } of [...next.values()].reverse()) {
        if (element.parentNode !== parent || element.nextSibling !== place) parent.insertBefore(element, place);
        place = element;
    }
    parent.kept = next;
    if (focus && !parent.contains(document.activeElement)) focusOn(focus, parent);
}

export function focusOn(name, within = document) {
    within.querySelector(`[data-focus="${CSS.escape(name)}"]`)?.focus();
}

// Opens a dialog. When it closes, the focus goes back to where it was, also where that was made anew meanwhile.
export function showModal(dialog, name) {
    const before = document.activeElement;
    dialog.showModal();
    dialog.addEventListener(
        "close",
        () => {
            if (before?.isConnected) before.focus();
            else if (name) focusOn(name);
        },
        { once: true },
    );
}

export function show(element, visible) {
    if (element.hidden === visible) element.hidden = !visible;
}

export function setText(element, text) {
    if (element.textContent !== text) element.textContent = text;
}
