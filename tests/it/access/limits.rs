//! Bounds on what one request may ask for: each has its answer, and nothing is changed.

use serde_json::{Value, json};
use vectorkeep::config::Config;

use crate::harness::{Service, numbered, text};

#[tokio::test(flavor = "multi_thread")]
async fn each_bound_is_named_in_its_refusal() {
    type Adjust = fn(&mut Config);
    let ids = |count: usize| -> Vec<String> { (0..count).map(|at| format!("n{at}")).collect() };
    let vectors = |count: usize| -> Vec<Vec<f32>> { vec![vec![1.0; 8]; count] };
    let write = |count| json!({"ids": ids(count), "embeddings": vectors(count)});
    let mut deep = json!({"word": "x"});
    for _ in 0..6 {
        deep = json!({"$and": [deep, {"word": "y"}]});
    }
    let many: Vec<Value> = (0..20).map(|at| json!({"word": at.to_string()})).collect();
    let cases: Vec<(&str, Adjust, &str, Value, u16)> = vec![
        (
            "query.max_batch_records",
            |c| c.query.max_batch_records = 9,
            "add",
            write(10),
            413,
        ),
        (
            "query.max_batch_records",
            |c| c.query.max_batch_records = 9,
            "upsert",
            write(10),
            413,
        ),
        (
            "query.max_batch_records",
            |c| c.query.max_batch_records = 9,
            "update",
            write(10),
            413,
        ),
        (
            "query.max_ids",
            |c| c.query.max_ids = 9,
            "get",
            json!({"ids": ids(10)}),
            413,
        ),
        (
            "query.max_ids",
            |c| c.query.max_ids = 9,
            "delete",
            json!({"ids": ids(10)}),
            413,
        ),
        (
            "query.max_ids",
            |c| c.query.max_ids = 9,
            "query",
            json!({"ids": ids(10), "query_embeddings": vectors(1)}),
            413,
        ),
        (
            "query.max_results",
            |c| c.query.max_results = 8,
            "query",
            json!({"query_embeddings": vectors(1), "n_results": 10}),
            413,
        ),
        (
            "query.max_query_vectors",
            |c| c.query.max_query_vectors = 2,
            "query",
            json!({"query_embeddings": vectors(3)}),
            413,
        ),
        (
            "levels",
            |c| c.query.max_filter_depth = 4,
            "get",
            json!({"where": deep}),
            400,
        ),
        (
            "conditions",
            |c| c.query.max_filter_nodes = 5,
            "get",
            json!({"where": {"$or": many}}),
            400,
        ),
        (
            "regex",
            |c| c.query.max_regex_bytes = 200,
            "get",
            json!({"where_document": {"$regex": "(a|b|c|d){1,200}x"}}),
            400,
        ),
    ];
    for (named, adjust, verb, body, status) in cases {
        let service = Service::with(adjust).await;
        let words = service.create("words").await;
        words.add(&numbered("w", 9)).await;
        let before = words.records().await;
        let answer = words.post(verb, body).await;
        assert_eq!(answer.status, status, "{named} {verb}: {}", answer.text());
        let message = text(&answer.json()["message"]).to_lowercase();
        assert!(message.contains(named), "{verb}: {message}");
        assert_eq!(words.records().await, before, "{named} {verb}");
    }
}

/// At the bound itself everything is taken.
#[tokio::test(flavor = "multi_thread")]
async fn a_bound_can_be_reached() {
    let service = Service::with(|config| {
        config.query.max_batch_records = 9;
        config.query.max_ids = 9;
        config.query.max_results = 9;
    })
    .await;
    let words = service.create("words").await;
    words.add(&numbered("w", 9)).await;
    let ids: Vec<String> = words
        .records()
        .await
        .into_iter()
        .map(|record| record.id)
        .collect();
    let found = words.post("get", json!({"ids": ids})).await.ok(200);
    assert_eq!(found["ids"].as_array().unwrap().len(), 9);
    let query = json!({"query_embeddings": [vec![1.0; 8]], "n_results": 9});
    let found = words.post("query", query).await.ok(200);
    assert_eq!(found["ids"][0].as_array().unwrap().len(), 9);
    let deleted = words.post("delete", json!({"ids": ids})).await.ok(200);
    assert_eq!(deleted["deleted"], 9);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_answer_is_refused_and_comes_in_parts() {
    let service = Service::with(|config| config.query.max_answer_bytes = 500).await;
    let words = service.create("words").await;
    words.add(&numbered("w", 30)).await;
    let include = json!(["embeddings", "documents", "metadatas"]);
    let refused = words.post("get", json!({"include": include})).await.ok(413);
    assert!(text(&refused["message"]).contains("query.max_answer_bytes"));
    let query = json!({"query_embeddings": [vec![1.0; 8]], "n_results": 30});
    let refused = words.post("query", query).await.ok(413);
    assert!(text(&refused["message"]).contains("query.max_answer_bytes"));
    let query = json!({"query_embeddings": [vec![1.0; 8]], "n_results": 1});
    words.post("query", query).await.expect(200);
    let mut ids = Vec::new();
    for offset in 0..30 {
        let part = json!({"include": include, "limit": 1, "offset": offset});
        let part = words.post("get", part).await.ok(200);
        ids.push(text(&part["ids"][0]));
    }
    ids.dedup();
    assert_eq!(ids.len(), 30);
}
