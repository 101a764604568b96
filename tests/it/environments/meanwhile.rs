//! What happens to a migration in its middle: it is canceled, its source or target changes under it, another one
//! is asked for.

use serde_json::{Value, json};
use vectorkeep::model::metadata::MetadataValue;

use super::proxy::{Fate, Passing};
use super::{
    CHROMA, LOCAL, SECOND, World, assert_breaks_off, assert_exact, assert_same, checked_result,
    end, migrate, migrated, request,
};
use crate::harness::{numbered, text};

const RECORDS: usize = 200;

/// Whether records go by: they are written over there, or read from there page by page.
fn carries(passing: &Passing) -> bool {
    passing.is("upsert") || passing.reads_from(1)
}

/// Begins a migration that then stands still in the middle; its job.
async fn begun(world: &World, body: &Value) -> String {
    world.proxy.rule(|passing| {
        if carries(passing) {
            Fate::Held
        } else {
            Fate::Passes
        }
    });
    let job = world.local.post("/migrate", body.clone()).await.ok(202);
    world.proxy.holds_one().await;
    text(&job["id"])
}

/// Lets it go on; how it ended.
async fn ended(world: &World, job: &str) -> Value {
    world.proxy.let_go();
    world.local.finished(job).await
}

/// From here to there, and from there to here.
const WAYS: [(&str, &str); 4] = [
    (LOCAL, SECOND),
    (LOCAL, CHROMA),
    (SECOND, LOCAL),
    (CHROMA, LOCAL),
];

