//! What Chroma's own suites ask for at the edges: more neighbours than there are, ids that are not there, databases of
//! tenants that are not there yet, and batches of the announced size.

use serde_json::json;

use crate::harness::{Service, numbered};

#[tokio::test(flavor = "multi_thread")]
async fn more_neighbours_than_there_are_is_all_there_are() {
    let service = Service::with(|config| config.query.max_results = 4).await;
    let words = service.create("words").await;
    let records = numbered("w", 4);
    words.add(&records).await;
    for n_results in [4, 5, 100, 1_000_000, 4_000_000_000_u32] {
        let body = json!({"query_embeddings": [records[0].embedding], "n_results": n_results});
        assert_eq!(words.nearest(body).await[0].len(), 4, "{n_results}");
    }
    words.add(&numbered("more", 1)).await;
    let body = json!({"query_embeddings": [records[0].embedding], "n_results": 100});
    let refused = words.post("query", body).await.ok(413);
    assert!(
        refused["message"]
            .as_str()
            .unwrap()
            .contains("query.max_results"),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_among_unknown_ids_is_an_error_that_names_them() {
    let service = Service::start().await;
    let words = service.create("words").await;
    let records = numbered("w", 4);
    words.add(&records).await;
    let vector = &records[0].embedding;
    let ask = async |more: serde_json::Value| {
        let mut body = json!({"query_embeddings": [vector]});
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        words.post("query", body).await
    };
    let refused = ask(json!({"ids": ["w-00001", "nobody", "w-00001"]}))
        .await
        .ok(404);
    assert_eq!(refused["error"], "NotFoundError");
    let message = refused["message"].as_str().unwrap();
    assert!(
        message.contains("Error finding id") && message.contains("\"nobody\""),
        "{message}"
    );
    // With a filter they are passed over, and known ones may stand twice.
    let found = ask(json!({"ids": ["w-00001", "nobody"], "where": {"n": {"$gte": 0}}})).await;
    found.expect(200);
    let found = ask(json!({"ids": ["w-00001", "w-00001", "w-00002"]}))
        .await
        .ok(200);
    assert_eq!(found["ids"][0].as_array().unwrap().len(), 2);
    assert_eq!(ask(json!({"ids": []})).await.ok(200)["ids"], json!([[]]));
    // Nothing to search in is no error.
    let empty = service.create("empty").await;
    let body = json!({"query_embeddings": [[1, 2]], "ids": ["nobody"]});
    assert_eq!(empty.post("query", body).await.ok(200)["ids"], json!([[]]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_a_tenant_that_is_not_there_makes_the_tenant() {
    let mut service = Service::start().await;
    let databases = "/api/v2/tenants/acme/databases";
    service.get(databases).await.expect(404);
    service.get("/api/v2/tenants/acme").await.expect(404);
    service
        .post(databases, json!({"name": "prod"}))
        .await
        .expect(200);
    for _ in 0..2 {
        let tenant = service.get("/api/v2/tenants/acme").await.ok(200);
        assert_eq!(tenant, json!({"name": "acme", "resource_name": null}));
        let listed = service.get(databases).await.ok(200);
        assert_eq!(listed[0]["name"], "prod");
        service.restart().await;
    }
    service
        .post(databases, json!({"name": "prod"}))
        .await
        .expect(409);
    service
        .post("/api/v2/tenants", json!({"name": "acme"}))
        .await
        .expect(409);
    // A name that no tenant can have makes neither.
    service
        .post("/api/v2/tenants/x/databases", json!({"name": "prod"}))
        .await
        .expect(400);
    service.get("/api/v2/tenants/x").await.expect(404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_the_announced_size_fits_and_grows_with_the_body() {
    for (max_body_bytes, expected) in [(41_943_040, 5_461), (83_886_080, 10_922), (1_000, 1)] {
        let service = Service::with(|config| {
            config.server.max_body_bytes = max_body_bytes;
            config.server.max_receiving_bytes = 536_870_912;
        })
        .await;
        let checks = service.get("/api/v2/pre-flight-checks").await.ok(200);
        assert_eq!(checks["max_batch_size"], expected, "{max_body_bytes}");
        if max_body_bytes != 41_943_040 {
            continue;
        }
        let words = service.create("words").await;
        // 1,024 dimensions in base64, and a text of 2,000 bytes with its id.
        let embedding = "AACAPwAAgD8AAIA/".repeat(341) + "AACAPw==";
        let ids: Vec<String> = (0..expected).map(|number| format!("id-{number}")).collect();
        let body = json!({"embeddings": vec![&embedding; ids.len()], "documents": vec!["x".repeat(2_000); ids.len()], "ids": ids});
        words.post("add", body).await.expect(201);
        assert_eq!(words.count().await, 5_461);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_offered_is_501_and_carries_a_trace_id() {
    let service = Service::start().await;
    let words = service.create("words").await;
    words.add(&numbered("w", 1)).await;
    let answer = words
        .post("search", json!({"searches": []}))
        .await
        .expect(501);
    assert!(!answer.header("chroma-trace-id").unwrap().is_empty());
}
