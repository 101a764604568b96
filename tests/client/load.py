#!/usr/bin/env python3
"""load.py BINARY [--seconds N] [--connections N] [--idle N] [--slow N] [--only mixed|slow] [--config FILE] [--fail-over-ms N]

Starts the service with temporary directories and shows that it stays right and answers while many use it:

 * mixed load: connections that upsert, add, delete, get and query in several collections, a backup every few seconds,
   while another process asks for /health, /health/live and /health/ready on kept and on fresh connections. Every answer
   is compared with what the client has written; no answer may be an error and no connection may be cut. Afterwards
   every record is read back, /health/collections must pass, and every backup must verify
 * memory does not grow: the live data is the same all the time
 * slow clients: requests whose headers or bodies come a byte a second, and connections that say nothing, are held while
   ordinary clients ask. These must all be served. What server.header_timeout_ms and server.body_timeout_ms bound must
   be cut off, and more silent connections than server.max_connections must not keep new ones out; without such
   settings the script only says what happened

The clients are one process without threads; the table says how much of a core it took. Where that is near 100 %, the
latencies of the mixed load are as much the clients' as the service's; those of /health are taken in a process of
their own. A probe of each kind is sent every 20 ms, unless the one before it is still out.

Nothing is asserted about timings unless --fail-over-ms gives a limit for the p99 of each kind. Needs psutil. Prints
tables; exits 1 if anything is wrong.
"""

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import resource
import sys
import tempfile
import time
import tomllib
from pathlib import Path

import psutil

from callers import (ANSWER_SECONDS, COLLECTIONS, COMMON, HEADS, IDLE, SLOW_BODIES, SLOW_HEADERS, WRONG, Client, Connection, Crowd, Service,
                     Tally, clients_of, compare, load_all, show)
from processes import START_SECONDS, Failed, equal, expect

CONFIG = Path(__file__).resolve().parents[2] / "config.toml"
PROBES, PROBE_PAUSE, SAMPLE_PAUSE = ("/health", "/health/live", "/health/ready"), 0.02, 0.25
# What the memory may grow by: allocators keep what they once had, the store's cache fills, and clients come in waves.
GROWTH, GROWTH_BYTES = 1.5, 64 << 20
# Ordinary clients beside slow ones; each second one opens a connection per request.
ORDINARY = 20
# Bounds on slow requests for this run, where the configuration has them: nobody wants to wait for the real ones.
SLOW_BOUNDS = {"header_timeout_ms": 3_000, "body_timeout_ms": 3_000}
BOUND_BY = {IDLE: "header_timeout_ms", SLOW_HEADERS: "header_timeout_ms", SLOW_BODIES: "body_timeout_ms"}
# How much longer than its bound a slow request may last on a busy machine.
PATIENCE_SECONDS = 30


# ---------------- mixed load


def watch(port: int, pid: int, stop, results) -> None:
    """A process of its own: asks for health, and looks at the service's memory."""
    tally, memory, service = Tally(), [], psutil.Process(pid)

    async def probe(path: str, fresh: bool) -> None:
        connection, kind = Connection(port), f"{path}, {'fresh' if fresh else 'kept'}"
        while not stop.is_set():
            began = time.perf_counter()
            try:
                status, _, answer = await connection.send("GET", path)
                tally.note(kind, status, began)
                equal((status, json.loads(answer)["status"] in ("pass", "warn")), (200, True), f"{kind}: {answer[:300]}")
            except WRONG as error:
                tally.wrong(kind, error)
                connection.close()
            if fresh:
                connection.close()
            await asyncio.sleep(max(0.0, PROBE_PAUSE - (time.perf_counter() - began)))

    async def sample() -> None:
        while not stop.is_set():
            memory.append((time.monotonic(), service.memory_info().rss))
            await asyncio.sleep(SAMPLE_PAUSE)

    async def everything() -> None:
        await asyncio.gather(sample(), *(probe(path, fresh) for path in PROBES for fresh in (False, True)))

    asyncio.run(everything())
    results.send((tally, memory))


async def back_up(service: Service, tally: Tally, over, pause: float) -> None:
    connection = Connection(service.port)
    try:
        while not over():
            began = time.perf_counter()
            status, _, answer = await connection.send("POST", "/backups?wait=true", b"{}")
            tally.note("backup", status, began)
            equal((status, json.loads(answer)["state"]), (201, "succeeded"), f"a backup ({answer[:300]})")
            await asyncio.sleep(pause)
    except WRONG as error:
        tally.wrong("backup", error)
    connection.close()


async def everybody(service: Service, clients: list[Client], seconds: float, pause: float) -> None:
    over = lambda end=time.monotonic() + seconds: time.monotonic() > end
    await asyncio.gather(back_up(service, clients[0].tally, over, pause), *(client.run(over) for client in clients))


