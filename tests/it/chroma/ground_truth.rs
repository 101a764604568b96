//! Exact search on real data: 20,000 records and 200 queries whose nearest are known.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::create_in_space;
use crate::harness::{
    Collection, Service, digest, distance, load_20k, shared, strings, text, wordnet_50,
};

const SPACES: [&str; 3] = ["l2", "cosine", "ip"];

/// The records of the shared file have norm 1, where inner product and cosine cannot be told apart.
#[tokio::test(flavor = "multi_thread")]
async fn scaled_vectors_tell_the_spaces_apart() {
    let service = Service::start().await;
    let mut records = wordnet_50();
    for (at, record) in records.iter_mut().enumerate() {
        let factor = [0.25, 3.0, -2.0, 10.0, 1.0][at % 5];
        record
            .embedding
            .iter_mut()
            .for_each(|component| *component *= factor);
    }
    records[49].embedding.fill(0.0);
    for space in SPACES {
        let collection = create_in_space(&service, &format!("space-{space}"), space).await;
        collection.add(&records).await;
        let queries: Vec<_> = records
            .iter()
            .step_by(7)
            .map(|record| record.embedding.clone())
            .collect();
        let found = collection
            .nearest(json!({"query_embeddings": queries, "n_results": 20}))
            .await;
        assert_eq!(found.len(), queries.len());
        for (query, found) in queries.iter().zip(found) {
            let mut expected: Vec<_> = records
                .iter()
                .map(|r| (&r.id, distance(space, query, &r.embedding)))
                .collect();
            expected.sort_by(|a, b| a.1.total_cmp(&b.1));
            assert_eq!(found.len(), 20);
            for ((id, found), (expected_id, expected)) in found.iter().zip(expected) {
                assert!(
                    (found - expected).abs() <= 1e-5 * expected.abs().max(1.0),
                    "{space} {id}: {found} {expected}"
                );
                assert!(
                    id == expected_id || (found - expected).abs() < 1e-6,
                    "{space}: {id} for {expected_id}"
                );
            }
        }
    }
}

struct GroundTruth {
    queries: Vec<Value>,
    vectors: Vec<Vec<f32>>,
}

fn ground_truth() -> GroundTruth {
    let file = std::fs::read_to_string(shared("data/queries_200.jsonl")).unwrap();
    let queries: Vec<Value> = file
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let decode = |query: &Value| {
        let bytes = BASE64_STANDARD
            .decode(text(&query["embedding_b64"]))
            .unwrap();
        bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|chunk| f32::from_le_bytes(*chunk))
            .collect()
    };
    let vectors = queries.iter().map(decode).collect();
    assert_eq!(queries.len(), 200);
    GroundTruth { queries, vectors }
}

fn assert_nearest(query: &Value, list: &str, found: &[(String, f64)]) {
    let ids: Vec<_> = found.iter().map(|(id, _)| id.clone()).collect();
    assert_eq!(ids, strings(&query[list]), "{list} of {}", query["text"]);
    let truth = query[format!("{list}_distance")].as_array().unwrap();
    for ((id, found), truth) in found.iter().zip(truth) {
        let truth = truth.as_f64().unwrap();
        assert!(
            (found - truth).abs() <= 1e-5,
            "{list}, {id} of {}: {found}, truth {truth}",
            query["text"]
        );
    }
}

async fn check_200_queries(collection: &Collection, space: &str, truth: &GroundTruth) {
    for (queries, vectors) in truth.queries.chunks(50).zip(truth.vectors.chunks(50)) {
        let found = collection
            .nearest(json!({"query_embeddings": vectors, "n_results": 10}))
            .await;
        assert_eq!(found.len(), queries.len());
        for (query, found) in queries.iter().zip(&found) {
            assert_nearest(query, &format!("top10_{space}"), found);
        }
    }
}

async fn check_filtered_lists(collection: &Collection, truth: &GroundTruth) {
    let mut by_category: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (at, query) in truth.queries.iter().enumerate() {
        by_category
            .entry(text(&query["filter_category"]))
            .or_default()
            .push(at);
    }
    for (category, members) in by_category {
        let vectors: Vec<_> = members.iter().map(|at| &truth.vectors[*at]).collect();
        let body = json!({"query_embeddings": vectors, "where": {"category": category}});
        let found = collection.nearest(body).await;
        assert_eq!(found.len(), members.len());
        for (at, found) in members.iter().zip(&found) {
            assert_nearest(&truth.queries[*at], "top10_cosine_filtered", found);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the shared test data; .ci/run has it"]
async fn the_200_queries_match_the_ground_truth_in_l2() {
    let (service, truth) = (Service::start().await, ground_truth());
    let collection = create_in_space(&service, "words", "l2").await;
    load_20k(&collection).await;
    check_200_queries(&collection, "l2", &truth).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the shared test data; .ci/run has it"]
async fn the_200_queries_match_the_ground_truth_in_ip_and_in_a_restored_copy() {
    let (service, truth) = (Service::start().await, ground_truth());
    let collection = create_in_space(&service, "words", "ip").await;
    load_20k(&collection).await;
    check_200_queries(&collection, "ip", &truth).await;
    let backup = service.backup(json!({})).await;
    assert_eq!(backup["records"], 20_000);
    let job = service
        .post(
            "/restore?wait=true",
            json!({"backup": "latest", "on_conflict": "rename"}),
        )
        .await
        .ok(200);
    assert_eq!(
        job["result"]["collections"][0]["digest"],
        backup["collections"][0]["digest"]
    );
    let copy = service.open("words-restored-1").await;
    check_200_queries(&copy, "ip", &truth).await;
    assert_eq!(
        digest(&copy.records().await),
        text(&backup["collections"][0]["digest"])
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the shared test data; .ci/run has it"]
async fn the_200_queries_match_the_ground_truth_in_cosine_filtered_and_after_a_restart() {
    let (mut service, truth) = (Service::start().await, ground_truth());
    let collection = create_in_space(&service, "words", "cosine").await;
    load_20k(&collection).await;
    check_filtered_lists(&collection, &truth).await;
    check_200_queries(&collection, "cosine", &truth).await;
    let before = collection.records().await;
    service.restart().await;
    let collection = collection.at(&service);
    check_200_queries(&collection, "cosine", &truth).await;
    assert_eq!(digest(&collection.records().await), digest(&before));
}
