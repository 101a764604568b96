//! A target that exists: every policy does what its plan said, and what it was not to touch stays.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use vectorkeep::model::metadata::MetadataValue;
use vectorkeep::model::record::Record;

use super::{
    CHROMA, End, LOCAL, SECOND, World, assert_exact, assert_same, end, migrate, migrated, planned,
    request, unnamed_definition, visible,
};
use crate::harness::{Collection, DEFAULT_NAMESPACE, digest, numbered, text};

/// Numbers of records as the plan and as the result call them.
const PLANNED: [&str; 5] = ["insert", "update", "unchanged", "delete", "skip"];
const DONE: [&str; 5] = ["inserted", "updated", "unchanged", "deleted", "skipped"];
/// Records of the source that are in the target as they are, that are there otherwise, and that are not.
const THIRD: usize = 20;
/// Records that only the target has.
const OLD: usize = 7;
const COUNT: u64 = 3 * THIRD as u64;

fn brought() -> Vec<Record> {
    let mut records = numbered("r", 3 * THIRD);
    // What the winner lacks may not stay from the loser.
    let bare = &mut records[THIRD];
    (bare.document, bare.uri) = (None, None);
    bare.metadata.clear();
    let plain = &mut records[THIRD + 1];
    plain.metadata.remove("n").expect("it has a number");
    records
}

fn there() -> Vec<Record> {
    let mut records = numbered("old", OLD);
    records.extend_from_slice(&brought()[..THIRD]);
    let mut others = numbered("r", 2 * THIRD).split_off(THIRD);
    for record in &mut others {
        record.document = Some(format!("another text of {}", record.id));
        record.uri = Some("file:///elsewhere".to_owned());
        let more = MetadataValue::IntList(vec![1, 2]);
        record.metadata.insert("more".to_owned(), more);
    }
    records.extend(others);
    records
}

/// What is in a target of [`there`] after it was merged: what was there in its order, then what is new.
fn union(winner: &str) -> Vec<Record> {
    let (brought, there) = (brought(), there());
    let of = |record: &Record| brought.iter().find(|other| other.id == record.id);
    let kept = there.iter().map(|record| match of(record) {
        Some(other) if winner == "source" => other,
        _ => record,
    });
    let fresh = brought.iter().skip(2 * THIRD);
    kept.chain(fresh).cloned().collect()
}

struct Case {
    options: Value,
    /// `None`: it is refused.
    action: Option<&'static str>,
    counts: [u64; 5],
}

fn cases() -> Vec<Case> {
    let third = THIRD as u64;
    let case = |options, action, counts| Case {
        options,
        action,
        counts,
    };
    let merge = |winner: &str| json!({"on_conflict": "merge", "merge_winner": winner});
    let both = [third, third, third, 0, 0];
    vec![
        case(json!({}), None, [0; 5]),
        case(json!({"on_conflict": "fail"}), None, [0; 5]),
        case(
            json!({"on_conflict": "skip"}),
            Some("skipped"),
            [0, 0, 0, 0, COUNT],
        ),
        case(
            json!({"on_conflict": "rename"}),
            Some("renamed"),
            [COUNT, 0, 0, 0, 0],
        ),
        case(
            json!({"on_conflict": "replace"}),
            Some("replaced"),
            [third, third, third, OLD as u64, 0],
        ),
        case(json!({"on_conflict": "merge"}), Some("merged"), both),
        case(merge("source"), Some("merged"), both),
        case(merge("target"), Some("merged"), [third, 0, third, 0, third]),
    ]
}

/// A source and a target that exist.
struct Scene {
    source: (String, Collection),
    target: (String, Collection),
    /// The environment that the target is in.
    place: String,
}

