//! What a key that may only read gets from the route that makes collections.

use serde_json::json;

use super::Guarded;
use crate::harness::DEFAULT_NAMESPACE;

/// Clients open collections by `get_or_create`, also those that only read.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_gets_what_exists_by_get_or_create_and_makes_nothing() {
    let guarded = Guarded::start().await;
    let path = format!("{DEFAULT_NAMESPACE}/collections");
    let body = json!({"name": "words", "metadata": {"lang": "en"}});
    let made = guarded.post("writer", &path, body).await.ok(200);
    let asked = json!({"name": "words", "metadata": {"lang": "de"}, "get_or_create": true});
    let got = guarded.post("reader", &path, asked).await.ok(200);
    assert_eq!(got, made, "unchanged");
    for body in [
        json!({"name": "words"}),
        json!({"name": "words", "get_or_create": false}),
        json!({"name": "others", "get_or_create": true}),
        json!({"name": "others"}),
        json!({"name": "words", "metadata": {}, "get_or_create": true}),
        json!({"nothing": 1}),
    ] {
        let refused = guarded.post("reader", &path, body.clone()).await.ok(403);
        assert_eq!(refused["error"], "AuthorizationError", "{body}");
    }
    let listed = guarded.get("reader", &path).await.ok(200);
    assert_eq!(listed, json!([made]));
}
