//! What a browser may do that shows a page of another site, with keys and without.

use serde_json::{Value, json};
use vectorkeep::access::Role;

use super::made;
use crate::harness::{Http, Service};

#[tokio::test(flavor = "multi_thread")]
async fn without_keys_everything_is_open_and_cors_is_off_unless_configured() {
    let service = Service::start().await;
    let job = service.post("/backups?wait=true", json!({})).await.ok(201);
    assert_eq!(job["requested_by"], "anonymous");
    let listed = service.get("/keys").await.ok(200);
    assert_eq!(
        listed,
        json!({"required": false, "keys": [], "stale": null})
    );
    let preflight = |service: &Service| {
        service
            .request("OPTIONS", "/backups")
            .header("origin", "https://ours.example")
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "authorization")
    };
    let answer = Http::try_send(preflight(&service)).await.unwrap();
    assert_eq!(answer.header("access-control-allow-origin"), None);

    // With keys a browser's question before the request needs none.
    let key = made("k", Role::Reader, None, None);
    let keys: Value = toml_keys(&key.entry);
    let service = Service::with(|config| {
        config.server.cors_allow_origins = vec!["https://ours.example".to_owned()];
        config.access.keys = serde_json::from_value(keys).unwrap();
    })
    .await;
    let answer = Http::try_send(preflight(&service))
        .await
        .unwrap()
        .expect(200);
    assert_eq!(
        answer.header("access-control-allow-origin"),
        Some("https://ours.example")
    );
    let allowed = answer.header("access-control-allow-headers");
    assert_eq!(allowed, Some("authorization"));
    service.get("/api/v2/heartbeat").await.expect(401);
    let request = service
        .request("GET", "/api/v2/heartbeat")
        .bearer_auth(&key.secret);
    Http::try_send(request).await.unwrap().expect(200);
}

/// A page of another site may change nothing, whatever the browser sends along; one that is allowed may.
#[tokio::test(flavor = "multi_thread")]
async fn other_sites_change_nothing() {
    let service = Service::with(|config| {
        config.server.cors_allow_origins = vec!["https://ours.example".to_owned()];
    })
    .await;
    for (method, path, site, origin, status) in [
        (
            "POST",
            "/backups",
            "cross-site",
            "https://evil.example",
            403,
        ),
        (
            "POST",
            "/api/v2/reset",
            "same-site",
            "https://evil.example",
            403,
        ),
        (
            "POST",
            "/backups",
            "cross-site",
            "https://ours.example",
            202,
        ),
        ("POST", "/backups", "same-origin", "http://127.0.0.1", 202),
        ("GET", "/backups", "cross-site", "https://evil.example", 200),
    ] {
        let request = service
            .request(method, path)
            .header("sec-fetch-site", site)
            .header("origin", origin);
        let answer = Http::try_send(request).await.unwrap();
        assert_eq!(
            answer.status,
            status,
            "{method} {path} {site} {origin}: {}",
            answer.text()
        );
    }
}

/// A printed table of a key, as the configuration has it.
fn toml_keys(entry: &str) -> Value {
    let pairs = entry.lines().filter_map(|line| line.split_once(" = "));
    let key: serde_json::Map<String, Value> = pairs
        .map(|(name, value)| (name.to_owned(), serde_json::from_str(value).unwrap()))
        .collect();
    json!([key])
}
