// The operations page: one round of questions every few seconds while it is looked at, one question at a time. Jobs that
// run are followed by their events beside that (jobs.js).

import { byId, freshenTimes, setText, show, showModal } from "./elements.js";
import { backups, drawLine } from "./backups.js";
import { collections } from "./collections.js";
import { health } from "./health.js";
import { jobs, onEnd, tick as tickJobs } from "./jobs.js";
import { report } from "./messages.js";
import { NoAnswer, Problem, connection, useKey } from "./service.js";
import { age, ago } from "./units.js";

const PAUSE_MS = 4_000;
// Where a round takes long, the service has more to do: this many times as long it is left alone.
const REST_FACTOR = 5;
const FIRST_RETRY_MS = 1_000,
    LAST_RETRY_MS = 15_000;
// What a key may not see is asked again seldom: keys can be changed while the page is open.
const DENIED_PAUSE_MS = 60_000;
// A request that waits longer than this is said to.
const SLOW_MS = 5_000;

const PARTS = [health, jobs, backups, collections];
let resume = null,
    isWanted = false,
    failures = 0,
    askingSince = null,
    wasSilent = false;

async function run() {
    for (;;) {
        if (document.visibilityState === "hidden") await woken(null);
        const pauseMs = await round();
        await woken(pauseMs);
    }
}

// Returns after the time, or earlier when something calls for a round; null: only then.
async function woken(pauseMs) {
    if (!isWanted) {
        await new Promise((resolve) => {
            resume = resolve;
            if (pauseMs !== null) setTimeout(resolve, pauseMs);
        });
    }
    [resume, isWanted] = [null, false];
}

// Also where a round is under way: what called for it may have come too late for that one.
function wake() {
    isWanted = true;
    resume?.();
}

// Asks for every part that is due; the pause until the next round.
async function round() {
    const began = Date.now();
    let failed = false,
        bidMs = 0;
    for (const part of PARTS) {
        const isDenied = part.section.isDenied && Date.now() - part.deniedAt < DENIED_PAUSE_MS;
        if (isDenied || !part.isDue()) continue;
        askingSince = Date.now();
        try {
            await part.refresh();
        } catch (error) {
            failed ||= !error.isAboutKeys;
            if (error instanceof NoAnswer) break;
            if (!(error instanceof Problem)) {
                report(error);
                continue;
            }
            part.section.refused(error);
            part.deniedAt = Date.now();
            bidMs = Math.max(bidMs, error.retryAfterMs);
            if (error.isAboutKeys) show(byId("other-key"), true);
        } finally {
            askingSince = null;
            showConnection();
        }
    }
    failures = failed ? failures + 1 : 0;
    const retryMs = failed ? Math.min(LAST_RETRY_MS, FIRST_RETRY_MS * 2 ** (failures - 1)) : 0;
    const restMs = failed ? 0 : Math.max(PAUSE_MS, (Date.now() - began) * REST_FACTOR);
    return Math.max(bidMs, retryMs, restMs);
}

// A silent service is said once to those who listen, and counted in seconds for those who look.
function showConnection() {
    const { silent, answeredAt } = connection;
    const waits = askingSince !== null && Date.now() - askingSince > SLOW_MS;
    show(byId("lost"), silent || waits);
    if (silent || waits) {
        setText(byId("lost-what"), silent ? "The service does not answer." : "The service is slow to answer.");
        setText(
            byId("lost-since"),
            `No answer since ${age(Date.now() - answeredAt)}. What is shown is from before; it is asked again by itself.`,
        );
    }
    document.body.classList.toggle("stale", silent);
    setText(byId("freshness"), silent ? "" : `answered ${ago(Date.now() - answeredAt)}`);
    // It may have been another one that was started again: everything is asked for anew.
    if (wasSilent && !silent) PARTS.forEach((part) => part.forget?.());
    wasSilent = silent;
}

function tick() {
    if (document.visibilityState === "hidden") return;
    freshenTimes();
    showConnection();
    tickJobs();
}

function takeKey(event) {
    event.preventDefault();
    const input = byId("key-input");
    useKey(input.value.trim());
    input.value = "";
    byId("key-dialog").close();
    for (const part of PARTS) {
        part.section.isDenied = false;
        part.forget?.();
    }
    show(byId("other-key"), true);
    wake();
}

function askForKey() {
    showModal(byId("key-dialog"), document.activeElement?.dataset?.focus);
}

setText(byId("instance"), location.host);
byId("key-form").addEventListener("submit", takeKey);
byId("key-dialog").addEventListener("close", () => {
    byId("key-input").value = "";
});
byId("key-cancel").addEventListener("click", () => byId("key-dialog").close());
byId("other-key").addEventListener("click", askForKey);
document.addEventListener("key-wanted", askForKey);
document.addEventListener("visibilitychange", () => {
    if (document.visibilityState === "visible") wake();
});
// What a job has changed is shown at once.
onEnd(() => wake());
setInterval(tick, 1_000);
drawLine();
run();
