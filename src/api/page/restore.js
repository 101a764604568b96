// The restore dialog: a choice, a dry run of exactly that choice, and only then the restore. A choice that changes makes its
// preview void; what overwrites wants a name typed.

import { badge, byId, cell, digest, given, h, headRow, number, path, rowHead, show, showModal } from "./elements.js";
import * as jobs from "./jobs.js";
import { described } from "./messages.js";
import { ask, newIdempotencyKey, now } from "./service.js";
import { bytes, clock, count, inOrder, quantity, utc } from "./units.js";

// A dry run compares with what is there, record by record.
const DRY_RUN_PATIENCE_MS = 150_000;
const POLICIES = [
    ["fail", "Fail", "Nothing is changed if a collection of that name exists."],
    ["skip", "Skip", "Collections that exist are left as they are."],
    ["rename", "Rename", "Restored beside what exists, under another name."],
    ["replace", "Replace", "What exists is exchanged for what the backup holds."],
    ["merge", "Merge", "Record by record into what exists."],
];
const OVERWRITING = ["replace", "merge"];

// Of the dialog that is open: the backup, and the preview that holds for the choice as it stands.
let open = null;

export function openRestore(backup, { state, text }) {
    const opener = document.activeElement;
    open = {
        backup,
        collections: inOrder(backup.collections),
        preview: null,
        wasPreviewed: false,
        turn: 0,
        opener: opener?.dataset.focus,
    };
    byId("restore-title").replaceChildren("Restore ", given(backup.id));
    byId("restore-alert").replaceChildren();
    byId("restore-body").replaceChildren(
        h(
            "p",
            {},
            badge(state, text),
            ` Made ${utc(backup.created_at)}.`,
            state === "fail" ? " It was found damaged: a restore of what is damaged is refused." : "",
        ),
        choiceForm(backup),
        previewPart(),
    );
    changed();
    showModal(byId("restore-dialog"), open.opener);
}

byId("restore-close").addEventListener("click", () => byId("restore-dialog").close());
byId("restore-dialog").addEventListener("close", () => {
    open = null;
});

// ---- the choice

function choiceForm(backup) {
    const isSingle = backup.collections.length === 1;
    const policies = POLICIES.map(([value, name, what]) =>
        h(
            "label",
            { class: "choice" },
            h("input", { type: "radio", name: "on_conflict", value, checked: value === "fail" }),
            h("span", {}, h("strong", {}, name), " ", h("span", { class: "quiet" }, what)),
        ),
    );
    const winners = [
        ["backup", "the backup's record"],
        ["live", "the record that is there now"],
    ].map(([value, name]) =>
        h(
            "label",
            { class: "choice" },
            h("input", { type: "radio", name: "winner", value, checked: value === "backup" }),
            h("span", {}, name),
        ),
    );
    const preview = h("button", { type: "submit", id: "restore-preview", class: "primary" }, "Preview");
    const form = h(
        "form",
        { id: "restore-choice", autocomplete: "off" },
        h(
            "fieldset",
            { class: "whole", id: "restore-choices" },
            h("legend", { class: "visually-hidden" }, "What to restore, and how"),
            h(
                "fieldset",
                {},
                h("legend", {}, "Collections"),
                isSingle
                    ? null
                    : h(
                          "p",
                          { class: "buttons start" },
                          h("button", { type: "button", onclick: () => checkAll(true) }, "All"),
                          " ",
                          h("button", { type: "button", onclick: () => checkAll(false) }, "None"),
                          " ",
                          h("label", {}, "Filter ", h("input", { type: "search", id: "restore-filter", oninput: filter })),
                      ),
                h(
                    "div",
                    { class: "picks", id: "restore-picks" },
                    open.collections.map((each, place) =>
                        h(
                            "label",
                            { class: "choice" },
                            h("input", { type: "checkbox", name: "collection", value: String(place), checked: isSingle }),
                            h(
                                "span",
                                {},
                                given(each.name),
                                " ",
                                h(
                                    "span",
                                    { class: "quiet" },
                                    path(each.tenant, each.database),
                                    `, ${quantity(each.records, "records")}`,
                                ),
                            ),
                        ),
                    ),
                ),
            ),
            h(
                "fieldset",
                {},
                h("legend", {}, "Where a collection of that name exists"),
                policies,
                h(
                    "fieldset",
                    { id: "restore-winner" },
                    h("legend", {}, "Where both have a record of the same id, the one that stays is"),
                    winners,
                ),
            ),
            h(
                "p",
                { id: "restore-name-part" },
                h("label", { for: "restore-name" }, "New name ", h("span", { class: "quiet" }, "(optional)")),
                h("input", { id: "restore-name", maxlength: "512", spellcheck: "false" }),
            ),
            h("p", { class: "buttons start" }, preview),
        ),
    );
    // The filter chooses nothing.
    form.addEventListener("input", ({ target }) => target.id === "restore-filter" || changed());
    form.addEventListener("submit", (event) => {
        event.preventDefault();
        runPreview();
    });
    return form;
}

