// What the page has to tell: errors of what was asked for, what has ended, and why a section shows nothing.

import { byId, h, show } from "./elements.js";
import { NoAnswer, Problem } from "./service.js";

const MAX_MESSAGES = 5;

// What a problem says, as elements. `doing`: what was tried, as in "Verify backup_…".
export function described(error, doing) {
    if (error instanceof Problem) {
        return [
            h("strong", {}, `${doing ? `${doing}: ` : ""}${error.title}.`),
            " ",
            h("span", { class: "detail" }, sentence(error.message)),
            " ",
            error.requestId ? h("span", { class: "quiet" }, "Request ", h("code", {}, error.requestId)) : null,
            error.isAboutKeys ? keyButton() : null,
        ];
    }
    if (error instanceof NoAnswer) {
        const advice = doing ? "Whether it was begun is not known: look at the jobs when the service answers again." : "";
        return [h("strong", {}, doing ? `${doing}: no answer` : "No answer"), " ", h("span", {}, `${error.message} ${advice}`)];
    }
    return [h("strong", {}, "This page failed"), " ", h("span", {}, `${error}`)];
}

// The service's own words begin small and end without a stop.
function sentence(text) {
    return /[.!?]$/.test(text) ? text : `${text}.`;
}

function keyButton() {
    return h("button", { type: "button", onclick: () => document.dispatchEvent(new Event("key-wanted")) }, "Use another key");
}

// An error of something that was asked for stays until it is taken away.
export function report(error, doing) {
    if (!(error instanceof Problem || error instanceof NoAnswer)) console.error(error);
    add("fail", described(error, doing));
}

// The problem of a job that was followed to its end. In the log it stands under the job's id.
export function reportJob(doing, { id, state, problem }) {
    add("fail", [
        h("strong", {}, `${doing}: ${problem?.title ?? state}.`),
        " ",
        h("span", { class: "detail" }, problem ? sentence(problem.detail) : ""),
        " ",
        h("span", { class: "quiet" }, "Job ", h("code", {}, id)),
    ]);
}

export function note(text) {
    add("pass", [h("span", {}, text)]);
}

function add(state, content) {
    const region = byId("messages");
    const said = content.map((part) => part?.textContent ?? part ?? "").join("");
    // The same once more takes the place of what was said.
    for (const old of [...region.children]) {
        if (old.dataset.said === said) old.remove();
    }
    const message = h("div", { class: `message ${state}`, role: state === "fail" ? "alert" : "status", "data-said": said });
    const dismiss = h(
        "button",
        { type: "button", class: "dismiss", "aria-label": "Dismiss this message", onclick: () => message.remove() },
        "×",
    );
    message.append(h("p", {}, ...content.filter((part) => part !== null)), dismiss);
    region.prepend(message);
    while (region.children.length > MAX_MESSAGES) region.lastChild.remove();
}

// A part of the page that one reads from the service: its notice says why there is nothing, or nothing new.
export class Section {
    // `denied`: what a key may not see.
    constructor(name, denied) {
        this.denied = denied;
        this.notice = byId(`${name}-notice`);
        this.content = byId(`${name}-content`);
        this.said = "Not read yet.";
        this.isDenied = false;
        // Before the first answer nothing is known, which is not the same as nothing being there.
        this.isRead = false;
    }

    read() {
        this.isRead = true;
        this.isDenied = false;
        this.say(null, "", []);
        if (this.content) show(this.content, true);
    }

    refused(error) {
        this.isDenied = error.isAboutKeys;
        // What was read before is old; what a key may not see is gone.
        if (this.content && this.isDenied) show(this.content, false);
        const content = described(error, this.isDenied ? this.denied : "Could not be read");
        this.say(`${error.status} ${error.title} ${error.message}`, this.isDenied ? "none" : "fail", content);
    }

    say(what, state, content) {
        if (this.said === what) return;
        this.said = what;
        this.notice.className = `notice ${state}`;
        this.notice.replaceChildren(...content.filter((part) => part !== null));
        show(this.notice, what !== null);
    }
}

// Runs what a button asks for, once at a time, and reports what goes wrong.
export async function act(button, doing, action) {
    // Not `disabled`: that would lose the focus.
    if (button.getAttribute("aria-disabled") === "true") return;
    button.setAttribute("aria-disabled", "true");
    try {
        await action();
    } catch (error) {
        report(error, doing);
    } finally {
        button.removeAttribute("aria-disabled");
    }
}