def used_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def mixed_load(binary: Path, home: Path, arguments, limits: dict) -> None:
    service, tally = Service(binary, home), Tally()
    running, itself = service.start(), psutil.Process()
    # Two more for the backup and a probe of each kind.
    may_refuse = arguments.connections + 2 + 2 * len(PROBES) > limits["max_concurrent_requests"]
    try:
        collections, clients = clients_of(service, arguments.connections, tally, may_refuse=may_refuse)
        asyncio.run(load_all(clients))
        tally.seconds.clear(), tally.statuses.clear()
        with watched(service, running.pid) as outcome:
            began, used = time.monotonic(), (used_seconds(itself), used_seconds(running))
            asyncio.run(everybody(service, clients, arguments.seconds, min(3.0, arguments.seconds / 5)))
            took = time.monotonic() - began
            shares = [(used_seconds(one) - before) / took for one, before in zip((itself, running), used)]
        probes, memory = outcome
        rate = sum(map(len, tally.seconds.values())) / took
        show(f"{arguments.connections} connections, {took:.0f} s, {rate:,.0f} requests/s; of a core: clients {shares[0]:.0%}, "
             f"service {shares[1]:.0%}", HEADS, tally.rows(took) + probes.rows(took))
        check_end(service, collections, clients, tally, probes)
        check_memory(memory, began, took)
        for each in (tally, probes):
            each.check_limit(arguments.fail_over_ms)
    except Failed as error:
        raise Failed(f"{error}\nThe service's last lines:\n{service.tail()}") from error
    finally:
        service.stop()


@contextlib.contextmanager
def watched(service: Service, pid: int):
    """Probes beside what is done here; their tally and the memory afterwards."""
    context, outcome = multiprocessing.get_context("spawn"), []
    stop, (results, sender) = context.Event(), context.Pipe(duplex=False)
    beside = context.Process(target=watch, args=(service.port, pid, stop, sender), daemon=True)
    beside.start()
    try:
        yield outcome
    finally:
        stop.set()
        # This end would keep the pipe open if that process breaks off.
        sender.close()
        with contextlib.suppress(EOFError):
            if results.poll(2 * ANSWER_SECONDS):
                outcome.extend(results.recv())
        beside.join(START_SECONDS)
    expect(outcome, "the process that asks for health ended without a result")


def check_end(service: Service, collections: list[str], clients: list[Client], tally: Tally, probes: Tally) -> None:
    errors = tally.errors + probes.errors
    expect(not errors, f"{len(errors)} errors: {errors[:10]}")
    wanted = [{identity: client.record(identity) for client in clients[number::COLLECTIONS] for identity in client.content}
              for number in range(COLLECTIONS)]
    for collection, content in zip(collections, wanted):
        compare(service.stored(collection), content, collection)
    total = sum(map(len, wanted))
    equal(service.call("GET", "/health/collections")["status"], "pass", "/health/collections")
    last = service.call("POST", "/backups?wait=true", {}, 201)["result"]
    equal(last["records"], total, "records of a last backup")
    page = service.call("GET", "/backups?limit=1000")
    equal(page["damaged"], {}, "damaged backups")
    for backup in page["backups"]:
        found = service.call("POST", f"/backups/{backup['id']}/verify?wait=true", {})["result"]
        equal((found["ok"], found["checked_records"] >= backup["records"]), (True, True), f"verification of {backup['id']}: {found}")
    used = service.call("GET", "/health/storage")["checks"]["storage:used"][0]["observed_value"]
    print(f"{total} records are as they were written; {len(page['backups'])} backups verified; {tally.refused} requests refused with "
          f"Retry-After; the store takes {used / 2**20:,.0f} MiB", flush=True)