function checkAll(checked) {
    for (const label of byId("restore-picks").children) {
        if (!label.hidden) label.querySelector("input").checked = checked;
    }
    changed();
}

function filter({ target }) {
    const wanted = target.value.trim().toLowerCase();
    for (const label of byId("restore-picks").children) show(label, label.textContent.toLowerCase().includes(wanted));
}

function picked() {
    return [...byId("restore-picks").querySelectorAll("input:checked")].map(({ value }) => open.collections[Number(value)]);
}

function chosen(name) {
    return byId("restore-choice").querySelector(`input[name="${name}"]:checked`).value;
}

// The request that the choice stands for.
function request() {
    const collections = picked().map(({ tenant, database, name }) => ({ tenant, database, name }));
    const newName = byId("restore-name").value.trim(),
        policy = chosen("on_conflict");
    if (collections.length === 1 && newName) collections[0].to = { name: newName };
    const body = { backup: open.backup.id, collections, on_conflict: policy };
    if (policy === "merge") body.merge_winner = chosen("winner");
    return body;
}

// Whatever was previewed is not what is chosen now.
function changed() {
    open.wasPreviewed ||= open.preview !== null;
    open.preview = null;
    open.turn += 1;
    const selected = picked().length;
    show(byId("restore-winner"), chosen("on_conflict") === "merge");
    show(byId("restore-name-part"), selected === 1);
    setDisabled(byId("restore-preview"), selected === 0);
    byId("restore-alert").replaceChildren();
    byId("restore-plan").replaceChildren();
    say(
        selected === 0
            ? "Choose what to restore."
            : open.wasPreviewed
              ? "The choice has changed: preview it again."
              : "First comes a preview; nothing is changed by it.",
    );
    show(byId("restore-confirmation"), false);
    judge();
}

// ---- the preview

function previewPart() {
    const typed = h("input", { id: "restore-typed", autocomplete: "off", spellcheck: "false", oninput: judge });
    const confirm = h("button", { type: "submit", id: "restore-confirm", class: "danger" }, "Restore");
    const form = h(
        "form",
        { id: "restore-confirmation", autocomplete: "off" },
        h("p", { id: "restore-typed-part" }, h("label", { for: "restore-typed", id: "restore-typed-label" }), typed),
        h("p", { class: "buttons start" }, confirm),
    );
    form.addEventListener("submit", (event) => {
        event.preventDefault();
        if (!confirm.disabled) start(confirm);
    });
    return h(
        "div",
        {},
        h("p", { id: "restore-says", role: "status" }),
        h("div", { id: "restore-plan" }),
        form,
        h("div", { id: "restore-progress" }),
    );
}

function say(text) {
    byId("restore-says").textContent = text;
}

async function runPreview() {
    if (picked().length === 0) return;
    const body = request();
    changed();
    const { turn } = open;
    say("Comparing with what is there…");
    let plan;
    try {
        plan = await ask("POST", "/restore", { body: { ...body, dry_run: true }, patienceMs: DRY_RUN_PATIENCE_MS });
    } catch (error) {
        if (open?.turn === turn) refused(error, "Preview");
        return;
    }
    // Of a choice that was changed meanwhile, or a dialog that was closed.
    if (open?.turn !== turn) return;
    open.preview = { body, plan, key: newIdempotencyKey() };
    showPlan(plan);
    judge();
}

function refused(error, doing) {
    say(`${doing}: refused. Nothing was changed.`);
    byId("restore-alert").replaceChildren(
        h("div", { class: "message fail" }, h("p", {}, ...described(error, doing).filter((part) => part !== null))),
    );
    byId("restore-alert").scrollIntoView({ block: "nearest" });
}

