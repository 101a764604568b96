//! A target that is replaced: what its readers see meanwhile, and what is there after the next time.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};

use serde_json::{Value, json};
use vectorkeep::error::Result;
use vectorkeep::jobs::JobKind;
use vectorkeep::progress::Progress;

use super::proxy::Fate;
use super::{
    CHROMA, LOCAL, SECOND, World, assert_breaks_off, assert_exact, checked_result, migrated,
    planned, request,
};
use crate::harness::{Http, Service, eventually, numbered, strings, submission, text};

const RECORDS: usize = 300;

/// The state that a whole answer is of: ids begin with its name.
fn state_of(ids: &[String]) -> String {
    let state = ids[0].split('-').next().unwrap().to_owned();
    let expected = numbered(&state, RECORDS).into_iter();
    let expected: Vec<_> = expected.map(|record| record.id).collect();
    assert!(ids == expected, "half of one state and half of another");
    state
}

/// Looks at the target until it is told to stop; the states that it was seen in, in their order.
async fn watch(http: Http, stop: Arc<AtomicBool>, looks: Arc<AtomicU64>) -> Vec<String> {
    let mut seen: Vec<String> = Vec::new();
    loop {
        let is_last = stop.load(Ordering::SeqCst);
        // It must always be there under its name.
        let target = http.open("target").await;
        let got = target.post("get", json!({"include": []})).await;
        // Swapped out since it was looked up.
        if got.status != 404 {
            let state = state_of(&strings(&got.ok(200)["ids"]));
            if seen.last() != Some(&state) {
                seen.push(state);
            }
        }
        looks.fetch_add(1, Ordering::SeqCst);
        if is_last {
            return seen;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_of_another_service_see_the_old_or_the_new_state_and_always_one() {
    let world = World::start().await;
    let there = world.other.create("target").await;
    there.add(&numbered("before", RECORDS)).await;
    let stop = Arc::new(AtomicBool::new(false));
    let looks = Arc::new(AtomicU64::new(0));
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let http = Http::clone(&world.other);
            tokio::spawn(watch(http, Arc::clone(&stop), Arc::clone(&looks)))
        })
        .collect();
    let mut expected = vec!["before".to_owned()];
    for state in ["first", "second", "third"] {
        let name = format!("source-{state}");
        let source = world.local.create(&name).await;
        source.add(&numbered(state, RECORDS)).await;
        let replace = json!({"on_conflict": "replace"});
        let body = request((LOCAL, &name), (SECOND, "target"), replace);
        assert_eq!(planned(&world, &body).await["gap"], false);
        let result = migrated(&world.local, body).await;
        assert_eq!(result["action"], "replaced");
        expected.push(state.to_owned());
        // One look of each reader may have been under way.
        let enough = looks.load(Ordering::SeqCst) + 4;
        eventually("looks at the new state", async || {
            (looks.load(Ordering::SeqCst) >= enough).then_some(())
        })
        .await;
    }
    stop.store(true, Ordering::SeqCst);
    for reader in readers {
        let seen = reader.await.unwrap();
        let order = expected.iter().filter(|state| seen.contains(*state));
        assert!(order.eq(&seen), "{seen:?}: back to an older state");
        assert_eq!(seen.last(), expected.last());
    }
    world.assert_tidy().await;
}

/// The same request again is another migration: what was written since comes over.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_replaced_again_has_the_state_of_the_second_time() {
    for (source, target) in [
        (LOCAL, SECOND),
        (LOCAL, CHROMA),
        (SECOND, LOCAL),
        (CHROMA, LOCAL),
    ] {
        let world = World::start().await;
        let words = world.at(source).create("words").await;
        world.at(target).create("target").await;
        let replace = json!({"on_conflict": "replace"});
        let body = request((source, "words"), (target, "target"), replace);
        let mut states = BTreeSet::new();
        for round in 0..3 {
            let context = format!("{source} to {target}, round {round}");
            words.add(&numbered(&format!("round-{round}"), 10)).await;
            let gone = format!("round-{round}-00003");
            words.delete(json!({"ids": [gone]})).await;
            let expected = words.records().await;
            let result = migrated(&world.local, body.clone()).await;
            assert_eq!(result["action"], "replaced", "{context}");
            assert_eq!(result["resumed"], false, "{context}");
            let found = world.at(target).open("target").await;
            assert_exact(&found, &expected, &context).await;
            states.insert(text(&result["target_digest"]));
        }
        assert_eq!(states.len(), 3, "{source} to {target}");
        world.assert_tidy().await;
    }
}

/// What a Chroma server can do is rename, twice. Broken off between the two, the same request ends it, and the
/// collection that was replaced does not stay under the name that it was given.
#[tokio::test(flavor = "multi_thread")]
async fn a_replacement_that_breaks_off_in_its_gap_is_ended_by_the_same_request() {
    for fate in [Fate::Answered(500, "{}"), Fate::Cut, Fate::Lost] {
        let world = World::start().await;
        let words = world.local.create("words").await;
        words.add(&numbered("new", 30)).await;
        let old = world.other.create("target").await;
        old.add(&numbered("old", 20)).await;
        let replace = json!({"on_conflict": "replace"});
        let body = request((LOCAL, "words"), (CHROMA, "target"), replace);
        assert_eq!(planned(&world, &body).await["gap"], true);
        world.proxy.rule(move |passing| {
            if passing.renames_to("target") {
                fate
            } else {
                Fate::Passes
            }
        });
        assert_breaks_off(&world, &body).await;
        world.proxy.mend();
        migrated(&world.local, body).await;
        let found = world.other.open("target").await;
        assert_exact(&found, &numbered("new", 30), "the target").await;
        let names = world.other.names().await;
        assert!(names.iter().eq(["target"]), "{fate:?}: {names:?}");
    }
}

