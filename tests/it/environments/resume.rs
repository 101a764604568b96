//! Migrations that break off: nothing is seen of them, and the same request goes on where it was.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use vectorkeep::model::record::Record;

use super::proxy::{Fate, Passing};
use super::{
    CHROMA, LOCAL, SECOND, World, assert_breaks_off, assert_exact, assert_same, migrate, migrated,
    request, unnamed_definition, visible,
};
use crate::harness::{Collection, DEFAULT_NAMESPACE, Service, digest, eventually, numbered};

const RECORDS: usize = 2_000;
const BATCH: usize = 50;
/// Batches that pass before it breaks off, at the earliest.
const PASSING: usize = 12;

async fn source(world: &World, environment: &str) -> (Collection, Vec<Record>) {
    let body = json!({"name": "source", "metadata": {"a": 1},
        "configuration": {"hnsw": {"space": "ip", "ef_search": 55}}});
    let http = world.at(environment);
    let source = http.create_in(DEFAULT_NAMESPACE, body).await;
    source.add(&numbered("r", RECORDS)).await;
    // The order is not that of the ids.
    source.delete(json!({"ids": ["r-00007", "r-01500"]})).await;
    source.add(&numbered("r", 8)[7..]).await;
    source.add(&numbered("r", 1_501)[1_500..]).await;
    let records = source.records().await;
    assert_eq!(records.len(), RECORDS);
    (source, records)
}

/// Whether a batch of records goes by: written over there, or read from there.
fn is_batch(passing: &Passing, source: &str) -> bool {
    if source == LOCAL {
        passing.is("upsert")
    } else {
        passing.reads_from(0)
    }
}

/// Lets so many batches pass and then nothing any more.
fn break_after(world: &World, source: &str, batches: usize, fate: Fate) {
    let passed = AtomicUsize::new(0);
    let source = source.to_owned();
    world.proxy.rule(move |passing| {
        let before = if is_batch(passing, &source) {
            passed.fetch_add(1, Ordering::SeqCst)
        } else {
            passed.load(Ordering::SeqCst)
        };
        if before < batches { Fate::Passes } else { fate }
    });
}

fn batches(world: &World, source: &str) -> usize {
    let seen = world.proxy.take_seen();
    let batches = seen.iter().filter(|passing| is_batch(passing, source));
    batches.count()
}

/// A service with a migration from another one that broke off in the middle: its checkpoint and its copy are there.
pub(crate) async fn with_broken_off_migration() -> Service {
    let world = World::start().await;
    let source = world.other.create("source").await;
    source.add(&numbered("r", 60)).await;
    let options = json!({"batch_size": 10});
    let body = request((SECOND, "source"), (LOCAL, "target"), options);
    break_after(&world, SECOND, 3, Fate::Cut);
    assert_breaks_off(&world, &body).await;
    world.local
}

/// Breaks off, restarts this service if asked to, and goes on.
async fn break_and_go_on(source_at: &str, target_at: &str, fate: Fate, restart: bool) {
    let context = format!("{source_at} to {target_at}, {fate:?}, restarted: {restart}");
    let mut world = World::start().await;
    let (original, records) = source(&world, source_at).await;
    let definition = unnamed_definition(&original).await;
    let body = request(
        (source_at, "source"),
        (target_at, "target"),
        json!({ "batch_size": BATCH }),
    );
    break_after(&world, source_at, PASSING, fate);
    world.proxy.take_seen();
    assert_breaks_off(&world, &body).await;
    let jobs = world.local.get("/jobs?kind=migration").await.ok(200);
    assert_eq!(jobs["jobs"][0]["state"], "failed", "{context}");
    assert!(batches(&world, source_at) > PASSING, "{context}");
    for http in [&*world.local, &*world.other] {
        assert!(!http.names().await.contains("target"), "{context}");
    }
    if restart {
        world.local.restart().await;
    }

    world.proxy.mend();
    let result = migrated(&world.local, body).await;
    for (member, wanted) in [
        ("resumed", json!(true)),
        ("action", json!("created")),
        ("inserted", json!(RECORDS)),
        ("source_digest", json!(digest(&records))),
        ("target_digest", json!(digest(&records))),
    ] {
        assert_eq!(result[member], wanted, "{context}: {member}");
    }
    let read = result["read"].as_u64().unwrap();
    assert!(read < RECORDS as u64, "{context}: {read} read again");
    assert_copied(&mut world, target_at, &records, &definition, &context).await;
}

