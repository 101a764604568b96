//! One suite for every pair of ends: whatever the two are, what comes out is what went in.

use serde_json::{Value, json};
use vectorkeep::model::record::Record;

use super::{
    CHROMA, LOCAL, SECOND, World, assert_exact, checked_result, end, migrate, planned, request,
    unnamed_definition,
};
use crate::harness::{Collection, DEFAULT_NAMESPACE, digest, numbered, parse_record};

/// A collection to bring over.
struct Sample {
    name: &'static str,
    creation: Value,
    records: Vec<Record>,
    /// Deleted again before anything else happens.
    gone: Vec<Record>,
}

/// Every type of value, texts of every kind; what JSON easily loses.
fn records(vector: impl Fn(usize) -> Vec<f32>) -> Vec<Record> {
    let metadata = json!({"bool": false, "int": i64::MIN, "big": 9_007_199_254_740_993_i64,
        "half": 0.5, "whole": 3.0, "tenth": 0.1, "tiny": 5e-324, "huge": f64::MAX, "text": "",
        "control": "\u{0}\u{1f}", "größe/東京": "ü", "bools": [true, false], "ints": [1, i64::MAX],
        "floats": [1.0, 0.1], "texts": ["a", "", "ü"]});
    let rows = [
        json!({"id": "typed", "document": "d", "uri": "file:///u?q=ä", "metadata": metadata}),
        json!({"id": "bare"}),
        json!({"id": "empty texts", "document": "", "uri": ""}),
        json!({"id": "\u{0}\u{1f}", "document": "\u{0}\u{7f}\u{2028}\r\n\t\"\\"}),
        json!({"id": "𝕏 é e\u{301} /%2F", "document": "ключ".repeat(2_000), "metadata": {"n": 1}}),
        json!({"id": "ключ".repeat(800), "document": "long", "metadata": {"long": "y".repeat(5_000)}}),
        json!({"id": "only a uri", "uri": "s3://bucket/key"}),
        json!({"id": "only metadata", "metadata": {"int": 7, "texts": ["one"]}}),
    ];
    let records = rows.iter().enumerate().map(|(at, row)| {
        let mut row = row.clone();
        row["embedding"] = json!(vector(at));
        parse_record(&row)
    });
    records.collect()
}

/// Components of every size, and zeros of both signs.
fn wild(dimension: usize) -> impl Fn(usize) -> Vec<f32> {
    let special = [-0.0, 1e-45, -3.402_823_5e38, 0.1, 1.0 / 3.0, 0.0];
    move |at| {
        let axes = 0..dimension;
        axes.map(|axis| match special.get((at + axis) % 9) {
            Some(special) => *special,
            None => ((at * 31 + axis * 17) % 101) as f32 / 7.0 - 6.0,
        })
        .collect()
    }
}

/// Vectors that are not changed by being normalised: signs and powers of two.
fn round(at: usize) -> Vec<f32> {
    let scale = 2.0_f32.powi(at as i32 - 3);
    let axes = 0..16;
    axes.map(|axis: usize| {
        let negative = (axis + at).is_multiple_of(3);
        if negative { -scale } else { scale }
    })
    .collect()
}

fn samples() -> Vec<Sample> {
    let index =
        |enabled: bool| json!({"string_inverted_index": {"enabled": enabled, "config": {}}});
    let function = json!({"type": "known", "name": "mine", "config": {"deep": [1.5, {"x": null}]}});
    let sample = |name, creation, records| Sample {
        name,
        creation,
        records,
        gone: Vec::new(),
    };
    vec![
        sample(
            "configured",
            json!({"metadata": {"text": "ü", "int": 1, "float": 2.5, "flag": true},
                "configuration": {"hnsw": {"space": "cosine", "ef_search": 33, "max_neighbors": 7,
                    "sync_threshold": 500}, "embedding_function": function}}),
            records(round),
        ),
        // Without the index of strings, but for one key, and with all that a configuration can say.
        sample(
            "schemed",
            json!({"schema": {"defaults": {"string": index(false)}, "keys": {"text": {"string": index(true)},
                "#embedding": {"float_list": {"vector_index": {"enabled": true, "config": {"space": "ip",
                    "hnsw": {"ef_search": 77}, "embedding_function": function}}}}}}}),
            records(wild(1)),
        ),
        // Keys that once were parameters say nothing where they are only carried over.
        sample(
            "legacy",
            json!({"metadata": {"hnsw:space": "ip", "hnsw:M": 8, "other": "x"}}),
            numbered("legacy", 4),
        ),
        sample("wide", json!({}), records(wild(4_096))),
        sample("empty", json!({"metadata": {"only": 1}}), Vec::new()),
        Sample {
            gone: numbered("gone", 5),
            ..sample(
                "emptied",
                json!({"configuration": {"hnsw": {"space": "ip"}}}),
                Vec::new(),
            )
        },
    ]
}