impl Scene {
    async fn new(world: &World, source: &str, target: &str, number: usize) -> Self {
        let create =
            async |environment: &str, name: String, metadata: Value, records: &[Record]| {
                let body = json!({"name": name, "metadata": metadata,
                "configuration": {"hnsw": {"ef_search": 55}}});
                let http = world.at(environment);
                let collection = http.create_in(DEFAULT_NAMESPACE, body).await;
                collection.add(records).await;
                (name, collection)
            };
        let names = (format!("source-{number}"), format!("target-{number}"));
        Self {
            source: create(source, names.0, json!({"side": "source"}), &brought()).await,
            target: create(target, names.1, json!({"side": "target"}), &there()).await,
            place: target.to_owned(),
        }
    }

    fn request<'a>(&'a self, source: &'a str, options: Value) -> (End<'a>, End<'a>, Value) {
        let source = (source, self.source.0.as_str());
        let target = (self.place.as_str(), self.target.0.as_str());
        (source, target, request(source, target, options))
    }
}

async fn every_policy(source: &str, target: &str) {
    let mut world = World::start().await;
    for (number, case) in cases().into_iter().enumerate() {
        let context = format!("{} from {source} to {target}", case.options);
        let scene = Scene::new(&world, source, target, number).await;
        match case.action {
            None => check_refusal(&world, &scene, source, case).await,
            Some(action) => check(&world, &scene, source, case, action, &context).await,
        }
    }
    world.assert_tidy().await;
    for service in [&mut world.local, &mut world.other] {
        let seen = visible(service).await;
        let ids: BTreeSet<_> = seen.into_iter().map(|(id, ..)| id).collect();
        service.holds_only(&ids).await;
    }
}

async fn check_refusal(world: &World, scene: &Scene, source: &str, case: Case) {
    let before = world.look().await;
    let (.., mut body) = scene.request(source, case.options);
    for dry_run in [true, false] {
        body["dry_run"] = json!(dry_run);
        let problem = migrate(&world.local, body.clone()).await.problem(409);
        let kind = text(&problem["type"]);
        assert!(kind.ends_with("/name-conflict"), "{problem}");
        assert!(text(&problem["detail"]).contains(&scene.target.0));
        assert!(world.look().await == before, "a refusal changed something");
    }
}

fn counts(answer: &Value, members: [&str; 5]) -> [u64; 5] {
    members.map(|member| answer[member].as_u64().unwrap())
}

async fn check(
    world: &World,
    scene: &Scene,
    source: &str,
    case: Case,
    action: &str,
    context: &str,
) {
    let (from, to, body) = scene.request(source, case.options.clone());
    let definitions = (
        unnamed_definition(&scene.source.1).await,
        unnamed_definition(&scene.target.1).await,
    );
    let plan = planned(world, &body).await;
    let result = migrated(&world.local, body).await;
    let renamed = format!("{}-migrated-1", to.1);
    let name = match action {
        "renamed" => renamed.as_str(),
        _ => to.1,
    };
    for answer in [&plan, &result] {
        assert_eq!(answer["source"], end(from), "{context}");
        assert_eq!(answer["target"], end((to.0, name)), "{context}");
        assert_eq!(answer["action"], action, "{context}");
    }
    let gap = action == "replaced" && to.0 == CHROMA;
    assert_eq!(plan["gap"], gap, "{context}");
    assert_eq!(counts(&result, DONE), case.counts, "{context}: result");
    assert_eq!(counts(&plan, PLANNED), case.counts, "{context}: plan");

    let (old, http) = (&scene.target.1, world.at(to.0));
    let found = http.open(name).await;
    let records = match action {
        "skipped" => there(),
        "merged" => union(case.options["merge_winner"].as_str().unwrap_or("source")),
        _ => brought(),
    };
    // Another server has no way to take a document away but to write the record anew.
    if action == "merged" && to.0 != LOCAL {
        assert_same(&found.records().await, &records, context);
    } else {
        assert_exact(&found, &records, context).await;
    }
    if action != "skipped" {
        assert_eq!(result["target_digest"], digest(&records), "{context}");
    }
    let expected = match action {
        "renamed" | "replaced" => definitions.0.clone(),
        _ => definitions.1.clone(),
    };
    assert_eq!(unnamed_definition(&found).await, expected, "{context}");
    if action == "renamed" {
        assert_exact(old, &there(), context).await;
        assert_eq!(unnamed_definition(old).await, definitions.1, "{context}");
    }
    if action == "replaced" {
        assert_ne!(found.id, old.id, "{context}");
        http.get(&old.path("count")).await.expect(404);
    }
    assert_exact(&scene.source.1, &brought(), context).await;
    let unchanged = unnamed_definition(&scene.source.1).await;
    assert_eq!(unchanged, definitions.0, "{context}: the source");
}

