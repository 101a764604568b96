// Numbers and times as people read them, always with their unit; collections in the order that people look for them in. Times are UTC.

const GROUPED = new Intl.NumberFormat("en");
const SIZES = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
const SECOND = 1_000,
    MINUTE = 60 * SECOND,
    HOUR = 60 * MINUTE,
    DAY = 24 * HOUR;

export function count(number) {
    return GROUPED.format(number);
}

// `unit` in the plural: "1 record", "2 queries".
export function quantity(number, unit) {
    return `${count(number)} ${number === 1 ? unit.replace(/ies$/, "y").replace(/s$/, "") : unit}`;
}

export function bytes(size) {
    let step = 0;
    while (size >= 1024 && step < SIZES.length - 1) {
        size /= 1024;
        step += 1;
    }
    const digits = step === 0 || size >= 100 ? 0 : size >= 10 ? 1 : 2;
    return `${size.toFixed(digits)} ${SIZES[step]}`;
}

// For an axis, where sizes are round.
export function roundBytes(size) {
    return bytes(size).replace(/\.0+ /, " ");
}

export function duration(ms) {
    const whole = (part, of) => Math.floor((ms % of) / part);
    if (ms < SECOND) return `${Math.round(ms)} ms`;
    if (ms < MINUTE) return `${(ms / SECOND).toFixed(ms < 10 * SECOND ? 1 : 0)} s`;
    if (ms < HOUR) return `${whole(MINUTE, HOUR)} min ${whole(SECOND, MINUTE)} s`;
    if (ms < 2 * DAY) return `${Math.floor(ms / HOUR)} h ${whole(MINUTE, HOUR)} min`;
    return `${Math.floor(ms / DAY)} d ${whole(HOUR, DAY)} h`;
}

// One unit is enough for what has passed.
export function age(ms) {
    if (ms < MINUTE) return `${Math.max(0, Math.round(ms / SECOND))} s`;
    if (ms < 2 * HOUR) return `${Math.floor(ms / MINUTE)} min`;
    if (ms < 2 * DAY) return `${Math.floor(ms / HOUR)} h`;
    return `${Math.floor(ms / DAY)} d`;
}

export function ago(ms) {
    return ms < 2 * SECOND ? "just now" : `${age(ms)} ago`;
}

export function utc(moment) {
    const date = new Date(moment);
    return Number.isNaN(date.valueOf()) ? String(moment) : `${date.toISOString().slice(0, 19).replace("T", " ")} UTC`;
}

export function clock(moment) {
    return `${new Date(moment).toISOString().slice(11, 19)} UTC`;
}

// The moments that a time axis names, with their text: the finest step that leaves at most `most` of them.
export function ticks(from, to, most) {
    const steps = [1, 2, 5, 10, 15, 30]
        .map((n) => n * MINUTE)
        .concat(
            [1, 2, 3, 6, 12].map((n) => n * HOUR),
            [DAY, 2 * DAY],
        );
    const step = steps.find((each) => (to - from) / each <= most);
    if (step) return marks(from, to, step, 0);
    // From the Monday that 1970-01-05 was.
    const weeks = [7, 14].map((n) => n * DAY).find((each) => (to - from) / each <= most);
    return weeks ? marks(from, to, weeks, 4 * DAY) : months(from, to, most);
}

function marks(from, to, step, origin) {
    const found = [];
    for (let at = Math.ceil((from - origin) / step) * step + origin; at <= to; at += step) {
        const text = new Date(at).toISOString();
        // At midnight the day is what one wants to know.
        found.push({ at, text: at % DAY === 0 ? day(at) : text.slice(11, 16) });
    }
    return found;
}

function months(from, to, most) {
    const first = new Date(from),
        span = (to - from) / (30.4 * DAY);
    const step = [1, 3, 6, 12, 24, 60].find((each) => span / each <= most) ?? 120;
    const found = [];
    for (let month = 0; ; month += step) {
        const at = Date.UTC(first.getUTCFullYear(), Math.floor(first.getUTCMonth() / step) * step + month);
        if (at > to) return found;
        if (at >= from) found.push({ at, text: new Date(at).toISOString().slice(0, 7) });
    }
}

function day(at) {
    return new Intl.DateTimeFormat("en", { timeZone: "UTC", month: "short", day: "numeric" }).format(at);
}

export function nameOf({ tenant, database, name }) {
    return JSON.stringify([tenant, database, name]);
}

// By tenant, database and name; a backup has them by id.
export function inOrder(collections) {
    return [...collections].sort((a, b) => (nameOf(a) < nameOf(b) ? -1 : 1));
}