async fn assert_copied(
    world: &mut World,
    target: &str,
    records: &[Record],
    definition: &Value,
    context: &str,
) {
    let copy = world.at(target).open("target").await;
    assert_exact(&copy, records, context).await;
    assert_eq!(unnamed_definition(&copy).await, *definition, "{context}");
    world.assert_tidy().await;
    let seen = visible(&world.local).await;
    let live = seen.into_iter().map(|(id, ..)| id).collect();
    world.local.holds_only(&live).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_the_way_to_another_service() {
    for fate in [Fate::Answered(500, "{}"), Fate::Cut, Fate::Lost] {
        break_and_go_on(LOCAL, SECOND, fate, false).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_the_way_to_a_chroma_server() {
    break_and_go_on(LOCAL, CHROMA, Fate::Lost, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_the_way_here() {
    for fate in [Fate::Answered(500, "{}"), Fate::Cut] {
        break_and_go_on(SECOND, LOCAL, fate, false).await;
    }
    break_and_go_on(CHROMA, LOCAL, Fate::Cut, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_in_between() {
    break_and_go_on(LOCAL, SECOND, Fate::Cut, true).await;
    break_and_go_on(SECOND, LOCAL, Fate::Cut, true).await;
}

/// Several times, each time a little further.
#[tokio::test(flavor = "multi_thread")]
async fn again_and_again() {
    for (source_at, target_at) in [(LOCAL, SECOND), (SECOND, LOCAL)] {
        let context = format!("{source_at} to {target_at}");
        let mut world = World::start().await;
        let (original, records) = source(&world, source_at).await;
        let definition = unnamed_definition(&original).await;
        let options = json!({ "batch_size": BATCH });
        let body = request((source_at, "source"), (target_at, "target"), options);
        let mut attempts = 0;
        loop {
            break_after(&world, source_at, PASSING, Fate::Cut);
            let answer = migrate(&world.local, body.clone()).await;
            if answer.status == 200 {
                break;
            }
            answer.problem(502);
            attempts += 1;
            let enough = RECORDS / BATCH / PASSING + 3;
            assert!(attempts < enough, "{context}: it gets no further");
            if attempts == 2 {
                world.local.restart().await;
            }
        }
        assert!(attempts > 1, "{context}: it was not broken off");
        world.proxy.mend();
        assert_copied(&mut world, target_at, &records, &definition, &context).await;
    }
}

/// What was written here since it broke off is in the copy that the same request ends.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_in_between_comes_over() {
    for restart in [false, true] {
        let context = format!("restarted: {restart}");
        let mut world = World::start().await;
        let (original, _) = source(&world, LOCAL).await;
        let options = json!({ "batch_size": BATCH });
        let body = request((LOCAL, "source"), (SECOND, "target"), options);
        break_after(&world, LOCAL, PASSING, Fate::Cut);
        assert_breaks_off(&world, &body).await;
        write_in_between(&original).await;
        if restart {
            world.local.restart().await;
        }
        world.proxy.mend();
        migrated(&world.local, body).await;
        let original = original.at(&world.local);
        let copy = world.other.open("target").await;
        let (found, expected) = (copy.records().await, original.records().await);
        assert_same(&found, &expected, &context);
        world.assert_tidy().await;
    }
}

/// Changes what was copied already and what was not: updates, deletions, records that come again with less.
async fn write_in_between(collection: &Collection) {
    let mut changed = [3, 500, 1_999].map(|at| numbered("r", RECORDS)[at].clone());
    for record in &mut changed {
        record.document = Some("changed in between".to_owned());
    }
    collection.upsert(&changed).await;
    let gone = ["r-00010", "r-00011", "r-00700", "r-01900"];
    collection.delete(json!({ "ids": gone })).await;
    let mut bare = numbered("r", 11).remove(10);
    (bare.document, bare.uri) = (None, None);
    bare.metadata.clear();
    collection.add(&[bare]).await;
    collection.add(&numbered("later", 60)).await;
    let body = json!({"ids": ["r-00020", "r-01000"], "metadatas": [{"n": null}, {"n": null}]});
    collection.post("update", body).await.expect(200);
}

/// All was copied and compared when the answer to the last step was lost, or the step could not be done: what
/// was written here until the same request ends it is in the copy.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_before_the_last_step_was_done_comes_over() {
    for place in [SECOND, CHROMA] {
        let world = World::start().await;
        let (original, _) = source(&world, LOCAL).await;
        let body = request((LOCAL, "source"), (place, "target"), json!({}));
        world.proxy.rule(|passing| {
            if passing.renames_to("target") {
                Fate::Answered(503, "{}")
            } else {
                Fate::Passes
            }
        });
        assert_breaks_off(&world, &body).await;
        assert!(!world.other.names().await.contains("target"));
        write_in_between(&original).await;
        world.proxy.mend();
        let result = migrated(&world.local, body).await;
        let copy = world.other.open("target").await;
        let (found, expected) = (copy.records().await, original.records().await);
        assert_same(&found, &expected, place);
        assert_eq!(result["target_digest"], digest(&expected), "{place}");
        world.assert_tidy().await;
    }
}

/// The last step was done, its answer was lost: the same request finds it done.
#[tokio::test(flavor = "multi_thread")]
async fn a_last_step_that_was_done_is_found_done() {
    for place in [SECOND, CHROMA] {
        for policy in ["fail", "rename"] {
            let context = format!("{place}, {policy}");
            let mut world = World::start().await;
            let (original, records) = source(&world, LOCAL).await;
            let definition = unnamed_definition(&original).await;
            // A rename has something to avoid.
            let wanted = if policy == "rename" {
                "taken"
            } else {
                "target"
            };
            if policy == "rename" {
                world.other.create("taken").await;
            }
            let name = match policy {
                "rename" => "taken-migrated-1",
                _ => "target",
            };
            let options = json!({ "on_conflict": policy });
            let body = request((LOCAL, "source"), (place, wanted), options);
            world.proxy.rule(move |passing| {
                if passing.renames_to(name) {
                    Fate::Lost
                } else {
                    Fate::Passes
                }
            });
            assert_breaks_off(&world, &body).await;
            let copy = world.other.open(name).await;
            world.local.restart().await;
            world.proxy.mend();
            let result = migrated(&world.local, body).await;
            assert_eq!(result["target"]["collection"], name, "{context}");
            assert_eq!(world.other.open(name).await.id, copy.id, "{context}");
            assert_exact(&copy, &records, &context).await;
            assert_eq!(unnamed_definition(&copy).await, definition, "{context}");
            let names = world.other.names().await;
            assert_eq!(
                names.len(),
                if policy == "rename" { 2 } else { 1 },
                "{names:?}"
            );
        }
    }
}

/// What was begun and is not gone on with does not stay for ever, whoever came in between.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_nobody_goes_on_with_is_given_up() {
    for is_taken in [false, true] {
        let mut world = World::start().await;
        source(&world, LOCAL).await;
        let body = request((LOCAL, "source"), (SECOND, "target"), json!({}));
        world.proxy.rule(|passing| {
            if passing.renames_to("target") {
                Fate::Answered(503, "{}")
            } else {
                Fate::Passes
            }
        });
        assert_breaks_off(&world, &body).await;
        let expected = if is_taken {
            world.other.create("target").await;
            let mut plan = body.clone();
            plan["dry_run"] = json!(true);
            migrate(&world.local, plan).await.problem(409);
            migrate(&world.local, body.clone()).await.problem(409);
            vec!["target"]
        } else {
            vec![]
        };
        world.proxy.mend();
        let kept_ms = world.local.config.migration.checkpoint_kept_ms;
        world.local.config.migration.checkpoint_kept_ms = 1;
        world.local.config.repository.sweep_interval_ms = 10;
        world.local.restart().await;
        eventually("the copy to be given up", async || {
            let names = world.other.names().await;
            names.iter().eq(&expected).then_some(())
        })
        .await;
        // Asked for again, it is begun again.
        if !is_taken {
            world.local.config.migration.checkpoint_kept_ms = kept_ms;
            world.local.restart().await;
            let result = migrated(&world.local, body).await;
            assert_eq!(result["resumed"], false);
        }
    }
}