def check_memory(memory: list[tuple], began: float, took: float) -> None:
    during = [size for at, size in memory if began <= at <= began + took]
    expect(len(during) >= 5, f"the memory was looked at {len(during)} times only")
    warm, end = during[len(during) // 5], during[-1]
    print("memory: {:.0f} MiB after a fifth of the time, {:.0f} MiB at the end, at most {:.0f} MiB".format(
        *(size / 2**20 for size in (warm, end, max(during)))), flush=True)
    expect(end <= GROWTH * warm + GROWTH_BYTES, f"the memory grew from {warm} to {end} bytes with the same live data")


# ---------------- slow clients


async def ordinary(clients: list[Client], over) -> float:
    began = time.monotonic()
    await asyncio.gather(*(client.run(over) for client in clients))
    return time.monotonic() - began


async def beside_slow(service: Service, arguments, bounds: dict, clients: list[Client], tallies: tuple[Tally, Tally]) -> list[float]:
    """First alone, then with the crowd, until all that is bounded is cut off; how long each took."""
    alone, beside = tallies
    hold = max(3.0, arguments.seconds / 2)
    use(clients, alone)
    first = await ordinary(clients, lambda end=time.monotonic() + hold / 2: time.monotonic() > end)
    crowd, path = Crowd(service.port), clients[0].path
    head = f"POST {path}/get HTTP/1.1\r\n{COMMON}"
    try:
        await crowd.connect(IDLE, arguments.idle)
        await crowd.connect(SLOW_HEADERS, arguments.slow, f"{head}x-slow: ".encode())
        await crowd.connect(SLOW_BODIES, arguments.slow, f'{head}content-length: 10000\r\n\r\n{{"ids": ["'.encode())
        use(clients, beside)
        began = time.monotonic()
        kinds = [kind for kind, key in BOUND_BY.items() if key in bounds]
        latest = max([hold, *(bound / 1000 + PATIENCE_SECONDS for bound in bounds.values())])
        over = lambda: (now := time.monotonic() - began) > latest or now > hold and not crowd.left(*kinds)
        dripping = asyncio.create_task(crowd.drip(over))
        second = await ordinary(clients, over)
        await dripping
        for kind in BOUND_BY:
            print(crowd.report(kind, time.monotonic() - began), flush=True)
        for kind in kinds:
            equal(crowd.left(kind), 0, f"{kind} that were not cut off by {bounds}")
    finally:
        crowd.close()
    return [first, second]


def use(clients: list[Client], tally: Tally) -> None:
    for client in clients:
        client.tally = tally


def slow_clients(binary: Path, home: Path, arguments, limits: dict) -> None:
    bounds = {key: bound for key, bound in SLOW_BOUNDS.items() if key in limits}
    service = Service(binary, home, **{f"SERVER__{key.upper()}": bound for key, bound in bounds.items()})
    tallies = Tally(), Tally()
    service.start()
    try:
        collections, clients = clients_of(service, ORDINARY, tallies[0])
        asyncio.run(load_all(clients))
        tallies[0].seconds.clear(), tallies[0].statuses.clear()
        for client in clients[::2]:
            client.fresh = True
        print(f"\n{arguments.idle} connections that say nothing, {arguments.slow} with slow headers, {arguments.slow} with slow bodies; "
              f"bounds {bounds or 'none'}", flush=True)
        times = asyncio.run(beside_slow(service, arguments, bounds, clients, tallies))
        for title, tally, took in zip(("ordinary clients alone", "the same beside slow ones"), tallies, times):
            show(f"{title}: {ORDINARY}, every other with a connection per request; {took:.0f} s", HEADS, tally.rows(took))
            expect(not tally.errors, f"{title}: {len(tally.errors)} errors: {tally.errors[:10]}")
            tally.check_limit(arguments.fail_over_ms)
        for number, collection in enumerate(collections):
            wanted = {identity: client.record(identity) for client in clients[number::COLLECTIONS] for identity in client.content}
            compare(service.stored(collection), wanted, collection)
    except Failed as error:
        raise Failed(f"{error}\nThe service's last lines:\n{service.tail()}") from error
    finally:
        service.stop()


def too_many(binary: Path, home: Path) -> None:
    """Far more silent connections than the service takes: who asks now and then keeps its connection, who is new is served."""
    service, silent = Service(binary, home, SERVER__MAX_CONNECTIONS=ORDINARY), 10 * ORDINARY
    service.start()

    async def ask(connection: Connection) -> None:
        equal((await connection.send("GET", "/api/v2/heartbeat"))[0], 200, "status of a heartbeat")

    async def everybody() -> None:
        crowd, kept = Crowd(service.port), Connection(service.port)
        for _ in range(0, silent, ORDINARY // 4):
            await ask(kept)
            await crowd.connect(IDLE, ORDINARY // 4)
            new = Connection(service.port)
            await ask(new)
            new.close()
        await ask(kept)
        kept.close()
        crowd.close()

    try:
        asyncio.run(everybody())
        print(f"\n{silent} silent connections where {ORDINARY} are taken: new ones were served, and one that asked now and then "
              "was kept", flush=True)
    except WRONG as error:
        raise Failed(f"beside {silent} silent connections where {ORDINARY} are taken: {error!r}\n{service.tail()}") from error
    finally:
        service.stop()


def room_for(connections: int) -> None:
    """Open files for this process and for the service, which inherits the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = connections + 1_000
    if soft < needed:
        expect(hard >= needed, f"{needed} open files are needed, and the limit is {hard} (ulimit -n)")
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", type=Path)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--connections", type=int, default=200)
    parser.add_argument("--idle", type=int, default=10_000)
    parser.add_argument("--slow", type=int, default=200)
    parser.add_argument("--fail-over-ms", type=float, help="fails where the p99 of any kind is longer; for use by hand")
    parser.add_argument("--only", choices=["mixed", "slow"])
    parser.add_argument("--config", type=Path, default=CONFIG, help="the baseline that the binary was built with")
    arguments = parser.parse_args()
    limits, binary = tomllib.loads(arguments.config.read_text())["server"], arguments.binary.resolve()
    try:
        room_for(max(arguments.connections, arguments.idle + 2 * arguments.slow))
        with tempfile.TemporaryDirectory(prefix="load-") as temporary:
            homes = [Path(temporary) / name for name in ("mixed", "slow", "many")]
            for home in homes:
                home.mkdir()
            if arguments.only != "slow":
                mixed_load(binary, homes[0], arguments, limits)
            if arguments.only != "mixed":
                slow_clients(binary, homes[1], arguments, limits)
                if "max_connections" in limits:
                    too_many(binary, homes[2])
    except Failed as error:
        print(f"FAIL: {error}", file=sys.stderr)
        return 1
    print("load: all as it must be")
    return 0


if __name__ == "__main__":
    sys.exit(main())
