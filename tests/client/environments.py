#!/usr/bin/env python3
"""environments.py BINARY --data DIR [--records N] [--only PART]... [--chroma PATH]

Shows that collections migrate between the service, a second one and Chroma's own server. Every collection is compared
record by record, as each server answers, with what was written; DIR has wordnet_20k.jsonl.zst.

 environments  what is configured, what of it is reachable; each token goes to its remote and nowhere else
 round_trip    there and back through every kind, and from remote to remote, beside a plain loop through the client
 policies      a target that exists: refused, skipped, renamed, replaced, merged, as the plan said
 losses        what Chroma's server cannot hold is named and refused, and only lost where that is asked for
 writers       a source that is written to meanwhile: the copy is one state of it
 kills         each server killed in the middle: no half is seen, the same request goes on
 faults        a network that loses, repeats and cuts: whole, or failed with a reason
 refusals      what is refused at once

Prints what was checked; exits 1 at the first thing that is wrong.
"""

import argparse
import contextlib
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import chromadb
from chromadb.config import Settings

from contents import Record, articles, as_chroma_keeps, as_text, exact_under_cosine, same_content, samples
from copies import COUNTS, check_refusal, end, migrated, no_staging, planned, request, same_counts
from interruptions import check_faults, check_kills, check_writers
from peers import EVERYTHING, PAGE, TOKENS, Chroma, Vectorkeep, World
from processes import Failed, equal, expect
from subject import searched

SHARED = 100
PLANNED = ("insert", "update", "unchanged", "delete", "skip")


# ---------------- what is configured


def check_environments(world: World) -> None:
    """With a log that says everything."""
    service = Vectorkeep(world.binary, world.home, "traced", LOG__LEVEL="trace")
    service.configure(world.environments)
    with contextlib.ExitStack() as running:
        running.callback(service.stop)
        service.start()
        began = time.monotonic()
        listed = service.call("GET", "/environments")
        took = time.monotonic() - began
        equal(listed[0]["name"], "local", "the first environment")
        equal((listed[0]["kind"], listed[0]["reachable"]), ("local", True), "the service itself")
        equal({each["name"] for each in listed}, {"local", *world.environments}, "names of environments")
        equal(len(listed), 1 + len(world.environments), "environments")
        for each in listed[1:]:
            members = {name: each[name] for name in ("kind", "url")}
            wanted = {name: world.environments[each["name"]][name] for name in members}
            equal({name: value.rstrip("/") for name, value in members.items()}, wanted, each["name"])
            alive = each["name"] != "dead"
            equal(each["reachable"], alive, f"{each['name']} is reachable")
            expect(not alive or each["version"], f"{each['name']}: version {each['version']!r}")
        content = samples("tokens", [f"t{number}" for number in range(50)])
        service.make("tokens", content)
        expect(world.proxy.tokens[TOKENS["bearer"]] and world.proxy.tokens[TOKENS["header"]], "both tokens were sent")
        for place in ("bearer", "faulty"):
            before = world.proxy.tokens.copy()
            migrated(service, request(("local", "tokens"), (place, f"tokens-{place}")), "created")
            world.same(place, f"tokens-{place}", content)
            sent = world.proxy.tokens - before
            equal(list(sent), [TOKENS["bearer" if place == "bearer" else "header"]], f"tokens sent to {place}")
        for end_of in ("source", "target"):
            ends = [("local", "tokens"), ("dead", "tokens")]
            body = request(*(ends if end_of == "target" else [ends[1], ("local", "from-dead")]))
            status, problem = service.send("POST", "/migrate?wait=true", body)
            check_refusal(status, problem, 502, f"a dead {end_of}")
        expect("from-dead" not in service.listed(), "nothing is made of a dead source")
        service.finish()
    print(f"environments: {len(listed)} listed in {took:.1f} s, 1 dead; {sum(world.proxy.tokens.values())} requests with the right "
          f"token of 2; none in {searched['answers']} answers and {searched['lines']} lines of a trace", flush=True)


# ---------------- there and back


