// Asks the service: with the key that was typed, never longer than a bound, and with errors that say what the service said.

// The key typed into this page. Kept in this variable and nowhere else; without one the browser's own is sent.
let key = null;
// What the service's clock is ahead of this one: ages are told by the service's.
let skewMs = 0;

const PATIENCE_MS = 20_000;
// The service sends a comment every 15 s where nothing happens.
const SILENT_STREAM_MS = 40_000;

// When an answer came last, and whether the last request had none.
export const connection = { answeredAt: Date.now(), silent: false };

export function now() {
    return Date.now() + skewMs;
}

export function useKey(typed) {
    key = typed;
}

// An answer that is an error: what its problem says.
export class Problem extends Error {
    constructor(response, body) {
        super(body?.detail ?? body?.message ?? `The answer was ${response.status} ${response.statusText}`);
        this.status = response.status;
        this.title = body?.title ?? `Status ${response.status}`;
        this.requestId = body?.request_id ?? response.headers.get("x-request-id");
        this.retryAfterMs = retryAfter(response);
    }

    get isAboutKeys() {
        return this.status === 401 || this.status === 403;
    }
}

// No answer at all, or none in time.
export class NoAnswer extends Error {
    constructor(method, path, patienceMs) {
        super(
            patienceMs
                ? `${method} ${path}: no answer within ${patienceMs / 1_000} s.`
                : `${method} ${path}: the service was not reached.`,
        );
    }
}

function retryAfter(response) {
    const text = response.headers.get("retry-after");
    if (!text) return 0;
    const seconds = Number(text);
    const ms = Number.isFinite(seconds) ? seconds * 1_000 : Date.parse(text) - now();
    return Number.isFinite(ms) ? Math.max(0, ms) : 0;
}

function heard(response) {
    connection.silent = false;
    connection.answeredAt = Date.now();
    const ahead = Date.parse(response.headers.get("date")) - Date.now();
    // Its Date has whole seconds.
    if (Number.isFinite(ahead)) skewMs = Math.abs(ahead) > 2_000 ? ahead : 0;
}

function options(method, headers, signal) {
    if (key !== null) headers.authorization = `Bearer ${key}`;
    return {
        method,
        headers,
        signal,
        cache: "no-store",
        redirect: "error",
        credentials: key === null ? "same-origin" : "omit",
    };
}

// The answer's JSON. A report of failing health is an answer, whatever its status.
export async function ask(method, path, { body, idempotencyKey, patienceMs = PATIENCE_MS } = {}) {
    const headers = { accept: "application/json" };
    if (body !== undefined) headers["content-type"] = "application/json";
    if (idempotencyKey) headers["idempotency-key"] = idempotencyKey;
    let response, text;
    try {
        const content = body === undefined ? undefined : JSON.stringify(body);
        response = await fetch(`.${path}`, { ...options(method, headers, AbortSignal.timeout(patienceMs)), body: content });
        text = await response.text();
    } catch (error) {
        connection.silent = true;
        throw new NoAnswer(method, path, error.name === "TimeoutError" ? patienceMs : 0);
    }
    heard(response);
    return understood(response, text);
}

function understood(response, text) {
    let body = null;
    try {
        body = JSON.parse(text);
    } catch {
        // A proxy's own page, for instance.
    }
    const isHealth = (response.headers.get("content-type") ?? "").startsWith("application/health+json");
    if (body === null || !(response.ok || isHealth)) throw new Problem(response, body);
    return body;
}

// Server-sent events, as they come: [name, data]. Ends with the stream; throws where there is none.
export async function* events(path, signal) {
    const silence = new AbortController();
    const either = AbortSignal.any([signal, silence.signal]);
    let timer = setTimeout(() => silence.abort(), SILENT_STREAM_MS);
    try {
        const response = await fetch(`.${path}`, options("GET", { accept: "text/event-stream" }, either));
        heard(response);
        if (!response.ok) understood(response, await response.text());
        const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
        for (let rest = ""; ;) {
            const { done, value } = await reader.read();
            if (done) return;
            clearTimeout(timer);
            timer = setTimeout(() => silence.abort(), SILENT_STREAM_MS);
            const blocks = (rest + value).split("\n\n");
            rest = blocks.pop();
            yield* blocks.map(event).filter((found) => found !== null);
        }
    } finally {
        clearTimeout(timer);
    }
}

function event(block) {
    let name = "message";
    const data = [];
    for (const line of block.split("\n")) {
        const [, field, value] = /^([^:]*):? ?(.*)$/.exec(line);
        if (field === "event") name = value;
        else if (field === "data") data.push(value);
    }
    return data.length > 0 ? [name, JSON.parse(data.join("\n"))] : null;
}

// A name for one request, so that sending it again does nothing twice. (crypto.randomUUID is there with TLS only.)
export function newIdempotencyKey() {
    const random = crypto.getRandomValues(new Uint8Array(16));
    return `page-${Array.from(random, (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}