#[tokio::test(flavor = "multi_thread")]
async fn in_another_service() {
    every_policy(LOCAL, SECOND).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_chroma_server() {
    every_policy(LOCAL, CHROMA).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn here_from_another_service() {
    every_policy(SECOND, LOCAL).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn here_from_a_chroma_server() {
    every_policy(CHROMA, LOCAL).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn from_remote_to_remote() {
    every_policy(SECOND, CHROMA).await;
    every_policy(CHROMA, SECOND).await;
}

/// The name that a rename takes is the next free one, in the place that the target is in.
#[tokio::test(flavor = "multi_thread")]
async fn names_that_are_taken_over_there_are_passed_over() {
    let world = World::start().await;
    let source = world.local.create("words").await;
    source.add(&numbered("w", 5)).await;
    for taken in ["words", "words-migrated-1", "words-migrated-3"] {
        world.other.create(taken).await;
    }
    for (place, expected) in [(SECOND, "words-migrated-2"), (CHROMA, "words-migrated-4")] {
        let rename = json!({"on_conflict": "rename"});
        let body = request((LOCAL, "words"), (place, "words"), rename);
        let result = migrated(&world.local, body).await;
        assert_eq!(result["target"], end((place, expected)));
        let copy = world.other.open(expected).await;
        assert_exact(&copy, &numbered("w", 5), expected).await;
    }
    world.assert_tidy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_dimension_over_there_is_refused_at_once() {
    let world = World::start().await;
    world
        .local
        .create("words")
        .await
        .add(&numbered("w", 5))
        .await;
    let other = world.other.create("words").await;
    let record = json!({"ids": ["a"], "embeddings": [[1, 2, 3]]});
    other.post("add", record).await.expect(201);
    let before = world.look().await;
    for (source, target) in [
        (LOCAL, SECOND),
        (LOCAL, CHROMA),
        (SECOND, LOCAL),
        (CHROMA, LOCAL),
    ] {
        for winner in ["source", "target"] {
            for dry_run in [true, false] {
                let options = json!({"on_conflict": "merge", "merge_winner": winner,
                    "dry_run": dry_run});
                let body = request((source, "words"), (target, "words"), options);
                let problem = migrate(&world.local, body).await.problem(422);
                assert!(text(&problem["detail"]).contains("dimension"), "{problem}");
            }
        }
    }
    assert!(world.look().await == before, "a refusal changed something");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_not_there_or_the_target_itself_is_refused() {
    let world = World::start().await;
    world.other.create("there").await;
    let before = world.look().await;
    for (source, target) in [
        ((LOCAL, "nobody"), (SECOND, "new")),
        ((SECOND, "nobody"), (LOCAL, "new")),
        ((CHROMA, "nobody"), (SECOND, "there")),
    ] {
        for dry_run in [true, false] {
            let body = request(source, target, json!({"dry_run": dry_run}));
            let problem = migrate(&world.local, body).await.problem(404);
            assert!(text(&problem["detail"]).contains("nobody"), "{problem}");
        }
    }
    let same = request((SECOND, "there"), (SECOND, "there"), json!({}));
    let problem = migrate(&world.local, same).await.problem(422);
    assert!(text(&problem["detail"]).contains("same"), "{problem}");
    assert!(world.look().await == before, "a refusal changed something");
}