def check_round_trip(world: World) -> None:
    content, service, chroma = world.articles(), world.service, world.chroma
    definition, digests, speeds = service.definition("articles"), set(), []
    trips = ((("local", "articles"), ("chroma", "articles")), (("chroma", "articles"), ("local", "articles-back")),
             (("chroma", "articles"), ("second", "articles")), (("second", "articles"), ("local", "articles-again")))
    for source, target in trips:
        result = migrated(service, request(source, target), "created")
        equal((result["source"], result["target"]), (end(*source), end(*target)), "both ends")
        counts = {done: result[done] for _, done in COUNTS}
        equal(counts, {"inserted": len(content), "updated": 0, "unchanged": 0, "skipped": 0}, f"counts of {source} to {target}")
        equal((result["read"], result["resumed"]), (len(content), False), "read, and begun anew")
        world.same(*target, content)
        equal(world.server(target[0]).definition(target[1]), definition, f"definition of {target}")
        digests |= {result["source_digest"], result["target_digest"]}
        speeds.append(f"{source[0]} to {target[0]} {result['records_per_second']:.0f}/s")
    equal(len(digests), 1, f"different digests: {digests}")
    no_staging(service, chroma, world.second)
    speeds.append(f"a loop through the client, chroma to chroma, compares nothing {plain_loop(chroma, content):.0f}/s")
    print(f"round trip of {len(content)} records, one digest, equal in all: {'; '.join(speeds)}", flush=True)
    check_cosine(world)


def plain_loop(chroma: Chroma, content: dict) -> float:
    client = chromadb.HttpClient("127.0.0.1", chroma.port, settings=Settings(anonymized_telemetry=False))
    began = time.monotonic()
    source = client.get_collection("articles")
    target = client.create_collection("looped", metadata=source.metadata, configuration={"hnsw": {"space": "ip"}}, embedding_function=None)
    for offset in range(0, source.count(), PAGE):
        page = source.get(limit=PAGE, offset=offset, include=EVERYTHING)
        metadatas = [metadata or None for metadata in page["metadatas"]]
        target.upsert(page["ids"], page["embeddings"], metadatas, page["documents"], uris=page["uris"])
    took = time.monotonic() - began
    same_content(chroma.stored("looped"), content, "what a plain loop copied")
    chroma.drop("looped")
    return len(content) / took


def check_cosine(world: World) -> None:
    """Vectors that Chroma's server can hold under cosine go through it bit for bit."""
    content = exact_under_cosine("exact", samples("cosine", [f"ç{number}" for number in range(2_000)]))
    configuration = {"hnsw": {"space": "cosine", "ef_search": 123, "ef_construction": 150}, "embedding_function": {"type": "legacy"}}
    world.service.make("cosine", content, metadata={"only": 1}, configuration=configuration)
    definition, digests = world.service.definition("cosine"), set()
    places = ("local", "chroma", "second", "local")
    for step, (source, target) in enumerate(zip(places, places[1:])):
        name = "cosine" if target != "local" else "cosine-back"
        plan = planned(world.service, body := request((source, "cosine"), (target, name)), [world.server(target)])
        equal((plan["losses"], plan["records"], plan["insert"]), ([], len(content), len(content)), f"plan of step {step}")
        result = migrated(world.service, body, "created")
        same_counts(plan, result, f"cosine from {source} to {target}")
        world.same(target, name, content)
        equal(world.server(target).definition(name), definition, f"definition of {name} in {target}")
        digests |= {result["source_digest"], result["target_digest"]}
    equal(len(digests), 1, f"different digests: {digests}")
    print(f"cosine: {len(content)} records through {' to '.join(places)}, one digest", flush=True)


# ---------------- a target that exists


