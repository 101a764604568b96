//! After losing the machine: everything that was backed up is there again on another one, to the bit, and answers
//! as before.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use vectorkeep::model::metadata::{Metadata, MetadataValue};
use vectorkeep::model::record::Record;

use super::restored;
use crate::harness::{
    Collection, DEFAULT_NAMESPACE, Http, Service, digest, load_20k, shared, text,
};

const DIMENSIONS: [usize; 6] = [1, 2, 3, 17, 384, 4_096];
const RECORDS: usize = 60;

fn component(number: usize, axis: usize) -> f32 {
    let special = [-0.0, 1e-45, -1e-40, 0.1, 1e15, f32::MIN_POSITIVE];
    match special.get((number * 5 + axis) % 29) {
        Some(special) => *special,
        None => ((number * 31 + axis * 17) % 1_009) as f32 / 7.0 - 70.0,
    }
}

/// Metadata with every type of value; each record has another part of it.
fn metadata(number: usize) -> Metadata {
    let float = f64::from_bits(0x3ff0_0000_0000_0001 + number as u64);
    let all = [
        ("bool", MetadataValue::Bool(number.is_multiple_of(2))),
        ("int", MetadataValue::Int(i64::MIN + number as i64)),
        ("big", MetadataValue::Int(9_007_199_254_740_993)),
        ("float", MetadataValue::Float(float)),
        ("zero", MetadataValue::Float(-0.0)),
        ("tiny", MetadataValue::Float(5e-324)),
        ("text", MetadataValue::Str(format!("ü\u{0} {number}"))),
        ("größe/東京", MetadataValue::Str(String::new())),
        ("bools", MetadataValue::BoolList(vec![true, false])),
        ("ints", MetadataValue::IntList(vec![number as i64, -1])),
        ("floats", MetadataValue::FloatList(vec![-0.0, 0.1, float])),
        (
            "texts",
            MetadataValue::StrList(vec![String::new(), "é".to_owned()]),
        ),
        // One key, another type in every other record.
        ("either", MetadataValue::Int(1)),
        ("either", MetadataValue::StrList(vec!["one".to_owned()])),
    ];
    let part = all.into_iter().enumerate();
    let part = part.filter(|(at, _)| !(at + number).is_multiple_of(4));
    part.map(|(_, (key, value))| (key.to_owned(), value))
        .collect()
}

fn generated(dimension: usize) -> Vec<Record> {
    let record = |number: usize| Record {
        id: match number % 6 {
            0 => format!("plain-{number}"),
            1 => format!("𝕏 é e\u{301} /%2F {number}"),
            2 => format!("\u{0}\u{1f}{number}"),
            3 => format!("{}{number}", "ключ".repeat(700)),
            4 => number.to_string(),
            _ => format!(" {number} "),
        },
        embedding: (0..dimension).map(|axis| component(number, axis)).collect(),
        document: match number % 4 {
            0 => None,
            1 => Some(String::new()),
            2 => Some(format!("\u{0}\u{7f}\u{2028}{number}")),
            _ => Some("ключ ".repeat(number * 20)),
        },
        uri: (number % 3 == 1).then(|| format!("file:///ä/{number}")),
        metadata: if number.is_multiple_of(5) {
            Metadata::new()
        } else {
            metadata(number)
        },
    };
    (0..RECORDS).map(record).collect()
}

/// What a collection was, to be held against what it is again.
struct Known {
    name: String,
    id: String,
    definition: Value,
    dump: bytes::Bytes,
    ids: Vec<String>,
    queries: Vec<Vec<f32>>,
    answers: Vec<Vec<(String, f64)>>,
    digest: String,
}

async fn answers(collection: &Collection, queries: &[Vec<f32>]) -> Vec<Vec<(String, f64)>> {
    let mut answers = Vec::new();
    for queries in queries.chunks(50) {
        let body = json!({"query_embeddings": queries, "n_results": 10});
        answers.extend(collection.nearest(body).await);
    }
    assert_eq!(answers.len(), queries.len());
    answers
}

impl Known {
    async fn of(collection: &Collection, queries: Vec<Vec<f32>>, digest: String) -> Self {
        Self {
            name: collection.name.clone(),
            id: collection.id.clone(),
            definition: collection.definition().await,
            dump: collection.dump().await,
            ids: collection.ids(json!({})).await,
            answers: answers(collection, &queries).await,
            queries,
            digest,
        }
    }

    async fn assert_back(&self, http: &Http, restored: &Value) {
        let name = &self.name;
        let done = restored["collections"].as_array().unwrap();
        let done = done.iter().find(|done| done["name"] == *name).unwrap();
        assert_eq!(done["action"], "created", "{name}");
        assert_eq!(done["digest"], self.digest, "{name}");
        assert_eq!(done["records"], self.ids.len(), "{name}");
        self.assert_same(http).await;
    }

    async fn assert_same(&self, http: &Http) {
        let name = &self.name;
        let found = http.open(name).await;
        assert_ne!(found.id, self.id, "{name}");
        assert_eq!(found.definition().await, self.definition, "{name}");
        assert_eq!(found.count().await, self.ids.len() as u64, "{name}");
        assert_eq!(found.ids(json!({})).await, self.ids, "{name}: order");
        let same = found.dump().await == self.dump;
        assert!(same, "{name}: other records than there were");
        let again = answers(&found, &self.queries).await;
        for (at, (again, before)) in again.iter().zip(&self.answers).enumerate() {
            assert_eq!(again, before, "{name}: answer to query {at}");
        }
    }
}

