//! What is too much gets a clear answer and harms nobody: deep and wide filters, giant expressions,
//! very many ids, clients that do not finish what they begin.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::{BOUND, Service, numbered};

/// A filter of that many levels.
fn nested(levels: usize) -> Value {
    (1..levels).fold(
        json!({"n": 1}),
        |inner, _| json!({"$and": [inner, {"n": 1}]}),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_beyond_their_bounds_are_refused_and_below_them_answered() {
    let service = Service::with(|config| {
        config.query.max_filter_depth = 20;
        config.query.max_filter_nodes = 500;
        config.query.max_regex_bytes = 50_000;
    })
    .await;
    let words = service.create("words").await;
    words.add(&numbered("w", 30)).await;
    let wide = |conditions: i64| {
        let all: Vec<Value> = (0..conditions).map(|n| json!({"n": n})).collect();
        json!({ "$or": all })
    };
    let regex = |pattern: &str| json!({"where_document": {"$regex": pattern}});
    let deep_text = format!("{}1{}", "{\"$and\":[".repeat(5_000), "]}".repeat(5_000));
    for (body, status, named) in [
        (json!({"where": nested(10)}), 200, ""),
        (json!({"where": nested(40)}), 400, "max_filter_depth"),
        (json!({"where": wide(400)}), 200, ""),
        (json!({"where": wide(600)}), 400, "max_filter_nodes"),
        (regex("w.*[0-9]{2}"), 200, ""),
        (regex("((a{100}){100}){100}"), 400, "max_regex_bytes"),
        (regex(&"(ab|cd)?".repeat(20_000)), 400, "max_regex_bytes"),
        (regex("("), 400, ""),
    ] {
        for verb in ["get", "delete", "query"] {
            let mut body = body.clone();
            if verb == "query" {
                let dimension = numbered("w", 1)[0].embedding.len();
                body["query_embeddings"] = json!([vec![0.5; dimension]]);
            }
            if status == 200 && verb == "delete" {
                continue;
            }
            let answer = words.post(verb, body).await;
            assert_eq!(answer.status, status, "{verb}: {}", answer.text());
            assert!(
                answer.text().contains(named),
                "{verb}: {named} in {}",
                answer.text()
            );
        }
    }
    let deep = service
        .request("POST", &words.path("get"))
        .header("content-type", "application/json")
        .body(format!("{{\"where\":{deep_text}}}"));
    let deep = crate::harness::Http::try_send(deep).await.unwrap();
    assert_eq!(deep.status, 400, "{}", deep.text());
    assert_eq!(words.count().await, 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_million_ids_are_looked_up_and_the_known_ones_found() {
    let service = Service::start().await;
    let words = service.create("words").await;
    words.add(&numbered("w", 30)).await;
    let mut ids: Vec<String> = (0..1_000_000).map(|n| format!("x{n}")).collect();
    ids[123_456] = numbered("w", 30)[17].id.clone();
    assert_eq!(
        words.ids(json!({ "ids": ids })).await,
        [ids[123_456].clone()]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_do_not_finish_are_ended_and_harm_nobody() {
    let service = Service::with(|config| {
        config.server.body_timeout_ms = 1_500;
        config.server.max_concurrent_requests = 4;
    })
    .await;
    let words = service.create("words").await;
    words.add(&numbered("w", 30)).await;
    let address = service.base.trim_start_matches("http://").to_owned();
    let head = format!(
        "POST {} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n",
        words.path("get")
    );
    let mut slow = Vec::new();
    for _ in 0..40 {
        let mut connection = TcpStream::connect(&address).await.unwrap();
        connection.write_all(head.as_bytes()).await.unwrap();
        connection.write_all(b"{\"ids\":[").await.unwrap();
        slow.push(connection);
    }
    // They take no place: others are served meanwhile.
    for _ in 0..10 {
        assert_eq!(words.count().await, 30);
    }
    service.get("/health/live").await.expect(200);
    for mut connection in slow {
        let mut answer = [0; 64];
        let read = tokio::time::timeout(BOUND, connection.read(&mut answer)).await;
        let read = read.expect("a slow client waits for ever").unwrap_or(0);
        let answer = String::from_utf8_lossy(&answer[..read]);
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 408"),
            "{answer}"
        );
    }
    assert_eq!(words.count().await, 30);
}
