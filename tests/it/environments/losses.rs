//! What a Chroma server cannot hold: named before anything is written, and left out only where that is asked for.

use serde_json::{Value, json};
use vectorkeep::model::metadata::MetadataValue;
use vectorkeep::model::record::Record;

use super::proxy::Fate;
use super::{
    CHROMA, LOCAL, SECOND, World, assert_exact, checked_result, migrate, migrated, planned,
    request, unnamed_definition,
};
use crate::harness::{Collection, DEFAULT_NAMESPACE, Http, assert_members, numbered, text};

/// A number that a Chroma server reads as its neighbour.
const LONG: f64 = 123_456_789.123_456_79;

fn with(mut record: Record, key: &str, value: MetadataValue) -> Record {
    record.metadata.insert(key.to_owned(), value);
    record
}

/// Something to lose, and nothing.
fn lossy() -> Vec<Record> {
    let mut records = numbered("r", 12);
    let long = MetadataValue::Float(LONG);
    let lists = MetadataValue::FloatList(vec![0.5, -0.0]);
    records[4] = with(records[4].clone(), "float", MetadataValue::Float(-0.0));
    records[7] = with(records[7].clone(), "float", long);
    records[11] = with(records[11].clone(), "floats", lists);
    records
}

/// With zeros that have no sign.
fn unsigned(records: &[Record]) -> Vec<Record> {
    let mut records = records.to_vec();
    for value in records.iter_mut().flat_map(|r| r.metadata.values_mut()) {
        match value {
            MetadataValue::Float(float) => *float += 0.0,
            MetadataValue::FloatList(floats) => floats.iter_mut().for_each(|float| *float += 0.0),
            _ => {}
        }
    }
    records
}

async fn create(http: &Http, metadata: Value, space: &str, records: &[Record]) -> Collection {
    let body = json!({"name": "source", "metadata": metadata,
        "configuration": {"hnsw": {"space": space}}});
    let source = http.create_in(DEFAULT_NAMESPACE, body).await;
    source.add(records).await;
    source
}

/// What is named, with the number of records and the first of them.
fn named(losses: &Value) -> Vec<(String, u64, String)> {
    let losses = losses.as_array().unwrap();
    let loss = |loss: &Value| {
        assert_members(loss, &["what", "records", "examples"]);
        let examples = loss["examples"].to_string();
        (
            text(&loss["what"]),
            loss["records"].as_u64().unwrap(),
            examples,
        )
    };
    losses.iter().map(loss).collect()
}

/// Asserts that exactly one loss is named, of these records, and that its words are about `about`.
fn assert_named(losses: &Value, about: &str, ids: &[&str]) {
    let found = named(losses);
    let [(what, records, examples)] = found.as_slice() else {
        panic!("expected one loss: {losses}");
    };
    assert!(what.contains(about), "{what}");
    assert_eq!(*records, ids.len() as u64, "{losses}");
    for id in ids {
        assert!(examples.contains(id), "{id} in {examples}");
    }
}