async fn make_generated(http: &Http, dimension: usize, space: &str) -> Known {
    let body = json!({"name": format!("generated-{dimension}"), "metadata": {"zero": -0.0, "text": "ü",
        "listed": [1, 2]}, "configuration": {"hnsw": {"space": space, "ef_search": 33},
        "embedding_function": {"type": "known", "name": "mine", "config": {"deep": [1.5, {"x": null}]}}}});
    let collection = http.create_in(DEFAULT_NAMESPACE, body).await;
    let records = generated(dimension);
    collection.add(&records).await;
    // Some go, some of these come again: the order is not that of the first writes.
    let ids = |at: [usize; 3]| json!({"ids": at.map(|at| records[at].id.clone())});
    collection.delete(ids([7, 20, 41])).await;
    collection
        .add(&[records[20].clone(), records[7].clone()])
        .await;
    let expected: Vec<Record> = (0..RECORDS)
        .filter(|at| ![7, 20, 41].contains(at))
        .chain([20, 7])
        .map(|at| records[at].clone())
        .collect();
    let found = collection.records().await;
    for (found, expected) in found.iter().zip(&expected) {
        assert!(found.canonical() == expected.canonical(), "{found:?}");
    }
    assert_eq!(found.len(), expected.len());
    let queries = expected.iter().step_by(9);
    let queries = queries.map(|record| record.embedding.clone()).collect();
    Known::of(&collection, queries, digest(&expected)).await
}

/// The 200 queries that come with the records.
fn queries_200() -> Vec<Vec<f32>> {
    let file = std::fs::read_to_string(shared("data/queries_200.jsonl")).unwrap();
    let query = |line: &str| {
        let query: Value = serde_json::from_str(line).unwrap();
        let encoded = text(&query["embedding_b64"]);
        let bytes = BASE64_STANDARD.decode(encoded).unwrap();
        let components = bytes.as_chunks::<4>().0.iter();
        components.map(|bytes| f32::from_le_bytes(*bytes)).collect()
    };
    let queries: Vec<Vec<f32>> = file.lines().map(query).collect();
    assert_eq!(queries.len(), 200);
    queries
}

/// A second service that has nothing but the repository of the first, which is gone.
async fn on_another_machine(mut lost: Service) -> (Service, tempfile::TempDir) {
    lost.stop().await;
    let home = tempfile::tempdir().unwrap();
    let kept = home.path().join("repository");
    std::fs::rename(lost.repository_dir(), &kept).unwrap();
    drop(lost);
    let url = kept.display().to_string();
    let fresh = Service::with(|config| config.repository.url = url).await;
    assert!(fresh.names().await.is_empty());
    (fresh, home)
}

#[tokio::test(flavor = "multi_thread")]
async fn generated_records_of_every_dimension_come_back_to_the_bit() {
    let service = Service::start().await;
    let mut known = Vec::new();
    for (dimension, space) in DIMENSIONS
        .into_iter()
        .zip(["l2", "cosine", "ip"].into_iter().cycle())
    {
        known.push(make_generated(&service, dimension, space).await);
    }
    // In two steps: what comes back is in layers.
    service.backup(json!({})).await;
    let again = service.open("generated-17").await;
    let mut changed = generated(17)[3..9].to_vec();
    for record in &mut changed {
        record.embedding[16] = 7.5;
    }
    let gone = generated(17)[30].id.clone();
    again.upsert(&changed).await;
    again.delete(json!({"ids": [gone]})).await;
    let at = known
        .iter()
        .position(|known| known.name == "generated-17")
        .unwrap();
    let (records, queries) = (again.records().await, known[at].queries.clone());
    known[at] = Known::of(&again, queries, digest(&records)).await;
    let backup = service.backup(json!({})).await;
    assert_eq!(backup["kind"], "incremental");

    let (mut fresh, _home) = on_another_machine(service).await;
    let result = restored(&fresh, json!({"backup": "latest"})).await;
    assert_eq!(result["backup"], backup["id"]);
    assert_eq!(result["collections"].as_array().unwrap().len(), known.len());
    for known in &known {
        known.assert_back(&fresh, &result).await;
    }
    fresh.restart().await;
    for known in &known {
        known.assert_same(&fresh).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the shared test data; .ci/run has it"]
async fn real_records_come_back_and_200_queries_are_answered_as_before() {
    let service = Service::start().await;
    let body = json!({"name": "words", "configuration": {"hnsw": {"space": "cosine"}}});
    let words = service.create_in(DEFAULT_NAMESPACE, body).await;
    let ids = load_20k(&words).await;
    let backup = service.backup(json!({})).await;
    let digest = text(&backup["collections"][0]["digest"]);
    let known = Known::of(&words, queries_200(), digest).await;
    assert_eq!(known.ids, ids);

    let (fresh, _home) = on_another_machine(service).await;
    let result = restored(&fresh, json!({"backup": "latest"})).await;
    known.assert_back(&fresh, &result).await;
    let again = fresh.backup(json!({})).await;
    assert_eq!(again["collections"][0]["digest"], known.digest);
}