/// A source with its records, and the request that brings it over in small steps.
async fn scene(source: &str, target: &str) -> (World, Value) {
    let world = World::start().await;
    let words = world.at(source).create("source").await;
    words.add(&numbered("r", RECORDS)).await;
    let options = json!({"batch_size": 20});
    let body = request((source, "source"), (target, "target"), options);
    (world, body)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_canceled_is_not_seen_and_can_be_asked_for_again() {
    for (source, target) in WAYS {
        let context = format!("{source} to {target}");
        let (world, body) = scene(source, target).await;
        let job = begun(&world, &body).await;
        let path = format!("/jobs/{job}/cancel");
        world.local.post(&path, json!({})).await.expect(200);
        let job = ended(&world, &job).await;
        assert_eq!(job["state"], "canceled", "{context}: {job}");
        let names = world.at(target).names().await;
        assert!(!names.contains("target"), "{context}: {names:?}");
        migrated(&world.local, body).await;
        let found = world.at(target).open("target").await;
        assert_exact(&found, &numbered("r", RECORDS), &context).await;
        world.assert_tidy().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_one_at_a_time_makes_a_collection() {
    for (source, target) in WAYS {
        let (world, body) = scene(source, target).await;
        let job = begun(&world, &body).await;
        for policy in ["fail", "replace", "merge"] {
            let mut again = body.clone();
            again["on_conflict"] = json!(policy);
            let problem = migrate(&world.local, again).await.problem(409);
            assert_eq!(problem["job_id"], job, "{problem}");
        }
        checked_result(ended(&world, &job).await);
        world.assert_tidy().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_dropped_is_no_copy() {
    for (source, target) in WAYS {
        let context = format!("{source} to {target}");
        let (world, body) = scene(source, target).await;
        let job = begun(&world, &body).await;
        world.at(source).drop_collection("source").await;
        let job = ended(&world, &job).await;
        assert_eq!(job["state"], "failed", "{context}: {job}");
        let names = world.at(target).names().await;
        assert!(!names.contains("target"), "{context}: {names:?}");
        migrate(&world.local, body).await.problem(404);
        world.assert_tidy().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_taken_meanwhile_stays_with_who_took_it() {
    for (source, target) in WAYS {
        let context = format!("{source} to {target}");
        let (world, body) = scene(source, target).await;
        let job = begun(&world, &body).await;
        let theirs = world.at(target).create("target").await;
        theirs.add(&numbered("theirs", 5)).await;
        let job = ended(&world, &job).await;
        assert_eq!(job["state"], "failed", "{context}: {job}");
        assert_eq!(job["problem"]["status"], 409, "{context}: {job}");
        assert_exact(&theirs, &numbered("theirs", 5), &context).await;
        assert_eq!(world.at(target).open("target").await.id, theirs.id);
        world.assert_tidy().await;
    }
}

/// Who reads from another server does not hear of what is written there: it is noticed, and nothing is seen of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_elsewhere_that_is_written_to_is_no_copy_of_anything() {
    for place in [SECOND, CHROMA] {
        let (mut world, body) = scene(place, LOCAL).await;
        let job = begun(&world, &body).await;
        let source = world.other.open("source").await;
        // As many as before: counting them says nothing.
        source.delete(json!({"ids": ["r-00000"]})).await;
        source.add(&numbered("later", 1)).await;
        let job = ended(&world, &job).await;
        assert_eq!(job["state"], "failed", "{place}: {job}");
        assert_eq!(job["problem"]["status"], 409, "{place}: {job}");
        assert!(world.local.names().await.is_empty(), "{place}");
        let expected = source.records().await;
        migrated(&world.local, body).await;
        let found = world.local.open("target").await;
        assert_exact(&found, &expected, place).await;
        let live = [found.id].into();
        world.local.holds_only(&live).await;
    }
}

/// A key that was in the metadata of a record that is gone again before it was read is in nobody's record.
#[tokio::test(flavor = "multi_thread")]
async fn a_metadata_key_that_came_and_went_is_no_loss() {
    for place in [SECOND, CHROMA] {
        let (world, body) = scene(LOCAL, place).await;
        let job = begun(&world, &body).await;
        let source = world.local.open("source").await;
        let mut passing = numbered("passing", 1).remove(0);
        let value = MetadataValue::Str("x".to_owned());
        passing.metadata.insert("passing".to_owned(), value);
        source.add(std::slice::from_ref(&passing)).await;
        source.delete(json!({"ids": [passing.id]})).await;
        checked_result(ended(&world, &job).await);
        let found = world.other.open("target").await;
        assert_exact(&found, &numbered("r", RECORDS), place).await;
        world.assert_tidy().await;
    }
}

/// The definition is that of the end as well.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_changed_of_a_source_meanwhile_is_changed_of_the_copy() {
    for place in [SECOND, CHROMA] {
        let (world, body) = scene(LOCAL, place).await;
        let job = begun(&world, &body).await;
        let source = world.local.open("source").await;
        let change = json!({"new_metadata": {"a": "new"},
            "new_configuration": {"hnsw": {"ef_search": 77, "max_neighbors": 9}}});
        let path = source.path("").trim_end_matches('/').to_owned();
        let changed = world.local.send("PUT", &path, Some(&change)).await;
        changed.expect(200);
        checked_result(ended(&world, &job).await);
        let found = world.other.open("target").await;
        let (found, expected) = (
            super::unnamed_definition(&found).await,
            super::unnamed_definition(&source).await,
        );
        assert_eq!(found["configuration_json"]["hnsw"]["ef_search"], 77);
        assert_eq!(found, expected, "{place}");
    }
}

/// However few may lie unfinished: one that runs does not lie.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_runs_is_not_given_up_for_one_that_comes() {
    for (source, target) in [(LOCAL, SECOND), (SECOND, LOCAL)] {
        let context = format!("{source} to {target}");
        let world = World::with(|config| config.migration.max_checkpoints = 1, |_| ()).await;
        for name in ["first", "second"] {
            let words = world.at(source).create(name).await;
            words.add(&numbered(name, RECORDS)).await;
        }
        let first = world.at(source).open("first").await.id;
        let options = json!({"batch_size": 20});
        let body = request((source, "first"), (target, "first-copy"), options.clone());
        world.proxy.rule(move |passing| {
            let of_first = passing.path.contains(&first) || passing.says("first-0");
            if of_first && carries(passing) {
                Fate::Held
            } else {
                Fate::Passes
            }
        });
        let job = world.local.post("/migrate", body).await.ok(202);
        world.proxy.holds_one().await;
        let body = request((source, "second"), (target, "second-copy"), options);
        // It may be refused, or done.
        let other = migrate(&world.local, body).await;
        let job = ended(&world, &text(&job["id"])).await;
        checked_result(job);
        let found = world.at(target).open("first-copy").await;
        assert_exact(&found, &numbered("first", RECORDS), &context).await;
        if other.status == 200 {
            let found = world.at(target).open("second-copy").await;
            assert_exact(&found, &numbered("second", RECORDS), &context).await;
        }
        world.assert_tidy().await;
    }
}

/// What a merge has brought over already is the source's, whoever wins: an id that only the source has stays what
/// it is there.
#[tokio::test(flavor = "multi_thread")]
async fn a_merge_that_the_target_wins_takes_what_is_written_to_other_ids_meanwhile() {
    for place in [SECOND, CHROMA] {
        let (world, mut body) = scene(LOCAL, place).await;
        body["on_conflict"] = json!("merge");
        body["merge_winner"] = json!("target");
        let target = world.other.create("target").await;
        target.add(&numbered("theirs", 5)).await;
        // The second batch of records: the first is there by then.
        world.proxy.rule(|passing| {
            if passing.is("upsert") && passing.says("r-00020") {
                Fate::Held
            } else {
                Fate::Passes
            }
        });
        let job = world.local.post("/migrate", body).await.ok(202);
        world.proxy.holds_one().await;
        let source = world.local.open("source").await;
        let mut changed = numbered("r", 4).remove(3);
        changed.document = Some("changed meanwhile".to_owned());
        source.upsert(std::slice::from_ref(&changed)).await;
        checked_result(ended(&world, &text(&job["id"])).await);
        let found = target.records().await;
        let expected = [numbered("theirs", 5), source.records().await].concat();
        assert_same(&found, &expected, place);
    }
}

/// What was begun as one side of a merge, and becomes the collection itself because the target went.
#[tokio::test(flavor = "multi_thread")]
async fn a_merge_whose_target_goes_before_it_is_asked_for_again_makes_it() {
    for place in [SECOND, CHROMA] {
        let (mut world, mut body) = scene(place, LOCAL).await;
        body["on_conflict"] = json!("merge");
        let target = world.local.create("target").await;
        target.add(&numbered("theirs", 5)).await;
        world.proxy.rule(|passing| {
            if passing.reads_from(60) {
                Fate::Cut
            } else {
                Fate::Passes
            }
        });
        assert_breaks_off(&world, &body).await;
        assert_exact(&target, &numbered("theirs", 5), place).await;
        world.local.drop_collection("target").await;
        world.proxy.mend();
        let result = migrated(&world.local, body).await;
        assert_eq!(result["action"], "created", "{place}");
        assert_eq!(result["target"], end((LOCAL, "target")));
        let expected = numbered("r", RECORDS);
        let found = world.local.open("target").await;
        assert_exact(&found, &expected, place).await;
        let query = json!({"query_embeddings": [expected[7].embedding], "n_results": 1});
        let nearest = found.nearest(query).await;
        assert_eq!(nearest[0].len(), 1, "{place}: nothing is found in it");
        world.local.restart().await;
        assert_exact(&found.at(&world.local), &expected, place).await;
    }
}