/// The plan names the loss, the request is refused and leaves nothing, until it is allowed. The result.
async fn refused_then_allowed(world: &World, source: &str, about: &str, ids: &[&str]) -> Value {
    let options = json!({"batch_size": 3});
    let mut body = request((source, "source"), (CHROMA, "target"), options);
    let plan = planned(world, &body).await;
    assert_named(&plan["losses"], about, ids);
    let names = world.other.names().await;
    let problem = migrate(&world.local, body.clone()).await.problem(422);
    let first = text(&problem["losses"][0]["what"]);
    assert!(first.contains(about), "{problem}");
    assert!(text(&problem["detail"]).contains(&first), "{problem}");
    assert_eq!(world.other.names().await, names, "something was left");

    body["allow_loss"] = json!(true);
    assert_named(&planned(world, &body).await["losses"], about, ids);
    let result = migrated(&world.local, body).await;
    assert_named(&result["losses"], about, ids);
    world.assert_tidy().await;
    result
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_floats_that_are_not_kept_are_named_refused_and_rounded_where_allowed() {
    for place in [LOCAL, SECOND] {
        let world = World::start().await;
        let records = lossy();
        let source = create(world.at(place), json!({"a": 1}), "l2", &records).await;
        let ids = ["r-00004", "r-00007", "r-00011"];
        refused_then_allowed(&world, place, "float", &ids).await;
        let target = world.other.open("target").await;
        let mut found = target.records().await;
        // The neighbour of the long number; everything else to the bit.
        let value = found[7].metadata.get_mut("float");
        let Some(MetadataValue::Float(float)) = value else {
            panic!("another type");
        };
        assert_ne!(*float, LONG);
        assert!((*float - LONG).abs() < 1e-7, "{float}");
        *float = LONG;
        let expected = unsigned(&records);
        for (found, expected) in found.iter().zip(&expected) {
            assert!(found.canonical() == expected.canonical(), "{found:?}");
        }
        assert_eq!(found.len(), expected.len());
        let definition = unnamed_definition(&source).await;
        assert_eq!(unnamed_definition(&target).await, definition, "{place}");
        assert_exact(&source, &records, place).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_chroma_itself_are_not_given_back() {
    let world = World::start().await;
    let records = numbered("r", 9);
    let source = create(&world.local, json!({"a": 1}), "ip", &records).await;
    let hidden = json!({"ids": ["r-00008"], "metadatas": [{"chroma:own": "x"}]});
    source.post("update", hidden).await.expect(200);
    refused_then_allowed(&world, LOCAL, "chroma:", &["r-00008"]).await;
    let target = world.other.open("target").await;
    assert_exact(&target, &records, "what is shown").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn embeddings_that_are_not_kept_in_cosine_space_are_named_and_taken_where_allowed() {
    let world = World::start().await;
    let mut records = numbered("r", 6);
    for record in &mut records {
        // Its length is a power of two; in no place does normalising round.
        record.embedding = vec![0.5, -0.5, 0.5, 0.5];
    }
    records[3].embedding = (1..=4_u8).map(|x| 1.0 / f32::from(3 * x)).collect();
    create(&world.local, json!({"a": 1}), "cosine", &records).await;
    refused_then_allowed(&world, LOCAL, "embedding", &["r-00003"]).await;
    let found = world.other.open("target").await.records().await;
    for (found, expected) in found.iter().zip(&records) {
        let mut pairs = found.embedding.iter().zip(&expected.embedding);
        let near = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-6 * b.abs();
        assert!(pairs.all(near), "{found:?}");
        if found.id != "r-00003" {
            assert!(found.canonical() == expected.canonical(), "{found:?}");
        }
    }
    assert_eq!(found.len(), records.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_in_the_metadata_of_a_collection_are_left_out_where_allowed() {
    let world = World::start().await;
    let metadata = json!({"kept": "x", "listed": [1, 2]});
    let source = create(&world.local, metadata, "l2", &numbered("r", 4)).await;
    let jobs = world.local.get("/jobs").await.ok(200);
    let body = request((LOCAL, "source"), (CHROMA, "target"), json!({}));
    migrate(&world.local, body).await.problem(422);
    // Known before anything is read: it is no job.
    assert_eq!(world.local.get("/jobs").await.ok(200), jobs);
    refused_then_allowed(&world, LOCAL, "listed", &[]).await;
    let target = world.other.open("target").await;
    let mut definition = unnamed_definition(&source).await;
    definition["metadata"] = json!({"kept": "x"});
    assert_eq!(unnamed_definition(&target).await, definition);
    assert_exact(&target, &numbered("r", 4), "records").await;
}

/// Another instance holds all of it, both ways.
#[tokio::test(flavor = "multi_thread")]
async fn another_service_loses_nothing() {
    let world = World::start().await;
    let metadata = json!({"kept": -0.0, "listed": [1, 2]});
    let records = lossy();
    let source = create(&world.local, metadata, "cosine", &records).await;
    let definition = unnamed_definition(&source).await;
    for (from, to) in [
        ((LOCAL, "source"), (SECOND, "there")),
        ((SECOND, "there"), (LOCAL, "back")),
    ] {
        let body = request(from, to, json!({}));
        assert_eq!(planned(&world, &body).await["losses"], json!([]));
        migrated(&world.local, body).await;
        let copy = world.at(to.0).open(to.1).await;
        assert_exact(&copy, &records, to.1).await;
        let found = unnamed_definition(&copy).await;
        // As text: a zero has a sign.
        assert_eq!(found.to_string(), definition.to_string(), "{}", to.1);
    }
}

/// They would be stored there like any other key and shown to nobody: what cannot be read back is not proven.
#[tokio::test(flavor = "multi_thread")]
async fn keys_of_chroma_itself_are_named_for_another_service_as_well() {
    let world = World::start().await;
    let records = numbered("r", 9);
    let source = create(&world.local, json!({"a": 1}), "ip", &records).await;
    let hidden = json!({"ids": ["r-00008"], "metadatas": [{"chroma:own": "x"}]});
    source.post("update", hidden).await.expect(200);
    world.other.create("there").await.add(&records).await;
    for (name, policy) in [("new", "fail"), ("there", "merge"), ("there", "replace")] {
        let options = json!({ "on_conflict": policy });
        let body = request((LOCAL, "source"), (SECOND, name), options);
        assert_eq!(named(&planned(&world, &body).await["losses"]).len(), 1);
        let problem = migrate(&world.local, body).await.problem(422);
        assert_eq!(named(&problem["losses"]).len(), 1, "{problem}");
        let options = json!({"on_conflict": policy, "allow_loss": true});
        let body = request((LOCAL, "source"), (SECOND, name), options);
        let result = migrated(&world.local, body).await;
        assert_eq!(result["verified"], true, "{policy}: {result}");
        let found = world.other.open(name).await;
        assert_exact(&found, &records, policy).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_exists_stays_as_it_is_where_something_would_be_lost() {
    let world = World::start().await;
    create(&world.local, json!({"a": 1}), "l2", &lossy()).await;
    let target = world.other.create("target").await;
    target.add(&numbered("r", 6)).await;
    for policy in ["replace", "merge"] {
        let body = request(
            (LOCAL, "source"),
            (CHROMA, "target"),
            json!({ "on_conflict": policy }),
        );
        let plan = planned(&world, &body).await;
        assert_eq!(named(&plan["losses"]).len(), 1, "{plan}");
        let problem = migrate(&world.local, body).await.problem(422);
        assert_eq!(named(&problem["losses"]).len(), 1, "{problem}");
        assert_exact(&target, &numbered("r", 6), policy).await;
    }
    world.assert_tidy().await;
    let merge = json!({"on_conflict": "merge", "allow_loss": true});
    let body = request((LOCAL, "source"), (CHROMA, "target"), merge);
    let result = migrated(&world.local, body).await;
    assert_eq!(named(&result["losses"]).len(), 1, "{result}");
    assert_eq!(target.count().await, 12);
}

/// The copy is of one moment: what is written here while it is compared is no difference.
#[tokio::test(flavor = "multi_thread")]
async fn writes_after_the_moment_of_a_copy_with_losses_are_no_difference() {
    let world = World::start().await;
    let records = lossy();
    let source = create(&world.local, json!({"a": 1}), "l2", &records).await;
    let options = json!({"allow_loss": true});
    let body = request((LOCAL, "source"), (CHROMA, "target"), options);
    // While it copies nothing is read over there.
    world.proxy.rule(|passing| {
        if passing.is("get") {
            Fate::Held
        } else {
            Fate::Passes
        }
    });
    let job = world.local.post("/migrate", body).await.ok(202);
    world.proxy.holds_one().await;
    let mut changed = records[1].clone();
    changed.document = Some("changed since".to_owned());
    source.upsert(&[changed]).await;
    source.delete(json!({"ids": ["r-00002"]})).await;
    source.add(&numbered("later", 2)).await;
    world.proxy.let_go();
    let job = world.local.finished(&text(&job["id"])).await;
    let result = checked_result(job);
    assert_eq!(result["inserted"], records.len());
    let found = world.other.open("target").await;
    assert_eq!(found.records().await[1], records[1]);
    assert_eq!(found.count().await, records.len() as u64);
}