function showPlan(plan) {
    const lacks = plan.needed_bytes > plan.available_bytes;
    say(`Preview of ${clock(now())}: nothing was changed yet.`);
    byId("restore-plan").replaceChildren(
        h(
            "div",
            { class: "scroll tall", tabindex: "0", role: "region", "aria-label": "Preview" },
            h(
                "table",
                { class: "cards" },
                h("caption", {}, "What the restore would do, in records"),
                headRow("Collection", "Becomes", "Action", ["Insert"], ["Update"], ["Unchanged"], ["Delete"], ["Left alone"]),
                h(
                    "tbody",
                    {},
                    plan.collections.map((each) =>
                        h(
                            "tr",
                            { "data-name": each.name },
                            rowHead("Collection", given(each.name)),
                            cell("Becomes", path(each.to.tenant, each.to.database, each.to.name), { class: "name" }),
                            cell("Action", each.action),
                            number("Insert", each.insert),
                            number("Update", each.update),
                            number("Unchanged", each.unchanged),
                            number("Delete", each.delete),
                            number("Left alone", each.skip),
                        ),
                    ),
                ),
            ),
        ),
        h(
            "p",
            {},
            badge(lacks ? "fail" : "pass", lacks ? "not enough room" : "room"),
            ` It takes up to ${bytes(plan.needed_bytes)} of disk; ${bytes(plan.available_bytes)} are available.`,
        ),
    );
    const word = wordToType();
    show(byId("restore-confirmation"), true);
    show(byId("restore-typed-part"), word !== null);
    byId("restore-typed").value = "";
    byId("restore-typed-label").replaceChildren(
        "This changes what is there. To confirm, type ",
        h("code", {}, given(word ?? "")),
    );
    byId("restore-confirm").textContent = `Restore ${quantity(plan.collections.length, "collections")}`;
    byId("restore-confirmation").scrollIntoView({ block: "nearest" });
}

// What has to be typed before anything is overwritten: the collection's name, or for several the backup's id.
function wordToType() {
    const { body, plan } = open.preview;
    if (!OVERWRITING.includes(body.on_conflict)) return null;
    return plan.collections.length === 1 ? plan.collections[0].to.name : plan.backup;
}

function judge() {
    const word = open.preview ? wordToType() : null;
    const isReady = open.preview !== null && (word === null || byId("restore-typed").value === word);
    setDisabled(byId("restore-confirm"), !isReady);
}

function setDisabled(button, isDisabled) {
    if (button.disabled !== isDisabled) button.disabled = isDisabled;
}

// ---- the restore

async function start(confirm) {
    const { preview, turn } = open;
    confirm.disabled = true;
    byId("restore-choices").disabled = true;
    byId("restore-alert").replaceChildren();
    try {
        // The same key while the preview stands: if an answer is lost, sending it again does nothing twice.
        const job = await ask("POST", "/restore", { body: preview.body, idempotencyKey: preview.key });
        const watch = (now) => {
            if (open?.turn === turn) showJob(now);
        };
        if (open?.turn === turn) {
            show(byId("restore-choice"), false);
            show(byId("restore-confirmation"), false);
            byId("restore-progress").replaceChildren(
                h("progress", { "aria-label": "Progress of the restore", max: 1 }),
                h("p", { class: "progress-text" }),
            );
            byId("restore-close").focus();
        }
        jobs.begun(job, watch);
    } catch (error) {
        if (open?.turn !== turn) return;
        byId("restore-choices").disabled = false;
        refused(error, "Restore");
        judge();
    }
}

function showJob(job) {
    if (!jobs.isOver(job)) {
        say("The restore runs; it goes on when this is closed.");
        jobs.showProgress(byId("restore-progress"), job);
        return;
    }
    if (job.state !== "succeeded") {
        say(`The restore has ${job.state}: what was there is unchanged.`);
        const { problem } = job;
        byId("restore-alert").replaceChildren(
            h(
                "div",
                { class: "message fail" },
                h("p", {}, h("strong", {}, `${problem?.title ?? job.state}.`), " ", given(problem?.detail ?? "")),
            ),
        );
        byId("restore-progress").replaceChildren();
        return;
    }
    say("Restored.");
    byId("restore-plan").replaceChildren();
    byId("restore-progress").replaceChildren(
        h(
            "div",
            { class: "scroll tall", tabindex: "0", role: "region", "aria-label": "Result" },
            h(
                "table",
                { class: "cards", id: "restore-result" },
                h("caption", {}, `Restored in ${count(job.result.duration_ms)} ms`),
                headRow(
                    "Collection",
                    "Is now",
                    "Action",
                    ["Records"],
                    ["Inserted"],
                    ["Updated"],
                    ["Unchanged"],
                    ["Deleted"],
                    "Digest",
                    "Compared",
                ),
                h(
                    "tbody",
                    {},
                    job.result.collections.map((each) =>
                        h(
                            "tr",
                            {},
                            rowHead("Collection", given(each.name)),
                            cell("Is now", given(each.to.name), { class: "name" }),
                            cell("Action", each.action),
                            number("Records", each.records),
                            number("Inserted", each.inserted),
                            number("Updated", each.updated),
                            number("Unchanged", each.unchanged),
                            number("Deleted", each.deleted),
                            cell("Digest", digest(each.digest)),
                            cell(
                                "Compared",
                                each.verified ? badge("pass", "equal to the backup") : badge("none", "not compared"),
                            ),
                        ),
                    ),
                ),
            ),
        ),
    );
}