def both_sides() -> tuple[dict, dict]:
    """Source and target: a third the same on both, a third different, a third only in the source; more in the target."""
    same, different, fresh = ([f"p{number}" for number in range(start, start + SHARED)] for start in (0, SHARED, 2 * SHARED))
    source = samples("source", same + different + fresh)
    changed = samples("changed", different)
    bare, full = different[0], different[1]
    vector = source[bare].vector
    # What a winner lacks may not stay from the loser.
    source[bare] = Record(vector, None, None, "null")
    changed[bare] = Record(vector, "a document", "an uri", as_text({"more": [1, 2], "n": 1}))
    source[full] = Record(vector, "", "", as_text({"flips": [1, 2], "n": 1.0}))
    changed[full] = Record(vector, None, None, as_text({"flips": "scalar", "n": 1, "more": True}))
    target = samples("old", [f"old{number}" for number in range(SHARED // 2)]) | {each: source[each] for each in same} | changed
    return source, target


def check_policies(world: World) -> None:
    (source, target), before = both_sides(), set(world.chroma.listed())
    fresh = {identity: record for identity, record in source.items() if identity not in target}
    for origin, place in (("local", "chroma"), ("local", "second"), ("chroma", "local")):
        side = (origin, f"policies-{place}")
        configuration = {"hnsw": {"ef_search": 55}, "embedding_function": {"type": "legacy"}}
        world.server(origin).make(side[1], source, metadata={"side": "source"}, configuration=configuration)
        done = [check_fail(world, side, place, target)]
        for policy, more, action, wanted in (
            ("skip", {}, "skipped", target),
            ("rename", {}, "renamed", target),
            ("replace", {}, "replaced", source),
            ("merge", {"merge_winner": "source"}, "merged", target | source),
            ("merge", {"merge_winner": "target"}, "merged", target | fresh),
        ):
            name = "-".join([policy, *more.values()])
            plan = check_policy(world, side, (place, name), source, target, wanted, {"on_conflict": policy} | more, action)
            done.append(f"{name} {'/'.join(str(plan[count]) for count in PLANNED)}")
        world.same(*side, source)
        no_staging(world.service, world.chroma, world.second)
        print(f"a target that exists in {place} ({len(source)} to {len(target)} records; {'/'.join(PLANNED)}): {', '.join(done)}",
              flush=True)
    check_nothing_left_behind(world, set(world.chroma.listed()) - before)


def check_fail(world: World, source: tuple, place: str, target: dict) -> str:
    server, body = world.server(place), request(source, (place, "fail"))
    server.make("fail", target, metadata={"side": "target"})
    definition, before = server.definition("fail"), server.listed()
    for more in ({}, {"on_conflict": "fail"}, {"dry_run": True}):
        status, problem = world.service.send("POST", "/migrate", body | more)
        check_refusal(status, problem, 409, f"fail in {place}")
        expect(problem["type"].endswith("/name-conflict"), f"fail in {place}: {problem}")
        equal(server.listed(), before, f"collections in {place} after a refusal")
    world.same(place, "fail", target)
    equal(server.definition("fail"), definition, f"definition in {place} after a refusal")
    return "fail 409"


def check_policy(world: World, source: tuple, place: tuple, brought: dict, target: dict, wanted: dict, policy: dict, action: str) -> dict:
    """The plan, which is what was done; then the content and definition of both names there may be."""
    server, body, name = world.server(place[0]), request(source, place, **policy), place[1]
    what = f"{name} in {place[0]}"
    server.make(name, target, metadata={"side": "target"})
    world.same(*place, target)
    definitions = {"source": world.server(source[0]).definition(source[1]), "target": server.definition(name)}
    plan = planned(world.service, body, [server, world.server(source[0])])
    equal(plan["losses"], [], f"losses of {what}")
    world.same(*place, target)
    result = migrated(world.service, body, action)
    same_counts(plan, result, what)
    check_counts(plan, len(brought), name, place[0])
    # A merge may have to write records anew where the server cannot take a part of one away.
    world.same(*place, wanted, ordered=action != "merged" or server is world.service)
    equal(server.definition(name), definitions["source" if action == "replaced" else "target"], f"definition after {what}")
    if action == "renamed":
        equal(result["target"]["collection"], f"{name}-migrated-1", "the free name")
        world.same(place[0], f"{name}-migrated-1", brought)
        equal(server.definition(f"{name}-migrated-1"), definitions["source"], f"definition after {what}")
    if action == "merged":
        copy = migrated(world.service, request(place, ("local", f"{name}-of-{place[0]}")))
        equal(copy["source_digest"], result["target_digest"], f"digest of {what}, and what another migration finds")
    return plan


def check_counts(plan: dict, records: int, name: str, place: str) -> None:
    third = records // 3
    wanted = {
        "skip": (0, 0, 0, 0, records),
        "rename": (records, 0, 0, 0, 0),
        "replace": (third, third, third, SHARED // 2, 0),
        "merge-source": (third, third, third, 0, 0),
        "merge-target": (third, 0, third, 0, third),
    }[name]
    equal((*(plan[count] for count in PLANNED), plan["records"]), (*wanted, records), f"{', '.join(PLANNED)} of {name} in {place}")
    expect(not plan["gap"] or name not in ("skip", "rename"), f"{name} in {place} has no gap")
    expect(plan["gap"] or (name, place) != ("replace", "chroma"), f"{name} in {place} has a gap: it deletes, then renames")


def check_nothing_left_behind(world: World, names: set[str]) -> None:
    """Collections with list metadata went from Chroma's server when they were replaced. It gives the places of their
    records to later ones once nothing stands behind them; those must have none of it."""
    for name in names:
        world.chroma.drop(name)
    content = {identity: record._replace(metadata=as_text({"n": len(identity)})) for identity, record in
               samples("plain", [f"plain{number}" for number in range(30 * SHARED)]).items()}
    world.service.make("plain", content)
    migrated(world.service, request(("local", "plain"), ("chroma", "plain")), "created")
    world.same("chroma", "plain", content)
    print(f"after the policies, {len(names)} collections dropped: {len(content)} new records in chroma have only their own metadata",
          flush=True)


# ---------------- what the target cannot hold


def check_losses(world: World) -> None:
    service, ids = world.service, [f"l{number}" for number in range(200)]
    content = samples("losses", ids)
    service.make("tagged", content, metadata={"tags": ["a", "b"], "n": 1})
    check_loss(world, "tagged", content, set())
    metadata = json.loads(world.chroma.definition("tagged"))[0]
    equal(metadata, {"n": 1}, "collection metadata without its list")
    plan = planned(service, body := request(("local", "tagged"), ("second", "tagged")), [world.second])
    equal(plan["losses"], [], "losses of list metadata where the target can hold it")
    migrated(service, body, "created")
    world.same("second", "tagged", content)
    equal(world.second.definition("tagged"), service.definition("tagged"), "definition with a list")

    chance = random.Random("losses")
    hidden = {identity: {"chroma:secret": "kept"} for identity in chance.sample(ids, 3)}
    zeros = ({"zero": -0.0}, {"zero": [-0.0, 1.5]}, {"zero": [2.0, -0.0]})
    signed = dict(zip(chance.sample(ids, 3), zeros))
    real = articles(world.data, min(world.records, 2_000))
    kept = as_chroma_keeps(real, cosine=True)
    cases = {"hidden": (with_metadata(content, hidden), set(hidden), "l2"), "signed": (with_metadata(content, signed), set(signed), "l2"),
             "turned": (real, {identity for identity in real if kept[identity] != real[identity]}, "cosine")}
    for name, (content, lost, space) in cases.items():
        service.make(name, content, configuration={"hnsw": {"space": space}})
        check_loss(world, name, content, lost, space == "cosine")
    no_staging(service, world.chroma)


def with_metadata(content: dict, more: dict[str, dict]) -> dict:
    return content | {identity: content[identity]._replace(metadata=as_text(content[identity].values | values))
                      for identity, values in more.items()}


def check_loss(world: World, name: str, content: dict, lost: set, cosine: bool = False) -> None:
    """`lost`: ids of records that Chroma's server changes; none where it is the collection's metadata."""
    service, chroma, body = world.service, world.chroma, request(("local", name), ("chroma", name))
    losses = planned(service, body, [service, chroma])["losses"]
    expect(losses and all(loss["what"] for loss in losses), f"losses of {name}: {losses}")
    if lost:
        named = [loss for loss in losses if loss["records"] == len(lost) and loss["examples"] and set(loss["examples"]) <= lost]
        expect(named, f"{name}: no loss of {len(lost)} records with examples such as {sorted(lost)[:3]} is named: {str(losses)[:600]}")
    before = chroma.listed()
    status, problem = service.send("POST", "/migrate?wait=true", body)
    check_refusal(status, problem, 422, f"{name} with losses")
    expect("allow_loss" in json.dumps(problem), f"{name}: the refusal says what allows it: {problem}")
    equal(chroma.listed(), before, f"collections in chroma after {name} was refused")
    result = migrated(service, body | {"allow_loss": True}, "created", lossless=False)
    expect(result["differences"] or result.get("losses"), f"{name}: the result says what was lost: {str(result)[:600]}")
    expect(set(result["differences"]) <= lost, f"{name}: differences {result['differences'][:5]}, {len(lost)} records differ")
    world.same("chroma", name, as_chroma_keeps(content, cosine))
    print(f"{name}: {'; '.join(loss['what'] for loss in losses)} ({len(lost)} of {len(content)} records): refused, then allowed; "
          f"verified {result['verified']}", flush=True)


# ---------------- what is refused at once


def check_refusals(world: World) -> None:
    service = world.service
    world.service.make("refused", samples("refused", ["one", "two", "three"]))
    good = request(("local", "refused"), ("second", "refused"))
    within = lambda part, **more: good | {part: good[part] | more}
    cases = (
        (404, "an unknown target", within("target", environment="elsewhere")),
        (404, "an unknown source", within("source", environment="elsewhere")),
        (404, "a URL as target", within("target", environment=f"http://127.0.0.1:{world.second.port}")),
        (404, "a URL as source", within("source", environment=f"http://127.0.0.1:{world.second.port}")),
        (404, "an unknown collection", within("source", collection="never-made")),
        (404, "an unknown collection in chroma", within("source", environment="chroma", collection="never-made")),
        (404, "an unknown collection in second", within("source", environment="second", collection="never-made")),
        (422, "the source as target", request(("local", "refused"), ("local", "refused"))),
        (422, "the source as target by name", within("target", environment="local")),
        (422, "the source as target in chroma", request(("chroma", "refused"), ("chroma", "refused"))),
        (422, "an unknown member", good | {"on_conflct": "skip"}),
        (422, "an unknown member of the target", within("target", url=f"http://127.0.0.1:{world.second.port}")),
        (422, "an unknown policy", good | {"on_conflict": "overwrite"}),
        (422, "an unknown winner", good | {"on_conflict": "merge", "merge_winner": "backup"}),
        (422, "a batch of none", good | {"batch_size": 0}),
        (422, "a name that cannot be", within("target", collection="no")),
        (422, "a name that cannot be, in chroma", within("target", environment="chroma", collection="..")),
    )
    servers = (service, world.chroma, world.second)
    # Not whole: a problem carries the id of the request that it is shown to.
    known = lambda: [(job["id"], job["state"]) for job in service.call("GET", "/jobs?limit=1000")["jobs"]]
    before, jobs = [server.listed() for server in servers], known()
    for wanted, what, body in cases:
        for path in ("/migrate", "/migrate?wait=true"):
            check_refusal(*service.send("POST", path, body), wanted, what)
    equal([server.listed() for server in servers], before, "collections after refusals")
    equal(known(), jobs, "jobs after refusals")
    print(f"refusals: {len(cases)} requests, no job and no collection of them", flush=True)


PARTS = {"environments": check_environments, "round_trip": check_round_trip, "policies": check_policies, "losses": check_losses,
         "writers": check_writers, "kills": check_kills, "faults": check_faults, "refusals": check_refusals}


def run(world: World, parts: list[str]) -> None:
    with contextlib.ExitStack() as running:
        for server in (world.proxy, *world.gates.values(), world.chroma, world.second, world.service):
            running.callback(server.stop)
        for server in (world.chroma, world.second, world.service):
            server.start()
        for part in parts:
            began = time.monotonic()
            PARTS[part](world)
            print(f"{part}: {time.monotonic() - began:.0f} s", flush=True)
        for server in (world.second, world.service):
            server.finish()
        print(f"no token in {searched['answers']} answers and {searched['lines']} lines of logs", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--records", type=int, default=20_000)
    parser.add_argument("--only", choices=PARTS, action="append")
    parser.add_argument("--chroma", default=shutil.which("chroma") or shutil.which("chroma", path=Path(sys.executable).parent))
    arguments = parser.parse_args()
    if not arguments.chroma:
        parser.error("there is no `chroma` on PATH: pip install chromadb, or say --chroma")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    with tempfile.TemporaryDirectory(prefix="environments-") as home:
        try:
            world = World(arguments.binary.resolve(), arguments.chroma, Path(home), arguments.data, arguments.records)
            run(world, [part for part in PARTS if not arguments.only or part in arguments.only])
        except Failed as failure:
            sys.exit(f"FAILED: {failure}")


if __name__ == "__main__":
    main()