/// Makes the collection; its order is not that in which its records were first written.
async fn create(world: &World, environment: &str, sample: &Sample) -> Collection {
    let http = world.at(environment);
    let mut body = sample.creation.clone();
    body["name"] = json!(sample.name);
    let collection = http.create_in(DEFAULT_NAMESPACE, body).await;
    for batch in [&sample.gone, &sample.records] {
        if !batch.is_empty() {
            collection.add(batch).await;
        }
    }
    if !sample.gone.is_empty() {
        let ids: Vec<_> = sample.gone.iter().map(|record| &record.id).collect();
        collection.delete(json!({ "ids": ids })).await;
    }
    if let Some(moved) = sample.records.get(1) {
        collection.delete(json!({"ids": [moved.id]})).await;
        collection.add(std::slice::from_ref(moved)).await;
    }
    collection
}

/// Brings every sample from one end to the other.
async fn conform(source: &str, target: &str) {
    let mut world = World::start().await;
    for sample in samples() {
        let context = format!("{} from {source} to {target}", sample.name);
        let original = create(&world, source, &sample).await;
        let (expected, dump) = (original.records().await, original.dump().await);
        let definition = unnamed_definition(&original).await;
        assert_eq!(expected.len(), sample.records.len(), "{context}");

        let name = format!("{}-copy", sample.name);
        let ends = ((source, sample.name), (target, name.as_str()));
        let body = request(ends.0, ends.1, json!({"batch_size": 3}));
        let plan = planned(&world, &body).await;
        assert_eq!(
            (&plan["losses"], &plan["gap"], &plan["insert"]),
            (&json!([]), &json!(false), &json!(expected.len())),
            "{context}"
        );
        let answer = migrate(&world.local, body).await;
        assert_eq!(answer.status, 200, "{context}: {}", answer.text());
        let result = checked_result(answer.json());
        check_result(&result, ends.0, ends.1, &expected, &context);

        let copy = world.at(target).open(&name).await;
        assert_exact(&copy, &expected, &context).await;
        // As the wire has it: nulls and numbers in the form that they had.
        assert!(copy.dump().await == dump, "{context}: as it is answered");
        assert_eq!(unnamed_definition(&copy).await, definition, "{context}");
        assert_ne!(copy.id, original.id, "{context}");
        assert_exact(&original, &expected, &context).await;
        assert_eq!(
            unnamed_definition(&original).await,
            definition,
            "{context}: the source"
        );
    }
    world.assert_tidy().await;
    // What came in is stored like everything else.
    let before = super::visible(&world.local).await;
    world.local.restart().await;
    assert!(
        super::visible(&world.local).await == before,
        "{source} to {target}: after a restart"
    );
}

fn check_result(
    result: &Value,
    source: (&str, &str),
    target: (&str, &str),
    expected: &[Record],
    context: &str,
) {
    let records = json!(expected.len());
    let bytes: usize = expected.iter().map(|record| record.canonical().len()).sum();
    assert_eq!(result["source"], end(source), "{context}");
    assert_eq!(result["target"], end(target), "{context}");
    for (member, wanted) in [
        ("action", json!("created")),
        ("verified", json!(true)),
        ("read", records.clone()),
        ("inserted", records),
        ("updated", json!(0)),
        ("unchanged", json!(0)),
        ("skipped", json!(0)),
        ("deleted", json!(0)),
        ("bytes", json!(bytes)),
        ("resumed", json!(false)),
        ("source_digest", json!(digest(expected))),
        ("target_digest", json!(digest(expected))),
    ] {
        assert_eq!(result[member], wanted, "{context}: {member}");
    }
    assert!(result["duration_ms"].is_u64(), "{context}");
    assert!(result["records_per_second"].is_number(), "{context}");
}

#[tokio::test(flavor = "multi_thread")]
async fn from_here_to_another_service() {
    conform(LOCAL, SECOND).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn from_here_to_a_chroma_server() {
    conform(LOCAL, CHROMA).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn from_another_service_to_here() {
    conform(SECOND, LOCAL).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn from_a_chroma_server_to_here() {
    conform(CHROMA, LOCAL).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn from_another_service_to_a_chroma_server() {
    conform(SECOND, CHROMA).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn from_a_chroma_server_to_another_service() {
    conform(CHROMA, SECOND).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn within_another_service() {
    conform(SECOND, SECOND).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn within_a_chroma_server() {
    conform(CHROMA, CHROMA).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn within_this_service() {
    conform(LOCAL, LOCAL).await;
}
