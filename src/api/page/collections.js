// Collections of all tenants, and whether the newest backup holds each as it is now.

import { badge, byId, cell, digest, given, h, keep, number, rowHead, setText, show } from "./elements.js";
import * as backups from "./backups.js";
import { Section, act } from "./messages.js";
import { ask } from "./service.js";
import { count, nameOf, quantity } from "./units.js";

const PAGE = 100,
    MAX_PAGE = 1_000;
// Names of dropped collections that are spelled out.
const NAMED = 10;

const section = new Section("collections", "Collections are not visible with this key");
let list = [],
    nextCursor = null;

export const collections = { section, isDue: () => true, refresh };

// As many as were loaded, from the beginning: what is shown is true of now.
async function refresh() {
    const wanted = Math.max(PAGE, list.length);
    const found = [];
    let cursor = null;
    do {
        const page = await load(Math.min(MAX_PAGE, wanted - found.length), cursor);
        found.push(...page.collections);
        cursor = page.next_cursor;
    } while (cursor !== null && found.length < wanted);
    section.read();
    [list, nextCursor] = [found, cursor];
    render();
}

function load(limit, cursor) {
    return ask("GET", `/collections?limit=${limit}${cursor === null ? "" : `&cursor=${encodeURIComponent(cursor)}`}`);
}

byId("more-collections").addEventListener("click", ({ currentTarget }) =>
    act(currentTarget, "Show more collections", async () => {
        const page = await load(MAX_PAGE, nextCursor);
        list = [...list, ...page.collections];
        nextCursor = page.next_cursor;
        render();
    }),
);
byId("filter").addEventListener("input", render);
byId("filter-form").addEventListener("submit", (event) => event.preventDefault());
backups.onBackups(render);

function render() {
    if (!section.isRead) return;
    const wanted = byId("filter").value.trim().toLowerCase();
    const newest = backups.newestByCollection();
    const shown = wanted === "" ? list : list.filter(({ name }) => name.toLowerCase().includes(wanted));
    const rows = shown.map((collection) => ({ collection, ...compared(collection, newest.get(nameOf(collection))) }));
    keep(byId("collection-rows"), rows, {
        key: ({ collection }) => nameOf(collection),
        print: ({ collection, state, text, of }) =>
            [
                collection.id,
                collection.sequence,
                collection.digest,
                collection.records,
                collection.dimension,
                state,
                text,
                of,
            ].join(" "),
        make: row,
    });
    show(byId("collection-list"), shown.length > 0);
    show(byId("more-collections"), nextCursor !== null);
    const loaded = `${quantity(list.length, "collections")}${nextCursor === null ? "" : " loaded, there are more"}`;
    setText(
        byId("collections-count"),
        list.length === 0 ? "There is no collection yet." : wanted === "" ? loaded : `${count(shown.length)} of ${loaded}`,
    );
    showGone(newest);
}

function compared(collection, found) {
    if (backups.backups.section.isDenied) return { state: "none", text: "backups not visible with this key", of: null };
    if (!found)
        return { state: "warn", text: backups.areAllLoaded() ? "in no backup" : "in no backup that is loaded", of: null };
    const isSame = found.collection.digest === collection.digest;
    return { state: isSame ? "pass" : "warn", text: isSame ? "same as in" : "changed since", of: found.backup.id };
}

function row({ collection, state, text, of }) {
    return h(
        "tr",
        { "data-collection": collection.name },
        cell("Tenant", given(collection.tenant), { class: "name" }),
        cell("Database", given(collection.database), { class: "name" }),
        rowHead("Name", given(collection.name)),
        number("Records", collection.records),
        number("Dimension", collection.dimension),
        cell("Space", collection.space),
        cell("Digest", digest(collection.digest)),
        cell("Newest backup", [badge(state, text), of ? [" ", given(of)] : null]),
    );
}

// What the newest backup holds and is not here any more.
function showGone(newest) {
    const usable = backups.newestUsable();
    const here = new Set(list.map(nameOf));
    const gone =
        usable && nextCursor === null && !backups.backups.section.isDenied
            ? usable.collections.filter(
                  (each) => !here.has(nameOf(each)) && newest.get(nameOf(each))?.backup === usable,
              )
            : [];
    show(byId("gone"), gone.length > 0);
    if (gone.length === 0) return;
    const names = gone.slice(0, NAMED).flatMap(({ name }, at) => [at > 0 ? ", " : "", given(name)]);
    byId("gone").replaceChildren(
        h("strong", {}, "Not here any more"),
        `, but in ${usable.id}: `,
        ...names,
        gone.length > NAMED ? `, and ${count(gone.length - NAMED)} others` : "",
    );
}