/// Before names are changed the target is what it was; broken off there, nobody sees anything.
#[tokio::test(flavor = "multi_thread")]
async fn a_replacement_that_breaks_off_before_its_gap_changes_nothing() {
    for place in [SECOND, CHROMA] {
        let world = World::start().await;
        let words = world.local.create("words").await;
        words.add(&numbered("new", 30)).await;
        let old = world.other.create("target").await;
        old.add(&numbered("old", 20)).await;
        let replace = json!({"on_conflict": "replace"});
        let body = request((LOCAL, "words"), (place, "target"), replace);
        world.proxy.rule(|passing| {
            if passing.method == "PUT" || passing.is("migrate") {
                Fate::Answered(500, "{}")
            } else {
                Fate::Passes
            }
        });
        assert_breaks_off(&world, &body).await;
        assert_exact(&old, &numbered("old", 20), place).await;
        assert_eq!(world.other.open("target").await.id, old.id, "{place}");
        world.proxy.mend();
        let result = migrated(&world.local, body).await;
        assert_eq!(result["action"], "replaced", "{place}");
        let found = world.other.open("target").await;
        assert_exact(&found, &numbered("new", 30), place).await;
        world.assert_tidy().await;
    }
}

/// Puts a worker of a service to work until what is returned is dropped.
async fn occupied(service: &Service) -> mpsc::Sender<()> {
    let (end, ended) = mpsc::channel::<()>();
    let work = move |_: &Progress| -> Result<Value> {
        let _ = ended.recv();
        Ok(json!({}))
    };
    let jobs = service.app().jobs().clone();
    let submit = move || {
        jobs.submit(submission(JobKind::Drill, work)).unwrap();
    };
    tokio::task::spawn_blocking(submit).await.unwrap();
    end
}

/// The job with which the other service puts the copy in its place was canceled there, as it would be
/// interrupted by a restart: the same request is a new attempt there as well.
#[tokio::test(flavor = "multi_thread")]
async fn a_swap_that_failed_over_there_is_tried_anew() {
    let world = World::with(|_| (), |config| config.jobs.workers = 1).await;
    let words = world.local.create("words").await;
    words.add(&numbered("new", 30)).await;
    let old = world.other.create("target").await;
    old.add(&numbered("old", 20)).await;
    let replace = json!({"on_conflict": "replace"});
    let body = request((LOCAL, "words"), (SECOND, "target"), replace);

    let worker = occupied(&world.other).await;
    let job = world.local.post("/migrate", body.clone()).await.ok(202);
    let waiting = eventually("the swap to wait over there", async || {
        let path = "/jobs?kind=migration&state=queued";
        let listed = world.other.get(path).await.ok(200);
        listed["jobs"][0]["id"].as_str().map(str::to_owned)
    })
    .await;
    let cancel = format!("/jobs/{waiting}/cancel");
    world.other.post(&cancel, json!({})).await.expect(200);
    drop(worker);
    let job = world.local.finished(&text(&job["id"])).await;
    // It may have been tried anew at once.
    if job["state"] == "failed" {
        assert_eq!(job["problem"]["status"], 502, "{job}");
        assert_exact(&old, &numbered("old", 20), "the target").await;
        migrated(&world.local, body).await;
    } else {
        checked_result(job);
    }
    let found = world.other.open("target").await;
    assert_exact(&found, &numbered("new", 30), "the target").await;
    world.assert_tidy().await;
}

/// What is gone was not put in its place.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_went_from_under_the_swap_is_made_again() {
    let world = World::start().await;
    let words = world.local.create("words").await;
    words.add(&numbered("new", 30)).await;
    let old = world.other.create("target").await;
    old.add(&numbered("old", 20)).await;
    let replace = json!({"on_conflict": "replace"});
    let body = request((LOCAL, "words"), (SECOND, "target"), replace);
    world.proxy.rule(|passing| {
        if passing.is("migrate") {
            Fate::Cut
        } else {
            Fate::Passes
        }
    });
    assert_breaks_off(&world, &body).await;
    world.proxy.mend();
    let names = world.other.names().await;
    for name in names.iter().filter(|name| *name != "target") {
        world.other.drop_collection(name).await;
    }
    assert_exact(&old, &numbered("old", 20), "the target").await;
    migrated(&world.local, body).await;
    let found = world.other.open("target").await;
    assert_exact(&found, &numbered("new", 30), "the target").await;
    world.assert_tidy().await;
}

/// The swap was done over there; only the copy that it was made of was still to go. What is written until the same
/// request ends it is in the target as well.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_before_a_swap_was_ended_comes_over() {
    for place in [SECOND, CHROMA] {
        let world = World::start().await;
        let words = world.local.create("words").await;
        words.add(&numbered("new", 30)).await;
        let old = world.other.create("target").await;
        old.add(&numbered("old", 20)).await;
        let replace = json!({"on_conflict": "replace"});
        let body = request((LOCAL, "words"), (place, "target"), replace);
        world.proxy.rule(|passing| {
            if passing.method == "DELETE" {
                Fate::Answered(503, "{}")
            } else {
                Fate::Passes
            }
        });
        assert_breaks_off(&world, &body).await;
        let found = world.other.open("target").await;
        assert_exact(&found, &numbered("new", 30), place).await;
        world.proxy.mend();
        if place == SECOND {
            words.add(&numbered("later", 5)).await;
        }
        let expected = words.records().await;
        migrated(&world.local, body).await;
        let found = world.other.open("target").await;
        assert_exact(&found, &expected, place).await;
        world.assert_tidy().await;
    }
}
